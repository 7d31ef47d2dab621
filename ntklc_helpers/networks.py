"""Random fully connected networks, and their kernels at finite width."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .activations import AnyActivation
from .moments import gaussian_moments
from .ternary import draw_ternary
from .validation import positive, positive_integer, sample_matrix, seed_number, sparsity_below_one

FloatArray = NDArray[np.float64]

WEIGHT_LAWS = ("gaussian", "student_t", "rademacher", "ternary")


@dataclass(frozen=True, eq=False)
class RandomMLP:
    """h_ℓ = (σ_ℓ(W_ℓ h_{ℓ−1}) − m_ℓ)/√d_ℓ, h_0 = x, with i.i.d. weights of mean 0, variance 1.

    Every layer is centred by the constant m_ℓ = E σ_ℓ(τ_{ℓ−1} ξ) of the limit. Weights depend on
    the seed and the layer alone: neither on the data, nor on device, precision or batch.

    Parameters
    ----------
    p : int
        Dimension of the input.
    widths : sequence of int
        d_1 … d_L.
    activations : sequence of Activation or Quantized
        σ_1 … σ_L.
    tau0 : float
        Scale of the input, τ_0² = E‖x‖²; from it follow the constants m_ℓ.
    weights : str
        ``"gaussian"``; ``"student_t"``, scaled to variance 1; ``"rademacher"``, ±1;
        ``"ternary"``: 0 with probability ``sparsity``, else ±(1 − sparsity)^(−½).
    sparsity : float
        ε in [0, 1), for ternary weights only.
    degrees_of_freedom : float
        Of Student's t, above 2; the fourth moment is finite above 4.
    seed : int
    device : torch.device or str, optional
        CUDA where there is one, by default.
    dtype : torch.dtype
        Of weights and features.

    Raises
    ------
    ValueError
        If a number is out of its range, the law is unknown, or widths and activations do not fit.
    """

    p: int
    widths: Sequence[int]
    activations: Sequence[AnyActivation]
    tau0: float = 1.0
    weights: str = "gaussian"
    sparsity: float = 0.0
    degrees_of_freedom: float = 5.0
    seed: int = 0
    device: torch.device | str | None = None
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        positive_integer("p", self.p)
        positive("tau0", self.tau0)
        widths = tuple(positive_integer("widths", width) for width in self.widths)
        activations = tuple(self.activations)
        if not widths or len(widths) != len(activations):
            raise ValueError(
                "widths and activations must have one entry a layer, at least one; "
                f"got {len(widths)} widths and {len(activations)} activations"
            )
        if self.weights not in WEIGHT_LAWS:
            raise ValueError(f"unknown weights {self.weights!r}; known: {', '.join(WEIGHT_LAWS)}")
        sparsity_below_one(self.sparsity)
        if self.sparsity and self.weights != "ternary":
            raise ValueError(f"sparsity belongs to ternary weights, got weights={self.weights!r}")
        if not self.degrees_of_freedom > 2:
            raise ValueError(
                "degrees_of_freedom must be above 2 for weights to have a variance, "
                f"got {self.degrees_of_freedom!r}"
            )
        seed_number(self.seed)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "activations", activations)
        object.__setattr__(self, "device", torch.device(device))

    @cached_property
    def matrices(self) -> tuple[torch.Tensor, ...]:
        """W_1 … W_L, W_ℓ of shape (d_ℓ, d_{ℓ−1})."""
        shapes = zip(self.widths, (self.p, *self.widths), strict=False)
        return tuple(
            torch.from_numpy(self._draw(layer, shape)).to(self.device, self.dtype)
            for layer, shape in enumerate(shapes, start=1)
        )

    @cached_property
    def readout(self) -> torch.Tensor:
        """Standard Gaussian weights (d_L,) of the scalar output f(x) = wᵀh_L."""
        return torch.from_numpy(self._draw_readout()).to(self.device, self.dtype)

    @property
    def variances(self) -> tuple[float, ...]:
        """Variance of the weights of W_1 … W_L."""
        return (1.0,) * len(self.widths)

    @cached_property
    def centres(self) -> tuple[float, ...]:
        """m_1 … m_L."""
        tau, means = float(self.tau0), []
        for activation, variance in zip(self.activations, self.variances, strict=True):
            moments = gaussian_moments(activation, tau * variance**0.5)
            means.append(moments.mean)
            tau = float(np.sqrt(moments.variance))
        return tuple(means)

    def _draw(self, layer: int, shape: tuple[int, int]) -> NDArray[np.floating]:
        rng = np.random.default_rng([self.seed, layer])
        if self.weights == "gaussian":
            return rng.standard_normal(shape, dtype=np.float32)
        if self.weights == "student_t":
            df = self.degrees_of_freedom
            return rng.standard_t(df, shape) * np.sqrt((df - 2) / df)
        signs = draw_ternary(shape, self.sparsity, self.seed, layer)
        return signs * np.float64((1 - self.sparsity) ** -0.5)

    def _draw_readout(self) -> NDArray[np.floating]:
        rng = np.random.default_rng([self.seed, len(self.widths) + 1])
        return rng.standard_normal(self.widths[-1])

    def inputs(self, X: ArrayLike | torch.Tensor) -> torch.Tensor:
        """X as a tensor (n, p) on the network's device, checked."""
        X = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
        X = sample_matrix("X", X)
        if X.shape[1] != self.p:
            raise ValueError(f"X must have p={self.p} columns, got shape {X.shape}")
        return torch.from_numpy(X).to(self.device, self.dtype)

    def layers(self, h: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pre-activations W_ℓ h_{ℓ−1} and activations h_ℓ of each layer, for inputs (n, p)."""
        for W, activation, centre in zip(
            self.matrices, self.activations, self.centres, strict=True
        ):
            u = h @ W.T
            h = (activation(u) - centre) / len(W) ** 0.5
            yield u, h

    def gradient_gram(self, layer: int, b: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Inner products (n, n) of the gradients b_i h_iᵀ in W_ℓ, ℓ = ``layer``; L + 1 is wᵀ.

        b is (n, d_ℓ), h is (n, d_{ℓ−1}): (b bᵀ) ∘ (h hᵀ), so that no gradient is ever formed.
        """
        return (b @ b.T) * (h @ h.T)

    def features(self, X: ArrayLike | torch.Tensor, batch_size: int = 4096) -> torch.Tensor:
        """h_L, a tensor (n, d_L) on the network's device, for X of shape (n, p).

        Raises
        ------
        ValueError
            If X is not a matrix of finite numbers with p columns.
        """
        X = self.inputs(X)
        out = torch.empty(len(X), self.widths[-1], device=self.device, dtype=self.dtype)
        with torch.no_grad():
            for rows, target in zip(X.split(batch_size), out.split(batch_size), strict=True):
                target.copy_(deque(self.layers(rows), maxlen=1).pop()[1])
        return out


def empirical_ck(net: RandomMLP | Iterable[RandomMLP], X: ArrayLike | torch.Tensor) -> FloatArray:
    """Conjugate kernel h_L h_Lᵀ of a network, or its mean over several networks.

    Parameters
    ----------
    net : RandomMLP, or several of them
    X : (n, p) array

    Returns
    -------
    (n, n) float64 array
        Tends to ``limit_kernels(X, net.activations, tau0=net.tau0)[0]`` as the widths grow.
    """
    nets = _networks(net)
    total = torch.zeros((), dtype=torch.float64)
    for one in nets:
        h = one.features(X).double()
        total = total + h @ h.T
    return (total / len(nets)).cpu().numpy()


def empirical_ntk(net: RandomMLP | Iterable[RandomMLP], X: ArrayLike | torch.Tensor) -> FloatArray:
    """Neural tangent kernel of f(x) = wᵀh_L(x), or its mean over several networks.

    Parameters
    ----------
    net : RandomMLP, or several of them
    X : (n, p) array

    Returns
    -------
    (n, n) float64 array
        Inner products of the gradients of f in all weights, w and W_1 … W_L. Tends to
        ``limit_kernels(X, net.activations, tau0=net.tau0)[1]`` as the widths grow.

    Raises
    ------
    ValueError
        If an activation has a jump: its derivative is a point mass that no gradient sees, and the
        kernel's diagonal is infinite.

    Notes
    -----
    The gradient in W_ℓ is b_ℓ h_{ℓ−1}ᵀ with b_ℓ = ∂f/∂(W_ℓ h_{ℓ−1}), so
    N = h_L h_Lᵀ + Σ_ℓ (b_ℓ b_ℓᵀ) ∘ (h_{ℓ−1} h_{ℓ−1}ᵀ): products of n × d_ℓ matrices, no Jacobian.
    """
    nets = _networks(net)
    return reduce(np.add, (_one_ntk(one, X) for one in nets)) / len(nets)


def _networks(net: RandomMLP | Iterable[RandomMLP]) -> list[RandomMLP]:
    nets = [net] if isinstance(net, RandomMLP) else list(net)
    if not nets:
        raise ValueError("net must be a network, or at least one of them")
    return nets


def _one_ntk(net: RandomMLP, X: ArrayLike | torch.Tensor) -> FloatArray:
    if jumping := [a.name for a in net.activations if a.has_jump]:
        raise ValueError(
            f"activations {jumping} have a jump, for which E[σ'²] is infinite: the neural tangent "
            "kernel has no finite diagonal"
        )
    with torch.no_grad():
        h = [net.inputs(X)]
        u = []
        for pre, post in net.layers(h[0]):
            u.append(pre)
            h.append(post)
        N = net.gradient_gram(len(u) + 1, torch.ones_like(h[-1][:, :1]), h[-1]).double()
        back = net.readout.expand_as(h[-1])
        for layer in reversed(range(len(u))):
            b = back * net.activations[layer].derivative(u[layer]) / net.widths[layer] ** 0.5
            N += net.gradient_gram(layer + 1, b, h[layer])
            if layer:
                back = b @ net.matrices[layer]
    return N.cpu().numpy()
