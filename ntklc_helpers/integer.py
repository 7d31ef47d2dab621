"""A layer of ternary weights and a staircase, run on the signs alone: no weight is multiplied.

A product with a ternary matrix is a signed sum of the inputs that its non-zeros name. On integer
codes the sums are exact; on floats they are taken in a fixed order. Either way the result does not
depend on the number of threads or on how samples are put into batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .ternary import TernaryMatrix

# Samples run in blocks that fill vector registers, or, when there are few, one after the other.
BLOCK, FEW = 256, 3
# Eight codes of at most this size add up within int8.
_NARROW = 15
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """values[j], where j counts the thresholds below gain · (T h) + shift.

    Attributes
    ----------
    weights : TernaryMatrix
        T, (rows, columns).
    bounds : (rows, t) array
        The thresholds for (T h)_i, in the type that sums are taken in.
    values : (t + 1,) array
        int8 codes for a next layer on integers, else floats.
    grouped : bool
        Whether eight inputs add up within int8.
    """

    weights: TernaryMatrix
    bounds: NDArray
    values: NDArray
    grouped: bool

    @classmethod
    def prepare(
        cls,
        weights: TernaryMatrix,
        largest_code: int | None,
        gain: float,
        shift: NDArray[np.float64],
        thresholds: NDArray[np.float64],
        values: NDArray,
    ) -> IntegerLayer:
        """Thresholds on the sums themselves: (thresholds − shift)/gain, rounded down for codes.

        ``largest_code`` bounds the size of integer inputs; None says that inputs are floats.
        """
        bounds = (thresholds - shift[:, None]) / gain
        if largest_code is None:
            return cls(weights, bounds, values, grouped=False)
        # A whole number exceeds x where it exceeds ⌊x⌋. What is whole but for rounding is a tie,
        # and a tie does not exceed.
        bounds = np.floor(bounds + _TIE)
        reach = weights.longest_row * largest_code
        grouped = largest_code <= _NARROW and reach <= np.iinfo(np.int16).max
        kind = np.iinfo(np.int16 if grouped else np.int32)
        bounds = np.clip(bounds, -kind.max, kind.max).astype(kind.dtype)
        return cls(weights, bounds, values, grouped)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.weights.nbytes + self.bounds.nbytes + self.values.nbytes

    def __call__(self, inputs: NDArray) -> NDArray:
        """(rows, b) for inputs (columns, b), one sample a column; b = 256, or at most 3."""
        T = self.weights
        out = np.empty((T.shape[0], inputs.shape[1]), self.values.dtype)
        if inputs.shape[1] <= FEW:
            kernel, inputs = _few_samples, inputs.T.astype(self.bounds.dtype, order="C")
        elif self.grouped:
            kernel, inputs = _grouped_block, np.ascontiguousarray(inputs)
        else:
            kernel, inputs = _plain_block, np.ascontiguousarray(inputs, self.bounds.dtype)
        kernel(T.starts, T.middles, T.columns, inputs, self.bounds, self.values, out)
        return out


@njit(inline="always")
def _add_rest(total, inputs, columns, start, end, sign):
    for q in range(start, end):
        row = inputs[columns[q]]
        for s in range(BLOCK):
            total[s] += sign * row[s]


@njit(inline="always")
def _add_grouped(total, inputs, columns, start, end, sign):
    q = start
    while q + 8 <= end:
        a, b = inputs[columns[q]], inputs[columns[q + 1]]
        c, d = inputs[columns[q + 2]], inputs[columns[q + 3]]
        e, f = inputs[columns[q + 4]], inputs[columns[q + 5]]
        g, h = inputs[columns[q + 6]], inputs[columns[q + 7]]
        for s in range(BLOCK):
            eight = np.int8(a[s] + b[s] + c[s] + d[s] + e[s] + f[s] + g[s] + h[s])
            total[s] += sign * np.int16(eight)
        q += 8
    _add_rest(total, inputs, columns, q, end, sign)


@njit(inline="always")
def _add_plain(total, inputs, columns, start, end, sign):
    q = start
    while q + 4 <= end:
        a, b = inputs[columns[q]], inputs[columns[q + 1]]
        c, d = inputs[columns[q + 2]], inputs[columns[q + 3]]
        for s in range(BLOCK):
            total[s] += sign * (((a[s] + b[s]) + c[s]) + d[s])
        q += 4
    _add_rest(total, inputs, columns, q, end, sign)


@njit(inline="always")
def _look_up(total, bounds, values, out):
    piece = np.zeros(BLOCK, np.uint8)
    for bound in bounds:
        for s in range(BLOCK):
            piece[s] += total[s] > bound
    for s in range(BLOCK):
        out[s] = values[piece[s]]


@njit(parallel=True, cache=True)
def _grouped_block(starts, middles, columns, inputs, bounds, values, out):
    for i in prange(len(middles)):
        total = np.zeros(BLOCK, np.int16)
        _add_grouped(total, inputs, columns, starts[i], middles[i], 1)
        _add_grouped(total, inputs, columns, middles[i], starts[i + 1], -1)
        _look_up(total, bounds[i], values, out[i])


@njit(parallel=True, cache=True)
def _plain_block(starts, middles, columns, inputs, bounds, values, out):
    for i in prange(len(middles)):
        total = np.zeros(BLOCK, bounds.dtype)
        _add_plain(total, inputs, columns, starts[i], middles[i], 1)
        _add_plain(total, inputs, columns, middles[i], starts[i + 1], -1)
        _look_up(total, bounds[i], values, out[i])


@njit(inline="always")
def _sum_one(total, one, columns, start, end, sign):
    # Takes floats in the same order as _add_plain, so that a sample's result is its own.
    q = start
    while q + 4 <= end:
        a, b = one[columns[q]], one[columns[q + 1]]
        c, d = one[columns[q + 2]], one[columns[q + 3]]
        total += sign * (((a + b) + c) + d)
        q += 4
    while q < end:
        total += sign * one[columns[q]]
        q += 1
    return total


@njit(parallel=True, cache=True)
def _few_samples(starts, middles, columns, inputs, bounds, values, out):
    for i in prange(len(middles)):
        for s in range(len(inputs)):
            one = inputs[s]
            total = _sum_one(inputs.dtype.type(0), one, columns, starts[i], middles[i], 1)
            total = _sum_one(total, one, columns, middles[i], starts[i + 1], -1)
            piece = 0
            for bound in bounds[i]:
                piece += total > bound
            out[i, s] = values[piece]
