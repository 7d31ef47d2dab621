"""A layer of ternary weights and a staircase, run on the signs alone: no weight is multiplied.

A product with a ternary matrix is a signed sum of the inputs that its non-zeros name. On integer
codes the sums are exact; on floats they are taken in a fixed order. Either way the result does not
depend on the number of threads or on how samples are put into batches.

In a forked process, such as a worker of ``multiprocessing.Pool``, everything runs on one thread:
OpenMP's threads do not come along, and whoever waits for them waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from attrs import frozen
from numba import njit, prange
from numpy.typing import NDArray

from .ternary import TernaryMatrix

# Samples run in blocks that fill vector registers, or, when there are few, one after the other.
BLOCK, FEW = 256, 3
# Eight codes of at most this size add up within int8.
_NARROW = 15
_TIE = 1e-9
_PROCESS = os.getpid()


@frozen(eq=False)
class IntegerLayer:
    """values[j], where j counts the bounds (rows, t) of row i below (T h)_i, T the weights.

    Bounds are of the type that sums are taken in; values (t + 1,) are int8 codes for a next layer
    on integers, else floats; ``grouped`` says whether eight inputs add up within int8.
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
        """The layer whose j counts the thresholds below gain · (T h) + shift.

        ``largest_code`` bounds the size of integer inputs; None says that inputs are floats.
        """
        bounds = (thresholds - shift[:, None]) / gain
        if largest_code is None:
            return cls(weights, bounds, values, grouped=False)
        # A whole number exceeds x where it exceeds ⌊x⌋. What is whole but for rounding is a tie,
        # and a tie does not exceed.
        bounds = np.floor(bounds + _TIE)
        reach = int(np.diff(weights.starts).max()) * largest_code
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
        kernel[_alone()](T.starts, T.middles, T.columns, inputs, self.bounds, self.values, out)
        return out


def _alone() -> bool:
    """Whether this process was forked from the one that imported; then torch keeps to a thread."""
    forked = os.getpid() != _PROCESS
    if forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    return forked


def _compiled(function: Callable) -> tuple[Callable, Callable]:
    """On all threads, kept on disk where there is a place; and on one."""
    try:
        return njit(function, parallel=True, cache=True), njit(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written.
        return njit(function, parallel=True), njit(function)


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
def _pick(piece, total, bounds, values, out):
    for bound in bounds:
        for s in range(BLOCK):
            piece[s] += total[s] > bound
    for s in range(BLOCK):
        out[s] = values[piece[s]]


@njit(inline="always")
def _look_up(total, bounds, values, out):
    # Bytes fill registers best; few staircases have more pieces than a byte can count.
    if len(bounds) < 256:
        _pick(np.zeros(BLOCK, np.uint8), total, bounds, values, out)
    else:
        _pick(np.zeros(BLOCK, np.uint16), total, bounds, values, out)


@_compiled
def _grouped_block(starts, middles, columns, inputs, bounds, values, out):
    for i in prange(len(middles)):
        total = np.zeros(BLOCK, np.int16)
        _add_grouped(total, inputs, columns, starts[i], middles[i], 1)
        _add_grouped(total, inputs, columns, middles[i], starts[i + 1], -1)
        _look_up(total, bounds[i], values, out[i])


@_compiled
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


@_compiled
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
