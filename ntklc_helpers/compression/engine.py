"""A layer of ternary weights and a staircase, run on the signs alone.

A product with a ternary matrix is a signed sum of the inputs that its non-zeros name. On integer
codes the sums are exact; on floats they are taken in a fixed order. Either way the result does not
depend on the number of threads or on how samples are put into batches.

Weights are held once, four to a byte. For many samples the non-zeros' places are listed, a few rows
at a time, and read once for 64 samples; for few, bits of codes are counted under all the weights.
Which is faster depends on the share of zeros and on the processor: it is measured.
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable, Sequence
from functools import cache, cached_property

import numpy as np
from attrs import frozen
from numba import get_num_threads, set_num_threads
from numpy.typing import NDArray

from ..theory.weights import draw_ternary
from . import kernels
from .kernels import FLOAT_LANES, LANES, PIECE, PLANES, ROWS
from .ternary import TernaryMatrix
from .threads import alone, compiled, threads_of_torch

# Samples that are run at a time: what they take stays in the processor's memory.
BATCH = 256
# Eight codes of at most this size add up within int8.
_NARROW = 15
_TIE = 1e-9


def _aligned(shape: tuple[int, ...], dtype: type | np.dtype) -> NDArray:
    """Zeros that begin at a cache line, so that no vector lies on two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(size + PIECE, np.uint8)
    start = -buffer.__array_interface__["data"][0] % PIECE
    return buffer[start : start + size].view(dtype).reshape(shape)


def _code_type(largest: float) -> type:
    return np.int8 if largest <= _NARROW else np.int16


_add_up = compiled(kernels.add_up)
_multiply = compiled(kernels.multiply)
_spell_out, _spell_rows = compiled(kernels.spell_out), compiled(kernels.spell_rows)


def rows(inputs: NDArray, n: int) -> NDArray:
    """Samples (n, columns), which may lie in blocks (b, columns, lanes)."""
    if inputs.ndim == 2:
        return inputs
    return inputs.transpose(0, 2, 1).reshape(-1, inputs.shape[1])[:n]


def blocks(inputs: NDArray, lanes: int, dtype: type) -> NDArray:
    """Samples in blocks (b, columns, lanes), filled up with zeros."""
    if inputs.ndim == 3:
        if inputs.shape[2] == lanes:
            return inputs.astype(dtype, copy=False)
        inputs = rows(inputs, inputs.shape[0] * inputs.shape[2])
    n, columns = inputs.shape
    found = _aligned((-(-n // lanes), columns, lanes), dtype)
    for block, start in zip(found, range(0, n, lanes), strict=True):
        part = inputs[start : start + lanes]
        block[:, : len(part)] = part.T
    return found


@frozen(eq=False, slots=False)
class IntegerLayer:
    """values[j], where j counts the bounds in column i that are below (T h)_i, T the weights.

    Bounds are (t, rows), with rows of anything up to a full tile, or (t, 1) for all rows, of the
    type that sums are taken in; ``codes`` is that of the inputs, which less the ``lowest`` of them
    have so many ``rounds`` of bits. Values (t + 1,) are int8 codes for a next layer on integers,
    else floats.
    """

    weights: TernaryMatrix
    columns: NDArray
    values: NDArray
    codes: type
    lowest: int = 0
    rounds: int = 0

    @classmethod
    def prepare(
        cls,
        weights: TernaryMatrix,
        reach: tuple[int, int] | None,
        gain: float,
        shift: NDArray[np.float64],
        thresholds: NDArray[np.float64],
        values: NDArray,
    ) -> IntegerLayer:
        """The layer whose j counts the thresholds below gain · (T h) + shift.

        Integer inputs are from the lowest to the highest of ``reach``; None: inputs are floats.
        """
        alike = (shift == shift[0]).all()
        shift = shift[:1] if alike else np.pad(shift, (0, -len(shift) % ROWS))
        bounds = (thresholds[:, None] - shift) / gain
        if reach is None:
            return cls(weights, bounds, values, np.float64)
        lowest, highest = reach
        # A whole number exceeds x where it exceeds ⌊x⌋. What is whole but for rounding is a tie,
        # and a tie does not exceed. Nothing exceeds what is no number.
        bounds = np.nan_to_num(np.floor(bounds + _TIE), nan=np.inf)
        largest = max(-lowest, highest)
        codes, most = _code_type(largest), int(weights.row_nonzeros.max()) * largest
        narrow = codes is np.int8 and most <= np.iinfo(np.int16).max
        kind = np.iinfo(np.int16 if narrow else np.int32)
        bounds = np.clip(bounds, kind.min, kind.max).astype(kind.dtype)
        rounds = -(-(highest - lowest).bit_length() // PLANES)
        return cls(weights, bounds, values, codes, lowest, rounds)

    @cached_property
    def table(self) -> NDArray:
        """(t + 1,) what is found where sums are taken: codes, or where in ``values`` to look."""
        if self.values.dtype == np.int8:
            return self.values.astype(_code_type(np.abs(self.values.astype(int)).max()))
        few = len(self.values) <= 2**8
        return (
            np.arange(len(self.values))
            .astype(np.uint8 if few else np.uint16)
            .view(np.int8 if few else np.int16)
        )

    @cached_property
    def steps(self) -> NDArray:
        """(t + 1,) the table's first entry, and from each to the next."""
        return np.diff(self.table, prepend=self.table.dtype.type(0))

    @cached_property
    def lifts(self) -> NDArray[np.int32]:
        """(rows,) what is counted where T x = 0, with rows up to a full tile."""
        sums = self.weights.row_sums
        negative = (self.weights.row_nonzeros - sums) // 2
        found = (2 ** (PLANES * self.rounds) - 1) * negative - self.lowest * sums
        return np.pad(found, (0, -len(found) % ROWS)).astype(np.int32)

    @cached_property
    def nonzeros(self) -> int:
        return self.weights.nonzeros

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.weights.nbytes + self.columns.nbytes + self.values.nbytes

    @property
    def bounds(self) -> NDArray:
        """(rows, t) those of each row, or (1, t) of all."""
        return self.columns[:, : self.weights.shape[0]].T

    def __call__(self, inputs: NDArray, n: int) -> NDArray:
        """From n samples (n, columns), or in blocks (b, columns, lanes), to one of the two."""
        if self.values.dtype == np.int8:
            return self._pieces(inputs, n)
        return self.spelled(self._pieces(inputs, n), n)

    def _pieces(self, inputs: NDArray, n: int) -> NDArray:
        """Entries of the table."""
        if self.codes is np.float64:
            lanes = FLOAT_LANES if n <= FLOAT_LANES else LANES
            return self.add_up(blocks(rows(inputs, n), FLOAT_LANES, np.float64), lanes)
        listing, adding, multiplying = _costs(self.codes, self.rounds)
        added = listing * self.weights.size + -(-n // LANES) * adding * self.nonzeros
        if n * multiplying * self.weights.size < added:
            return self.multiply(rows(inputs, n))
        return self.add_up(blocks(inputs, LANES, self.codes), LANES)

    def add_up(self, inputs: NDArray, lanes: int) -> NDArray:
        """(b', rows, lanes) for inputs in blocks (b, columns, …), by the non-zeros' places."""
        T, steps = self.weights, self.steps
        count = -(-inputs.shape[0] * inputs.shape[2] // lanes)
        out = _aligned((count, T.shape[0], lanes), steps.dtype)
        like = np.empty(0, np.uint16 if T.shape[1] <= 2**16 else np.uint32)
        _add_up[alone()](T.words, like, inputs, self.columns.ravel(), steps, out)
        return out

    def multiply(self, inputs: NDArray) -> NDArray:
        """(n, rows) for codes (n, columns), bit by bit, with all weights."""
        T, steps = self.weights, self.steps
        out = np.empty((len(inputs), ROWS * len(T.words)), steps.dtype)
        codes, told = np.ascontiguousarray(inputs, np.int8), (self.lowest, self.rounds, self.lifts)
        _multiply[alone()](T.words, codes, *told, self.columns.ravel(), steps, out)
        return out[:, : T.shape[0]]

    def spelled(self, pieces: NDArray, n: int) -> NDArray:
        """(n, rows) values where the table's entries say."""
        spell = (_spell_rows if pieces.ndim == 2 else _spell_out)[alone()]
        pieces = np.ascontiguousarray(pieces).view(f"u{pieces.itemsize}")
        out = np.empty((n, pieces.shape[1]), self.values.dtype)
        spell(pieces, self.values, out)
        return out


@cache
def _costs(codes: type, rounds: int) -> tuple[float, float, float]:
    """Seconds to list a weight, to add a non-zero of 64 samples, to multiply a weight with one.

    On one thread, which waits for no other: what is asked for is their ratio.
    """
    matrix = TernaryMatrix.from_signs(draw_ternary((256, 4096), 0.9, seed=0))
    largest = min(_NARROW, 2 ** (PLANES * rounds - 1)) if codes is np.int8 else 128
    reach, values = (-largest, largest - 1), np.arange(16, dtype=np.int8)
    shift, thresholds = np.zeros(256), np.linspace(-100, 100, 15)
    layer = IntegerLayer.prepare(matrix, reach, 1.0, shift, thresholds, values)
    inputs, threads = np.ones((4 * LANES, 4096), np.int8), get_num_threads()
    many, few = blocks(inputs, LANES, codes), inputs[:LANES]

    def fastest(work: Callable[[], NDArray]) -> float:
        work()
        return min(timeit.repeat(work, number=1, repeat=20))

    set_num_threads(1)
    try:
        four, one, multiplying = (
            fastest(work)
            for work in (
                lambda: layer.add_up(many, LANES),
                lambda: layer.add_up(many[:1], LANES),
                lambda: layer.multiply(few),
            )
        )
    finally:
        set_num_threads(threads)
    adding = (four - one) / 3
    listing, adding = (one - adding) / matrix.size, adding / matrix.nonzeros
    return listing, adding, multiplying / matrix.size / LANES


def run(layers: Sequence[IntegerLayer], X: NDArray) -> NDArray[np.float32]:
    """(n, rows) values of the last layer for floats or codes X (n, columns), each sample's own."""
    out = np.empty((len(X), layers[-1].weights.shape[0]), np.float32)
    with threads_of_torch():
        for start in range(0, len(X), BATCH):
            h = X[start : start + BATCH]
            n = len(h)
            for layer in layers:
                h = layer(h, n)
            out[start : start + n] = rows(h, n)
    return out
