"""Random fully connected networks, and their kernels at finite width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from attrs import Attribute, field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import FloatArray, checked, positive, same_length, samples, torch_device, whole
from .activations import (
    AnyActivation,
    Quantized,
    activation_list,
    refuse_jumps,
    surrogate_list,
)
from .moments import layer_moments
from .weights import Law, law_of

# Gradients worked on at once, samples times weights: as many as a cache holds.
_CHUNK = 2**18


def _widths(values: Any) -> tuple[int, ...]:
    widths = tuple(whole("widths", width) for width in np.atleast_1d(values))
    if not widths:
        raise ValueError("widths must name at least one layer")
    return widths


def floating(_: Any, attribute: Attribute, dtype: Any) -> None:
    """Refuse a ``dtype`` that no weight can have."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")


class RandomNetwork(ABC):
    """What kernels are made of: features, and gradients."""

    @abstractmethod
    def features(self, X: ArrayLike | torch.Tensor, batch_size: int = 4096) -> torch.Tensor:
        """What the readout sees of X, (n, d)."""

    @abstractmethod
    def tangent_kernel(self, X: ArrayLike | torch.Tensor) -> torch.Tensor:
        """Inner products (n, n) of the gradients of f in all weights that are kept."""


@frozen(eq=False, slots=False)
class RandomMLP(RandomNetwork):
    """h_ℓ = (σ_ℓ(W_ℓ h_{ℓ−1}) − σ̄_ℓ)/√d_ℓ, h_0 = x, with random weights of mean 0.

    Every layer is centred by the constant σ̄_ℓ = E σ_ℓ(τ_{ℓ−1} ξ) of the limit. Weights depend on
    the seed and the layer alone: neither on the data, nor on device, precision or batch.

    Parameters
    ----------
    p, tau0
        Dimension and scale of the input, τ_0² = E‖x‖².
    widths, activations
        d_1 … d_L, and σ_1 … σ_L or their names.
    weights : str or Law
        ``"gaussian"``, ``"student_t"``, ``"rademacher"``, ``"ternary"`` with this ``sparsity``, or
        a law, such as ``nh.theory.Pruned(0.8)``; ``net.law`` is the law.
    device, dtype
        Of weights and features: CUDA where there is one, and float32.

    Raises
    ------
    ValueError
        If an argument is out of its range, or widths, activations and law do not fit.

    Examples
    --------
    >>> net = nh.RandomMLP(3, [200, 100], ["relu"] * 2, weights=nh.theory.Pruned(0.8))
    >>> net.features(np.eye(3)).shape
    torch.Size([3, 100])
    """

    p: int = field(converter=lambda p: whole("p", p))
    widths: tuple[int, ...] = field(converter=_widths)
    activations: tuple[AnyActivation, ...] = field(
        converter=lambda values: activation_list("activations", values)
    )
    tau0: float = checked(positive, 1.0)
    weights: str | Law = "gaussian"
    sparsity: float = 0.0
    seed: int = checked(whole, 0, 0)
    device: torch.device = field(default=None, converter=torch_device)
    dtype: torch.dtype = field(default=torch.float32, validator=floating)
    law: Law = field(init=False, repr=False)

    @law.default
    def _law(self) -> Law:
        return law_of(self.weights, self.sparsity)

    def __attrs_post_init__(self) -> None:
        same_length("activations", self.activations, "widths", len(self.widths))
        self.law.layers(len(self.widths))

    @cached_property
    def laws(self) -> tuple[Law, ...]:
        """Of W_1 … W_L and of the readout."""
        return self.law.layers(len(self.widths))

    @property
    def _shapes(self) -> Iterator[tuple[Law, tuple[int, int], int]]:
        shapes = zip((*self.widths, 1), (self.p, *self.widths), strict=True)
        return zip(self.laws, shapes, range(1, len(self.laws) + 1), strict=True)

    @cached_property
    def matrices(self) -> tuple[torch.Tensor, ...]:
        """W_1 … W_L, W_ℓ of shape (d_ℓ, d_{ℓ−1})."""
        *hidden, _ = self._shapes
        return tuple(self._tensor(law.draw(shape, self.seed, i)) for law, shape, i in hidden)

    @cached_property
    def readout(self) -> torch.Tensor:
        """Weights w (d_L,) of the scalar output f(x) = wᵀh_L."""
        *_, (law, (_, width), i) = self._shapes
        return self._tensor(law.draw_readout(width, self.seed, i))

    @cached_property
    def masks(self) -> tuple[torch.Tensor | None, ...]:
        """True where a weight of W_1 … W_L and of wᵀ (1, d_L) is kept; None if all are."""
        masks = (law.mask(shape, self.seed, i) for law, shape, i in self._shapes)
        return tuple(m if m is None else torch.from_numpy(m).to(self.device) for m in masks)

    def _tensor(self, array: NDArray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)

    @cached_property
    def centres(self) -> tuple[float, ...]:
        """m_1 … m_L."""
        gains = (law.variance**0.5 for law in self.laws)
        return tuple(g.mean for g in layer_moments(self.activations, self.tau0, gains))

    def inputs(self, X: ArrayLike | torch.Tensor) -> torch.Tensor:
        """X as a tensor (n, p) on the network's device, checked."""
        return self._tensor(samples("X", X, self.p))

    def layers(
        self, h: torch.Tensor, matrices: Sequence[torch.Tensor] | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pre-activations W_ℓ h_{ℓ−1} and activations h_ℓ of each layer, for inputs (n, p).

        The network's own W_1 … W_L by default, or others such as it comes to have in training.
        """
        matrices = self.matrices if matrices is None else matrices
        parts = zip(matrices, self.activations, self.centres, strict=True)
        for W, activation, centre in parts:
            u = h @ W.T
            h = (activation(u) - centre) / len(W) ** 0.5
            yield u, h

    def features(self, X: ArrayLike | torch.Tensor, batch_size: int = 4096) -> torch.Tensor:
        """h_L, a tensor (n, d_L) on the network's device, for X of shape (n, p)."""
        X, batch_size = self.inputs(X), whole("batch_size", batch_size)
        out = torch.empty(len(X), self.widths[-1], device=self.device, dtype=self.dtype)
        with torch.no_grad():
            for rows, target in zip(X.split(batch_size), out.split(batch_size), strict=True):
                target.copy_(deque(self.layers(rows), maxlen=1).pop()[1])
        return out

    def tangent_kernel(
        self, X: ArrayLike | torch.Tensor, surrogates: Sequence[Quantized | None] | None = None
    ) -> torch.Tensor:
        """Inner products (n, n) of the gradients of f(x) = wᵀh_L in all weights that are kept.

        The gradient in W_ℓ is b_ℓ h_{ℓ−1}ᵀ with b_ℓ = ∂f/∂(W_ℓ h_{ℓ−1}), so that they are
        h_L h_Lᵀ + Σ_ℓ (b_ℓ b_ℓᵀ) ∘ (h_{ℓ−1} h_{ℓ−1}ᵀ): products of n × d_ℓ matrices, no Jacobian.
        With surrogates the second of the two b_ℓ has them in the place of derivatives.
        """
        refuse_jumps("net", self.activations)
        others = surrogate_list("surrogates", surrogates, self.activations)
        with torch.no_grad():
            h, u = [self.inputs(X)], []
            for before, after in self.layers(h[0]):
                u.append(before)
                h.append(after)
            ones = torch.ones_like(h[-1][:, :1])
            N = _gradient_gram(self, len(u), ones, ones, h[-1]).double()
            back = forth = self.readout.expand_as(h[-1])
            for i in reversed(range(len(u))):
                root, slope = self.widths[i] ** 0.5, self.activations[i].derivative(u[i])
                b = c = back * slope / root
                if any(others[i:]):
                    surrogate = others[i]
                    c = forth * (slope if surrogate is None else surrogate(u[i])) / root
                N += _gradient_gram(self, i, b, c, h[i])
                back = b @ self.matrices[i] if i else b
                forth = back if c is b else c @ self.matrices[i]
        return N


def empirical_ck(
    net: RandomNetwork | Iterable[RandomNetwork], X: ArrayLike | torch.Tensor
) -> FloatArray:
    """Conjugate kernel F Fᵀ on X of a network's features F, or its mean over several networks.

    Raises ValueError if there is no network, or X does not fit it.

    Returns
    -------
    (n, n) float64 array
        Tends to that of :func:`~ntklc_helpers.theory.infinite.limit_kernels` as the widths grow.

    Examples
    --------
    >>> net = nh.RandomMLP(3, [1000], ["linear"])
    >>> nh.empirical_ck(net, np.eye(3)).round(0).diagonal().tolist()
    [1.0, 1.0, 1.0]
    """
    return _mean(_ck, net, X)


def empirical_ntk(
    net: RandomNetwork | Iterable[RandomNetwork],
    X: ArrayLike | torch.Tensor,
    surrogates: Sequence[Quantized | None] | None = None,
) -> FloatArray:
    """Neural tangent kernel of f(x) = wᵀF(x), or its mean: as :func:`empirical_ck`.

    Inner products of the gradients of f in all weights that are kept, of w and W_1 … W_L. With
    ``surrogates``, one for each layer of a fully connected network or None, entry (i, j) is that of
    the gradient at sample i and of the surrogate gradient at sample j: the finite network's
    :func:`~ntklc_helpers.theory.surrogates.surrogate_ntk`.

    Refused too if an activation has a jump: its derivative is a point mass that no gradient sees,
    and the kernel's diagonal is infinite.

    Examples
    --------
    >>> nets = (nh.RandomMLP(2, [1000], ["linear"], seed=seed) for seed in range(3))
    >>> float(nh.empirical_ntk(nets, np.eye(2)).trace().round())
    4.0
    """

    def kernel(one: RandomNetwork, X: Any) -> torch.Tensor:
        if surrogates is None:
            return one.tangent_kernel(X)
        if not isinstance(one, RandomMLP):
            raise ValueError(f"net must be a RandomMLP to have surrogates, got {type(one)}")
        return one.tangent_kernel(X, surrogates)

    return _mean(kernel, net, X)


def _mean(
    kernel: Callable[[RandomNetwork, Any], torch.Tensor],
    net: RandomNetwork | Iterable[RandomNetwork],
    X: Any,
) -> FloatArray:
    total, count = np.zeros(()), 0
    for one in net if isinstance(net, Iterable) else [net]:
        if not isinstance(one, RandomNetwork):
            raise ValueError(f"net must be a random network or some of them, got {type(one)}")
        total, count = total + kernel(one, X).cpu().numpy(), count + 1
    if not count:
        raise ValueError("net must be a random network or some of them, got none")
    return total / count


def _ck(net: RandomNetwork, X: ArrayLike | torch.Tensor) -> torch.Tensor:
    h = net.features(X).double()
    return h @ h.T


def _gradient_gram(
    net: RandomMLP, i: int, b: torch.Tensor, c: torch.Tensor, h: torch.Tensor
) -> torch.Tensor:
    """Inner products (n, n) of the gradients m∘(b hᵀ) and m∘(c hᵀ) in a matrix's kept weights.

    b and c are (n, d), h is (n, d_prev). Entry (i, j) is Σ_kl m_kl (b_i∘c_j)_k (h_i∘h_j)_l: without
    a mask (b cᵀ)∘(h hᵀ), and no gradient is formed. With one, some weights at a time, those that
    are kept or, from the whole, those that are not: whichever are fewer.
    """
    whole, mask = (b @ c.T) * (h @ h.T), net.masks[i]
    if mask is None:
        return whole
    few_kept = int(mask.sum()) <= mask.numel() // 2
    chosen = (mask if few_kept else ~mask).nonzero()
    gram, same = torch.zeros_like(whole), b is c
    b, c, h = (part.T.contiguous() for part in (b, c, h))
    for row, column in (part.unbind(1) for part in chosen.split(max(1, _CHUNK // len(gram)))):
        gradients = b[row] * h[column]
        gram.addmm_(gradients.T, gradients if same else c[row] * h[column])
    return (gram if few_kept else whole - gram) * net.laws[i].gain ** 2
