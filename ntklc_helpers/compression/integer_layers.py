"""Networks of layers of signs, as stages on whole numbers.

A layer behind another compares the sums of whole numbers with whole bounds already, and these are
taken as they are. The first adds up floats: of bytes its sums are whole numbers of steps, and its
bounds the last of them that is not above each threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .integers import (
    LARGEST,
    MIDDLE,
    MOST_SHIFT,
    TIE,
    Stage,
    Stairs,
    Values,
    bytes_as_they_are,
    ends,
    inputs_of_bytes,
    reach_of,
    readout_stage,
    whole_levels,
)  # fmt: skip
from .readout import Readout
from .scaling import Scaling

# Beyond all sums of bytes.
_FAR = 2.0**50


class SignLayer(Protocol):
    """What is used here of a :class:`~ntklc_helpers.compression.layers.TernaryLayer`."""

    @property
    def weights(self) -> Any: ...
    @property
    def activation(self) -> Any: ...
    @property
    def drawn(self) -> Any: ...
    @property
    def grid(self) -> tuple[float, float, NDArray[np.float64]] | None: ...
    def on_integers(self, before: Any, last: bool) -> Any: ...


def of_layers(
    layers: Sequence[SignLayer],
    readout: Readout,
    scaling: Scaling | None,
    low: ArrayLike,
    step: ArrayLike,
) -> tuple[list[Stage], bool]:
    """Stages of a :class:`CompressedNetwork`; and whether all sums are those of its integers."""
    p = layers[0].weights.shape[1]
    low, step = inputs_of_bytes(low, step, p)
    # What Python's own rounding is in proportion to, unless nothing is rounded.
    size, fine = np.abs(low) + LARGEST * step, np.ldexp([low, step], 40)
    if (
        (fine == np.rint(fine)).all()
        and np.ptp(step) == 0
        and scaling is None
        and size.sum() < 2**12
    ):
        size = np.zeros(p)
    elif scaling is not None:
        size = (size + np.abs(scaling.centre)) / scaling.scale
        low, step = (low - scaling.centre) / scaling.scale, step / scaling.scale
    stages, proven = _first(layers, low, step, size)
    for before, layer in zip(layers, layers[1:], strict=False):
        run, values = layer.on_integers(before, layer is layers[-1]), stages[-1].values
        bounds = run.bounds
        if before.grid is None:
            bounds, proven = np.floor(bounds / values.unit), False
        stages.append(_signs(layer, bounds.astype(np.int64), layers, stages))
    return [*stages, readout_stage(readout, stages)], proven


def _first(
    layers: Sequence[SignLayer], low: NDArray, step: NDArray, size: NDArray
) -> tuple[list[Stage], bool]:
    """Bytes, and the first layer, whose sums of floats become sums of bytes.

    Python takes the same to be above a bound where none is as near to it as rounding moves it.
    """
    first, p = layers[0], len(low)
    bounds = first.on_integers(None, first is layers[-1]).bounds
    T = first.weights.to_dense()
    if np.ptp(step) > TIE * step[0]:
        given = bytes_as_they_are(low, step, (1, 1, p), False)
        found = np.floor(np.clip(bounds / given.values.unit, -_FAR, _FAR))
        return [given, _signs(first, found, layers, [given])], False
    unit, zero = float(step[0]), np.rint(-low[0] / step[0])
    # Where a byte stands for zero, one row of bounds does for all neurons.
    own = (zero * step == -low).all() and abs(zero) < MOST_SHIFT
    shift = int(zero) if own else MIDDLE
    given = Stage(
        "input", (), (1, 1, p), Values(unit, -shift, LARGEST - shift), ends(0, LARGEST),
        Stairs(start=np.array([-shift], np.int64)),
    )  # fmt: skip
    lift = (T @ (low + shift * step))[:, None]
    real = np.clip((bounds - lift) / unit, -_FAR, _FAR)
    found = np.floor(real) - 1
    for _ in range(3):
        found = np.where(unit * (found + 1) + lift > bounds, found, found + 1)
    uneven = size * (p + 8) * 2.0**-52 + LARGEST * np.abs(step - unit)
    rounding = (np.abs(T) @ uneven)[:, None]
    rounding = np.where(rounding, rounding + np.abs(bounds) * 2.0**-50, 0.0)
    proven = bool((np.abs(real - np.rint(real)) * unit >= rounding).all())
    return [given, _signs(first, found, layers, [given])], proven


def _signs(
    layer: SignLayer, bounds: NDArray, layers: Sequence[SignLayer], before: list[Stage]
) -> Stage:
    """A layer whose values are its own int8 codes, where it has such."""
    run = layer.on_integers(None, False)
    found, values = whole_levels(layer.activation.levels, layer is not layers[-1])
    if layer.grid is not None and layer is not layers[-1]:
        found = run.values.astype(np.int64)
        values = Values(layer.grid[1], int(found.min()), int(found.max()))
    rows, columns = layer.weights.shape
    codes = layer.weights.to_dense().astype(np.int32).reshape(rows, 1, 1, columns)
    least, most = reach_of(codes, before[-1].values)
    if (bounds == bounds[0]).all():
        bounds = bounds[:1]
    if len(bounds) < rows:
        least, most = ends(int(least.min()), int(most.max()))
    clipped = np.clip(bounds, least[:, None] - 1, most[:, None]).astype(np.int64)
    return Stage(
        "dense", (len(before) - 1,), (1, 1, rows), values, (least, most),
        Stairs(clipped, found), codes, layer.drawn,
    )  # fmt: skip
