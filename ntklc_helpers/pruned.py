"""Random networks, pruned: at random, with their kernels and the limits of these; by magnitude.

At random, each weight is kept with probability α, independently of everything else. What is trained
are the kept weights, so the gradient in a matrix W is that of the dense network on its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.utils import prune

from .activations import Activation, AnyActivation, Quantized
from .kernels import limit_kernels
from .moments import gaussian_moments
from .networks import RandomMLP
from .validation import finite_array, positive, sample_matrix

FloatArray = NDArray[np.float64]

# Pairs of samples worked on at once, times neurons: 64 MiB in single precision.
_CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class PrunedMLP(RandomMLP):
    """A :class:`RandomMLP` whose weights are kept with probability α, and set to zero otherwise.

    The dense network with the same seed has the same weights before pruning, and what is kept at
    some α is also kept at every larger one.

    Parameters
    ----------
    p, widths, activations, tau0, weights, sparsity, degrees_of_freedom, seed, device, dtype
        As in :class:`RandomMLP`: the dense network.
    keep : float, or sequence of L + 1 floats
        α in (0, 1] of W_1 … W_L and of the readout w; one number for all of them. A matrix with
        α = 1 is not pruned.
    rescale : bool
        Whether the network uses α^(−½) m∘W in place of m∘W. Weights then have variance 1 again.
        The factor is part of the network, not of the parameter: a gradient in W carries it too.

    Raises
    ------
    ValueError
        As :class:`RandomMLP`, or if ``keep`` is out of (0, 1] or not of length 1 or L + 1.

    Notes
    -----
    With Gaussian weights and rescaling, a weight has mean 0, variance 1 and fourth moment 3/α;
    with ±1 it is ternary, of fourth moment 1/α. Layers are centred by the constants of the pruned
    network's own limit.
    """

    keep: float | Sequence[float] = 1.0
    rescale: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "keep", keep_probabilities(self.keep, len(self.widths)))

    @property
    def _shares(self) -> tuple[float, ...]:
        return keep_probabilities(self.keep, len(self.widths))

    @property
    def variances(self) -> tuple[float, ...]:
        """Variance of the weights of W_1 … W_L: 1 if rescaled, otherwise α."""
        return (1.0,) * len(self.widths) if self.rescale else self._shares[:-1]

    @cached_property
    def masks(self) -> tuple[torch.Tensor, ...]:
        """m_1 … m_{L+1}, of the shapes of W_1 … W_L and (1, d_L), true where a weight is kept."""
        shapes = zip((*self.widths, 1), (self.p, *self.widths), strict=True)
        return tuple(
            torch.from_numpy(self._draw_mask(layer, shape)).to(self.device)
            for layer, shape in enumerate(shapes, start=1)
        )

    def _draw_mask(self, layer: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
        rng = np.random.default_rng([self.seed, layer, 1])
        return rng.random(shape, dtype=np.float32) < self._shares[layer - 1]

    def _factor(self, layer: int) -> float:
        return self._shares[layer - 1] ** -0.5 if self.rescale else 1.0

    def _draw(self, layer: int, shape: tuple[int, int]) -> NDArray[np.floating]:
        dense = super()._draw(layer, shape)
        return dense * self._draw_mask(layer, shape) * dense.dtype.type(self._factor(layer))

    def _draw_readout(self) -> NDArray[np.floating]:
        last = len(self.widths) + 1
        mask = self._draw_mask(last, (1, self.widths[-1]))[0]
        return super()._draw_readout() * mask * self._factor(last)

    def gradient_gram(self, layer: int, b: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Inner products (n, n) of the gradients b_i h_iᵀ in the kept weights of W_ℓ.

        Entry (i, j) is Σ_{kl} m_kl (b_i∘b_j)_k (h_i∘h_j)_l, times 1/α if rescaled: exact, one
        product of a (pairs, d_ℓ) matrix with the mask, n²d_ℓd_{ℓ−1} operations in all.
        """
        if self._shares[layer - 1] == 1:
            return super().gradient_gram(layer, b, h)
        mask = self.masks[layer - 1].to(self.dtype)
        first, second = torch.triu_indices(len(h), len(h), device=self.device)
        values = torch.cat(
            [
                torch.einsum("ij,ij->i", (b[i] * b[j]) @ mask, h[i] * h[j])
                for i, j in _pairs(first, second, max(1, _CHUNK // max(mask.shape)))
            ]
        )
        gram = torch.empty(len(h), len(h), device=self.device, dtype=self.dtype)
        gram[first, second] = gram[second, first] = values * self._factor(layer) ** 2
        return gram


@dataclass(frozen=True, eq=False)
class MagnitudePrunedMLP(RandomMLP):
    """A :class:`RandomMLP` of which each layer keeps its largest weights, brought to variance 1.

    Parameters
    ----------
    p, widths, activations, tau0, weights, sparsity, degrees_of_freedom, seed, device, dtype
        As in :class:`RandomMLP`: the dense network.
    keep : float
        Share of each layer's weights that stay, in (0, 1].

    Raises
    ------
    ValueError
        As :class:`RandomMLP`, or if ``keep`` is out of (0, 1].
    """

    keep: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_probabilities(self.keep, len(self.widths))

    def _draw(self, layer: int, shape: tuple[int, int]) -> NDArray[np.floating]:
        dense = torch.from_numpy(super()._draw(layer, shape))
        cut = prune.L1Unstructured(amount=round((1 - self.keep) * dense.numel()))
        kept = dense * cut.compute_mask(dense, torch.ones_like(dense))
        return (kept / kept.square().mean().sqrt()).numpy()


def _pairs(first: torch.Tensor, second: torch.Tensor, size: int) -> zip:
    return zip(first.split(size), second.split(size), strict=True)


def keep_probabilities(keep: float | Sequence[float], n_layers: int) -> tuple[float, ...]:
    """α of W_1 … W_L and of the readout, as L + 1 floats in (0, 1]."""
    scalar = np.ndim(keep) == 0
    values = finite_array("keep", [keep] if scalar else keep, 1)
    if not scalar and len(values) != n_layers + 1:
        raise ValueError(
            "keep must be one number, or one for each hidden layer and one for the readout, "
            f"{n_layers + 1} in all; got {len(values)}"
        )
    if not ((values > 0) & (values <= 1)).all():
        raise ValueError(f"keep must be in (0, 1], got {keep!r}")
    return tuple(values.tolist()) * (n_layers + 1 if scalar else 1)


def pruned_limit_kernels(
    X: ArrayLike,
    activations: Sequence[AnyActivation],
    keep: float | Sequence[float],
    *,
    rescale: bool,
    tau0: float | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Limits of the kernels of :class:`PrunedMLP` as the widths grow, and p with them.

    Parameters
    ----------
    X : (n, p) array
    activations : sequence of Activation or Quantized
    keep : float, or sequence of L + 1 floats
        α of W_1 … W_L and of the readout.
    rescale : bool
        With rescaling the limits are those of the dense network.
    tau0 : float, optional
        As in :func:`~ntklc_helpers.kernels.limit_kernels`.

    Returns
    -------
    K, N : (n, n) float64 arrays
        Conjugate kernel h_L h_Lᵀ, and neural tangent kernel in the kept weights.

    Raises
    ------
    ValueError
        As :func:`~ntklc_helpers.kernels.limit_kernels`, or if ``keep`` is not as stated.

    Notes
    -----
    Without rescaling a neuron's input is √α times one of the dense network, and the gradients in
    its kept weights have α times the inner product. Both are what the dense network has with
    t ↦ σ(√α t) in place of σ, whatever σ: K_ℓ = E[σ(√α u)σ(√α v)] and N_ℓ = K_ℓ + N_{ℓ−1} ∘
    α E[σ'(√α u)σ'(√α v)]. A pruned readout multiplies every term of N by its α. If σ is
    homogeneous, σ(√α t) = √α σ(t), all of N is multiplied by the product of the α.
    """
    keep = keep_probabilities(keep, len(activations))
    if rescale:
        K, N = limit_kernels(X, activations, tau0=tau0)
        assert N is not None
        return K, N
    shrunk = [shrink(a, alpha) for a, alpha in zip(activations, keep, strict=False)]
    K, N = limit_kernels(X, shrunk, tau0=tau0)
    assert N is not None
    return K, N * keep[-1]


def shrink(activation: AnyActivation, alpha: float) -> AnyActivation:
    """The activation t ↦ σ(√α t)."""
    if alpha == 1:
        return activation
    root = float(alpha) ** 0.5
    if isinstance(activation, Quantized):
        return replace(activation, thresholds=tuple(t / root for t in activation.thresholds))
    return Activation(
        name=f"{activation.name} at {root:.6g} t",
        function=lambda t: activation(root * t),
        breakpoints=tuple(point / root for point in activation.breakpoints),
        derivative_function=lambda t: root * activation.derivative(root * t),
    )


def first_layer_correction(
    X: ArrayLike,
    activation: AnyActivation,
    keep: float,
    *,
    tau0: float,
    fourth_moment: float = 3.0,
) -> tuple[FloatArray, FloatArray]:
    """What pruning W_1 adds to the limits of one hidden layer, rescaled, where n and p are alike.

    Parameters
    ----------
    X : (n, p) array
    activation : Activation or Quantized
    keep : float
        α of W_1; the readout is not pruned.
    tau0 : float
        Scale of the input.
    fourth_moment : float
        Of the weights before pruning, which have variance 1: 3 if Gaussian, 1 if ±1.

    Returns
    -------
    ΔK, ΔN : (n, n) float64 arrays
        Off the diagonal, to leading order in 1/p; the diagonal is zero.

    Raises
    ------
    ValueError
        If X is not a matrix of finite numbers, or ``keep`` or ``tau0`` is out of range.

    Notes
    -----
    With S_ij = Σ_k x_ik² x_jk² and d2 = E σ''(τ_0 ξ), both are multiples of d2² S. The fourth
    cumulant of the rescaled weights, κ = m_4/α − 3, enters E[σ(u)σ(v)] as ¼ κ d2² S. The NTK has
    α⁻¹ E[Σ_k m_k x_ik x_jk σ'(u)σ'(v)] besides: where weight k is kept its variance is 1/α, so the
    covariance of u and v is larger by (1/α − 1) x_ik x_jk, and σ'σ' by that times E[σ''σ''] → d2².
    The sum over k is (1/α − 1) d2² S.
    """
    X, tau0 = sample_matrix("X", X), positive("tau0", tau0)
    (alpha,) = keep_probabilities(keep, 0)
    squares = X**2 @ (X**2).T
    np.fill_diagonal(squares, 0)
    squares *= gaussian_moments(activation, tau0).d2 ** 2
    K = (fourth_moment / alpha - 3) / 4 * squares
    return K, K + (1 / alpha - 1) * squares
