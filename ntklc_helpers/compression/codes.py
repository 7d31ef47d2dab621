"""Weights on codes and activations on levels while a network is trained, as modules of torch.

Forward, both compute what the compressed network will. Backward, what rounds is left out: the
straight-through estimator. Y. Bengio, N. Léonard and A. Courville, arXiv:1308.3432.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from ..theory.activations import Quantized
from .rounding import Bits, code_range

# Nodes at which a Gaussian's quantisation error is taken; how finely thresholds are sought.
_NODES, _FINE = 20_001, 2**16
_TINY = torch.finfo(torch.float32).tiny


@cache
def gaussian_step(bits: Bits) -> float:
    """Distance of the codes of so many bits that leaves N(0, 1) the least squared error.

    Examples
    --------
    >>> from ntklc_helpers.compression.codes import gaussian_step
    >>> round(gaussian_step(4), 2)
    0.34
    """
    x, codes = norm.ppf((np.arange(_NODES) + 0.5) / _NODES), code_range(bits)

    def error(step: float) -> float:
        return float(np.mean((np.clip(np.rint(x / step), *codes) * step - x) ** 2))

    return float(minimize_scalar(error, bounds=(0.01, 2.0), method="bounded").x)


class Codes(nn.Module):
    """Weights as codes times a scale a row; a parametrisation of a Linear's or Conv2d's weight.

    Ternary codes are the signs of the largest weights of the layer, the share 1 − ε; a row's scale
    is the mean size of those that it keeps (F. Li et al., arXiv:1605.04711). Of more bits, codes
    are nearest at the step that is best for Gaussian weights; of 8, at one that holds the largest.
    Gradients pass to the weights as if nothing were rounded.

    Examples
    --------
    >>> from ntklc_helpers.compression.codes import Codes
    >>> codes, scale = Codes("ternary", sparsity=0.5).of(torch.tensor([[0.1, 0.2, 1.0, -2.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[0.0, 0.0, 1.0, -1.0]], [1.5])
    """

    def __init__(self, bits: Bits, sparsity: float = 0.5) -> None:
        super().__init__()
        self.bits, self.sparsity = bits, sparsity

    @torch.no_grad()
    def of(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes in the weight's shape and dtype, and scales (rows,)."""
        rows = weight.flatten(1)
        size = rows.abs()
        if self.bits == "ternary":
            zeros = round(self.sparsity * size.numel())
            kept = size > (_smallest(size, zeros) if zeros else -1.0)
            codes = rows.sign() * kept
            scale = (size * kept).sum(1) / kept.sum(1).clamp_min(1)
        else:
            largest = code_range(self.bits)[1]
            wide = self.bits == 8
            scale = (
                size.amax(1) / largest
                if wide
                else gaussian_step(self.bits) * rows.square().mean(1).sqrt()
            )
            codes = (rows / scale.clamp_min(_TINY)[:, None]).round().clamp(*code_range(self.bits))
        return codes.view_as(weight), torch.where(scale > 0, scale, 1.0)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        codes, scale = self.of(weight)
        rounded = codes * scale.view(-1, *[1] * (weight.ndim - 1))
        return weight + (rounded - weight).detach()

    def extra_repr(self) -> str:
        own = f", sparsity={self.sparsity:g}" if self.bits == "ternary" else ""
        return f"bits={self.bits!r}{own}"


def _smallest(values: torch.Tensor, count: int) -> float:
    """The largest of so many smallest entries."""
    values = values.flatten()
    # Of the precisions that numpy knows its selection is vectorised, torch's is not.
    if values.is_cpu and values.dtype.itemsize >= 4:
        return float(np.partition(values.numpy(), count - 1)[count - 1])
    return values.kthvalue(count).values.item()


class Staircase(nn.Module):
    """An activation rounded to the levels ``step`` · (lowest, lowest + 1, …, lowest + count − 1).

    The step is a power of two, so that sums of levels times codes are exact in float32, in any
    order. Gradients are those of the activation where it lies between its ends, and zero beyond.

    Examples
    --------
    >>> from ntklc_helpers.compression.codes import Staircase
    >>> stairs = Staircase(torch.nn.ReLU(), step=0.5, lowest=0, count=4)
    >>> stairs(torch.tensor([0.3, 0.7, 1.1, 9.0])).tolist()
    [0.5, 0.5, 1.0, 1.5]
    """

    def __init__(self, activation: nn.Module, step: float, lowest: int, count: int) -> None:
        super().__init__()
        self.activation, self.step, self.lowest, self.count = activation, step, lowest, count

    @classmethod
    def fitted(cls, activation: nn.Module, u: torch.Tensor, count: int) -> Staircase:
        """The ``count`` levels of least mean squared error from the activation of entries of u.

        ValueError if it has one value there, or one that is not finite.
        """
        with torch.no_grad():
            values = activation(u).flatten().double()
        if not values.isfinite().all() or not (reach := float(values.max() - values.min())):
            raise ValueError("X must hold samples that differ, in every layer of the network")
        values = values[:: max(1, len(values) >> 20)]
        at = values.quantile((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096)
        widest = int(np.ceil(np.log2(reach / (count - 1))))
        best = (np.inf, 1.0, 0)
        for step in 2.0 ** np.arange(widest - 4, widest + 1):
            codes = (at / step).round()
            first, last = int(codes.min()), int(codes.max())
            for lowest in range(first, max(last - count + 1, first) + 1):
                rounded = codes.clamp(lowest, lowest + count - 1) * step
                best = min(best, (float((rounded - at).square().mean()), float(step), lowest))
        return cls(activation, *best[1:], count)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return _Rounded.apply(u, self)

    def quantised(self) -> Quantized:
        """The same as a Quantized: thresholds are where the activation passes between levels.

        ValueError if the activation rises and falls.
        """
        reach = self.step * (abs(self.lowest) + self.count)
        wide = torch.linspace(-4 * reach, 4 * reach, _FINE, dtype=torch.float64)
        codes = _code(wide, self)
        if (codes.diff() < 0).any():
            raise ValueError("the activation of a staircase must not fall")
        ends = codes.diff().nonzero()[:, 0]
        low, high = wide[ends], wide[ends + 1]
        before = codes[ends]
        for _ in range(60):
            middle = (low + high) / 2
            up = _code(middle, self) > before
            low, high = torch.where(up, low, middle), torch.where(up, middle, high)
        # A negative zero is a zero.
        levels = self.step * torch.cat([codes[:1], codes[ends + 1]]) + 0.0
        return Quantized(low.numpy(), levels.numpy())

    def extra_repr(self) -> str:
        return f"step={self.step:g}, lowest={self.lowest}, count={self.count}"


def _code(u: torch.Tensor, stairs: Staircase) -> torch.Tensor:
    """The whole numbers whose ``step`` multiples are the levels, for entries of u."""
    # Halves go down, as they do on a threshold.
    value = (stairs.activation(u) / stairs.step).sub_(0.5).ceil_()
    return value.clamp_(stairs.lowest, stairs.lowest + stairs.count - 1)


def on_codes(net: Any) -> bool:
    """Whether a module has weights on codes or activations on levels."""
    return isinstance(net, nn.Module) and any(
        isinstance(part, Codes | Staircase) for part in net.modules()
    )


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, stairs):
        ctx.save_for_backward(u)
        ctx.stairs = stairs
        return _code(u, stairs) * stairs.step

    @staticmethod
    def backward(ctx, gradient):
        (u,), stairs = ctx.saved_tensors, ctx.stairs
        with torch.enable_grad():
            own = u.detach().requires_grad_()
            value = stairs.activation(own)
            low = (stairs.lowest - 0.5) * stairs.step
            # An end that the activation itself has, as ReLU's, cuts nothing more.
            ends = F.hardtanh(value, low, low + stairs.count * stairs.step)
            return torch.autograd.grad(ends, own, gradient)[0], None
