"""Random convolutional networks with finitely many channels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import count, zip_longest
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from numpy.typing import ArrayLike

from .._checks import checked, each, image_array, positive, same_length, torch_device, whole
from .activations import refuse_jumps
from .conv_layers import AveragePool, Conv, Normalize, Plan, plan
from .moments import gaussian_moments
from .networks import RandomNetwork, floating
from .weights import Law, law_of

# Gradients held at once, numbers.
_CHUNK = 2**24


def _shape(values: Any) -> tuple[int, int, int]:
    found = each("shape", values, whole)
    if len(found) != 3:
        raise ValueError(f"shape must be (h, w, c), got {values!r}")
    return found[0], found[1], found[2]


@frozen(eq=False, slots=False)
class RandomCNN(RandomNetwork):
    """A convolutional network with random weights of mean 0 and variance 1, without biases.

    A convolution with filters of f × f gives u = W * h / f, and an activation the next
    h = (σ(u) − m)/√c, c its channels; a normalisation divides u by the root of its mean square over
    channels. The first h are the images over √c. Features are the last h,
    of every position over √(h w) with a readout by ``nh.Flatten``, or their means.

    Parameters
    ----------
    shape : (h, w, c)
        Of the images.
    layers : sequence
        As for :func:`~ntklc_helpers.theory.conv_kernels.conv_limit_kernels`.
    channels : sequence of int
        Of each convolution, c_1 … c_L.
    weights, sparsity, seed, device, dtype
        As for :class:`~ntklc_helpers.theory.networks.RandomMLP`. A neuron of the first layer has
        f² c inputs, which is 27 with filters of 3 × 3 on colours.
    scales : sequence of float, optional
        τ_ℓ of each activation, for σ̄_ℓ = E σ_ℓ(τ_ℓ ξ), such as
        :func:`~ntklc_helpers.theory.conv_kernels.conv_scales` finds; by default σ̄_ℓ = 0.

    Raises
    ------
    ValueError
        If an argument is out of its range, or layers, channels, scales and law do not fit.

    Examples
    --------
    >>> layers = [nh.Conv(3), "relu", nh.AveragePool(2), nh.Conv(3), "relu", nh.Flatten()]
    >>> net = nh.theory.RandomCNN((8, 8, 3), layers, [10, 20], weights="ternary", sparsity=0.5)
    >>> net.features(np.ones((2, 8, 8, 3))).shape
    torch.Size([2, 320])
    """

    shape: tuple[int, int, int] = field(converter=_shape)
    layers: Any
    channels: tuple[int, ...] = field(
        converter=lambda values: each("channels", np.atleast_1d(values), whole)
    )
    weights: str | Law = "gaussian"
    sparsity: float = 0.0
    seed: int = checked(whole, 0, 0)
    scales: tuple[float, ...] | None = field(
        default=None,
        converter=lambda values: None if values is None else each("scales", values, positive),
    )
    device: torch.device = field(default=None, converter=torch_device)
    dtype: torch.dtype = field(default=torch.float32, validator=floating)
    law: Law = field(init=False, repr=False)
    plan: Plan = field(init=False, repr=False)

    @law.default
    def _law(self) -> Law:
        return law_of(self.weights, self.sparsity)

    @plan.default
    def _plan(self) -> Plan:
        return plan(self.layers, self.shape[:2])

    def __attrs_post_init__(self) -> None:
        convolutions = len(self.plan.convolutions)
        same_length("channels", self.channels, "convolutions in layers", convolutions)
        if self.scales is not None:
            activations = len(self.plan.activations)
            same_length("scales", self.scales, "activations in layers", activations)
        self.law.layers(convolutions)

    @cached_property
    def _drawn(self) -> tuple[tuple[Conv, Law, tuple[int, int], int], ...]:
        """Each convolution, its law, the shape (c_ℓ, c_{ℓ−1} f²) of its weights, and ℓ."""
        convolutions = self.plan.convolutions
        sizes = zip(self.channels, (self.shape[2], *self.channels), convolutions, strict=False)
        shapes = [(after, before * step.size**2) for after, before, step in sizes]
        return tuple(
            zip(convolutions, self.law.layers(len(shapes)), shapes, count(1), strict=False)
        )

    @cached_property
    def filters(self) -> tuple[torch.Tensor, ...]:
        """W_1 … W_L, W_ℓ of shape (c_ℓ, c_{ℓ−1}, f, f)."""
        return tuple(
            self._tensor(law.draw(shape, self.seed, i)).reshape(shape[0], -1, step.size, step.size)
            for step, law, shape, i in self._drawn
        )

    @cached_property
    def readout(self) -> torch.Tensor:
        """Weights w (d,) of the scalar output f(x) = wᵀF(x)."""
        law, width, i = self._last
        return self._tensor(law.draw_readout(width, self.seed, i))

    @property
    def _last(self) -> tuple[Law, int, int]:
        """Law, length and number of the readout's weights."""
        (h, w), n = self.plan.grids[-1], len(self.channels)
        width = self.channels[-1] * (1 if self.plan.averaged else h * w)
        return self.law.layers(n)[-1], width, n + 1

    @cached_property
    def centres(self) -> tuple[float, ...]:
        """σ̄_ℓ of each activation."""
        activations = self.plan.activations
        if self.scales is None:
            return (0.0,) * len(activations)
        pairs = zip(activations, self.scales, strict=True)
        return tuple(gaussian_moments(activation, scale).mean for activation, scale in pairs)

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.as_tensor(array).to(self.device, self.dtype)

    def _forward(self, h: torch.Tensor, seen: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """Features (n, d) of h (n, c, h, w); what comes into each convolution, with its zeros, and
        what comes out of it, go to ``seen``.
        """
        filters, centres, u = iter(self.filters), iter(self.centres), h
        for step, then in zip_longest(self.plan.steps, self.plan.steps[1:]):
            if isinstance(step, Conv):
                (top, bottom), (left, right) = map(step.zeros, h.shape[2:])
                h = F.pad(h, (left, right, top, bottom))
                u = F.conv2d(h, next(filters), stride=step.stride) / step.size
                seen.append((h, u))
            elif isinstance(step, Normalize):
                square = (u * u).mean(dim=1, keepdim=True)
                u = u / torch.where(square > 0, square, 1.0).sqrt()
            elif isinstance(step, AveragePool):
                h = F.avg_pool2d(h, step.size)
                continue
            else:
                u = step(u) - next(centres)
            if then is None or isinstance(then, Conv | AveragePool):
                h = u / u.shape[1] ** 0.5
        if self.plan.averaged:
            return h.mean(dim=(2, 3))
        return h.flatten(1) / (h.shape[2] * h.shape[3]) ** 0.5

    def _inputs(self, X: ArrayLike | torch.Tensor) -> torch.Tensor:
        found = self._tensor(image_array("X", X, self.shape)).permute(0, 3, 1, 2)
        return found / self.shape[2] ** 0.5

    def features(self, X: ArrayLike | torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """What the readout sees of images X (n, h, w, c): (n, c_L h w), or (n, c_L) if averaged."""
        h, batch_size = self._inputs(X), whole("batch_size", batch_size)
        with torch.no_grad():
            return torch.cat([self._forward(part, []) for part in h.split(batch_size)])

    def tangent_kernel(self, X: ArrayLike | torch.Tensor) -> torch.Tensor:
        """Inner products (n, n) of the gradients of f(x) = wᵀF(x) in all weights that are kept.

        The gradient in W_ℓ is Σ_s b_ℓ(s) h_{ℓ−1}(s + Δ)ᵀ / f with b_ℓ = ∂f/∂u_ℓ, over positions s.
        """
        refuse_jumps("net", self.plan.activations)
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        h = self._inputs(X).requires_grad_()
        found = self._forward(h, seen)
        back = torch.autograd.grad((found @ self.readout).sum(), [u for _, u in seen])
        law, width, i = self._last
        N = _gram([found.detach()[:, None]], self._kept(law, (1, width), i))
        for (step, law, shape, i), (into, _), b in zip(self._drawn, seen, back, strict=True):
            patches = F.unfold(into.detach(), step.size, stride=step.stride) / step.size
            rows = max(1, _CHUNK // (len(h) * shape[1]))
            gradients = (
                torch.einsum("ncs,nps->ncp", some.flatten(2), patches) for some in b.split(rows, 1)
            )
            N += _gram(gradients, self._kept(law, shape, i))
        return N

    def _kept(self, law: Law, shape: tuple[int, int], i: int) -> torch.Tensor:
        """What gradients in a matrix are multiplied by."""
        mask = law.mask(shape, self.seed, i)
        return torch.ones(shape) if mask is None else self._tensor(mask) * law.gain


def _gram(gradients: Iterable[torch.Tensor], kept: torch.Tensor) -> torch.Tensor:
    """Inner products (n, n) of gradients in a matrix, which come by some of its rows."""
    total, start = torch.zeros(()), 0
    for some in gradients:
        flat = (some * kept[start : start + some.shape[1]].to(some)).flatten(1).double()
        total, start = total + flat @ flat.T, start + some.shape[1]
    return total
