"""What convolutional networks are made of, and the sizes that images have on their way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from attrs import frozen

from .._checks import checked, one_of, whole
from .activations import Activation, AnyActivation, Quantized, activation, activation_names

Grid = tuple[int, int]


@frozen
class Conv:
    """A convolution by filters of ``size`` × ``size``, without bias.

    Parameters
    ----------
    size, stride : int
    padding : "same" or "valid"
        Zeros around the image, so that h becomes h / stride; or none, and (h − size) / stride + 1.
        Either must be a whole number. Where the zeros are odd in number, one more is at the end.

    Examples
    --------
    >>> nh.Conv(5, padding="valid").output(28)
    24
    """

    size: int = checked(whole, 3)
    stride: int = checked(whole, 1)
    padding: str = checked(one_of, "same", ("same", "valid"))

    def output(self, length: int) -> int:
        """The side of what is made of an image of side ``length``."""
        return (length + sum(self.zeros(length)) - self.size) // self.stride + 1

    def zeros(self, length: int) -> tuple[int, int]:
        """How many zeros are put before a side of this length, and after."""
        if self.padding == "valid":
            return 0, 0
        total = max((length // self.stride - 1) * self.stride + self.size - length, 0)
        return total // 2, total - total // 2

    def fits(self, length: int) -> str:
        """Why not, if an image of side ``length`` cannot be convolved; else ''."""
        if self.size > length:
            return f"has filters larger than its input, of side {length}"
        if (length - self.size * (self.padding == "valid")) % self.stride:
            return f"has a stride that does not divide its input, of side {length}"
        return ""


@frozen
class Normalize:
    """Every position's channels are divided by the root of their mean square, right after ``Conv``.

    Then every activation sees the same scale, τ = 1, at every position of every image; a position
    that sees nothing but zeros keeps them.

    Examples
    --------
    >>> layers = [nh.Conv(3), nh.theory.Normalize(), "relu", nh.Flatten()]
    >>> nh.conv_limit_kernels(np.ones((1, 4, 4, 1)), layers)[0]
    array([[0.5]])
    """


@frozen
class AveragePool:
    """Means over ``size`` × ``size`` patches that do not overlap.

    Examples
    --------
    >>> nh.AveragePool(2).output(28)
    14
    """

    size: int = checked(whole, 2)

    def output(self, length: int) -> int:
        """The side of what is made of an image of side ``length``."""
        return length // self.size

    def fits(self, length: int) -> str:
        """Why not, if an image of side ``length`` cannot be pooled; else ''."""
        if length % self.size:
            return f"does not divide its input, of side {length}"
        return ""


@frozen
class Flatten:
    """The readout sees every position of every channel.

    Examples
    --------
    >>> K, _ = nh.conv_limit_kernels(np.ones((1, 4, 4, 1)), [nh.Conv(3), "relu", nh.Flatten()])
    >>> K.shape
    (1, 1)
    """


@frozen
class GlobalAveragePool:
    """The readout sees the mean of every channel.

    Examples
    --------
    >>> layers = [nh.Conv(3), "relu", nh.GlobalAveragePool()]
    >>> nh.conv_limit_kernels(np.ones((1, 4, 4, 1)), layers)[0].shape
    (1, 1)
    """


Step = Conv | Normalize | AveragePool | Activation | Quantized


@frozen
class Plan:
    """Checked layers: ``steps`` up to the readout, and ``grids``, the sides of the images before
    the first and after each; ``averaged`` if the readout is of means.
    """

    steps: tuple[Step, ...]
    grids: tuple[Grid, ...]
    averaged: bool

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        """All of them, in order."""
        return tuple(step for step in self.steps if isinstance(step, Conv))

    @property
    def activations(self) -> tuple[AnyActivation, ...]:
        """σ_1 … σ_L."""
        return tuple(step for step in self.steps if isinstance(step, Activation | Quantized))


def plan(layers: Any, grid: Grid) -> Plan:
    """The layers as a plan for images of these sides.

    Raises ValueError, which names the layer, if they are not convolutions, each normalised or not
    and with an activation or not, and poolings, with a readout at the end; or if sizes do not fit.

    Examples
    --------
    >>> from ntklc_helpers.theory.conv_layers import plan
    >>> layers = [nh.Conv(3, stride=2), "relu", nh.AveragePool(2), nh.Flatten()]
    >>> plan(layers, (16, 16)).grids
    ((16, 16), (8, 8), (8, 8), (4, 4))
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str) or not len(layers):
        raise ValueError(f"layers must be a sequence of nh.Conv(…) and so on, got {layers!r}")
    known = Step | Flatten | GlobalAveragePool
    for i, one in enumerate(layers):
        if not isinstance(one, known) and one not in activation_names():
            raise ValueError(f"layers[{i}] must be a layer or an activation, got {one!r}")
    found = [activation(one) if isinstance(one, str) else one for one in layers]
    if not isinstance(found[0], Conv):
        raise ValueError(f"layers[0] must be nh.Conv(…), got {found[0]!r}")
    for i, (before, one) in enumerate(pairwise(found), 1):
        if isinstance(before, Flatten | GlobalAveragePool):
            raise ValueError(
                f"layers[{i - 1}], {before!r}, is a readout and must be the last layer"
            )
        name = f"activation {one.name!r}" if isinstance(one, Activation | Quantized) else repr(one)
        if isinstance(one, Normalize) and not isinstance(before, Conv):
            raise ValueError(
                f"layers[{i}], {name}, must come right after nh.Conv(…), not after {before!r}"
            )
        if isinstance(one, Activation | Quantized) and not isinstance(before, Conv | Normalize):
            raise ValueError(
                f"layers[{i}], {name}, must come right after nh.Conv(…), or its normalisation, "
                f"not after {before!r}"
            )
    *steps, last = found
    if not isinstance(last, Flatten | GlobalAveragePool):
        raise ValueError(
            f"layers[{len(found) - 1}] must be a readout, nh.Flatten() or nh.GlobalAveragePool(), "
            f"got {last!r}"
        )
    grids = [grid]
    for i, step in enumerate(steps):
        h, w = grids[-1]
        if isinstance(step, Conv | AveragePool):
            if wrong := step.fits(h) or step.fits(w):
                raise ValueError(f"layers[{i}], {step!r}, {wrong}")
            h, w = step.output(h), step.output(w)
        grids.append((h, w))
    return Plan(tuple(steps), tuple(grids), isinstance(last, GlobalAveragePool))
