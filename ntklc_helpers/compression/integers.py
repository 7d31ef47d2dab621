"""A network as stages on whole numbers, from inputs in bytes to the scores of the classes.

A byte u stands for the input ``low + step · u``. A stage adds up whole numbers times weights, and a
staircase of whole bounds makes of each sum the whole number that the next stage takes; what that
stands for, ``base + unit · v``, is known here and enters bounds and scores alone. Levels that lie
on no grid become multiples of a power of two, of which 2^29 to 2^30 are the largest of them.

Here are the parts; ``integer_layers`` makes them of layers of signs, ``integer_operations`` of
lists of operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from attrs import field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import array
from .readout import Readout

# Bytes, and half of them; bits of numbers that levels without a grid become.
LARGEST, MIDDLE, _BITS = 255, 128, 30
# What int32 and int64 hold, the latter with some room.
NARROW, WIDE = 2**31 - 1, 2**62
TIE = 1e-12
MOST_SHIFT = 2**14

Kind = Literal["input", "weights", "dense", "max", "sum", "add", "scores"]
Numbers = NDArray[np.int64]


@frozen(eq=False)
class Values:
    """Whole numbers v, ``least`` to ``most``, that stand for base + unit · v.

    ``exact`` where float32 holds these, and adds them up without rounding.
    """

    unit: float
    least: int
    most: int
    base: float = 0.0
    exact: bool = False


@frozen(eq=False)
class Stairs:
    """What becomes of a sum s, the same in all rows or (rows, …).

    values[j], j the number of ``bounds`` (…, t) that s exceeds; gain · s + start where there are
    no bounds.
    """

    bounds: Numbers | None = None
    values: Numbers | None = None
    gain: Numbers = field(factory=lambda: np.ones(1, np.int64))
    start: Numbers = field(factory=lambda: np.zeros(1, np.int64))


@frozen(eq=False)
class Stage:
    """One stage: what it takes, the (rows, columns, channels) that it makes, and how.

    ``weights`` (outputs, height, width, channels) move by ``stride``, and were ``drawn`` or not;
    ``pool`` is of how many rows and columns of sums the largest is taken. Of a last stage
    ``scores`` are (2, classes): what a sum is multiplied with, and what is added. ``reach`` are the
    least and the largest sum, of all rows or of each.
    """

    kind: Kind
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    values: Values
    reach: tuple[Numbers, Numbers]
    stairs: Stairs = field(factory=Stairs)
    weights: NDArray[np.int32] | None = None
    drawn: Any = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    pool: tuple[int, int] = (1, 1)
    times: tuple[int, int] = (1, 1)
    scores: list[list[int]] | None = None

    @property
    def largest(self) -> int:
        """No sum is larger in size."""
        return int(max(np.abs(end).max() for end in self.reach))


def whole_levels(levels: ArrayLike, through_zero: bool) -> tuple[Numbers, Values]:
    """Whole numbers for levels, and what they stand for; 0 for 0 where ``through_zero``.

    Examples
    --------
    >>> from ntklc_helpers.compression.integers import whole_levels
    >>> numbers, values = whole_levels([-0.25, 0.0, 0.75], through_zero=True)
    >>> numbers.tolist(), values.unit, values.exact
    ([-1, 0, 3], 0.25, True)
    """
    levels = np.asarray(levels, np.float64)
    distinct = np.unique(levels)
    unit = float(np.diff(distinct).min(initial=np.inf))
    if not np.isfinite(unit):
        unit = float(abs(distinct[0])) or 1.0
    codes, reach = np.rint((levels - distinct[0]) / unit), float(np.ptp(levels)) or unit
    uniform = np.abs(distinct[0] + unit * codes - levels).max() <= TIE * reach
    first = distinct[0] / unit
    for halves in (1, 2):
        if uniform and abs(first) < LARGEST and abs(first * halves % 1 - 0.5) >= 0.5 - 1e-9:
            found = (halves * codes + np.rint(halves * first)).astype(np.int64)
            grid = bool((found * (unit / halves) == levels).all())
            return found, values_of(found, unit / halves, 0.0, grid)
    if uniform and not through_zero and codes.max() <= LARGEST:
        found = codes.astype(np.int64) - int(codes.max() + 1) // 2
        return found, values_of(found, unit, float(distinct[0] + unit * (codes - found)[0]), False)
    unit = 2.0 ** (math.frexp(float(np.abs(levels).max()))[1] - _BITS)
    found = np.rint(levels / unit).astype(np.int64)
    return found, values_of(found, unit, 0.0, False)


def values_of(found: Numbers, unit: float, base: float, grid: bool) -> Values:
    exact = grid and math.frexp(unit)[0] == 0.5
    return Values(unit, int(found.min()), int(found.max()), base, exact)


def reach_of(codes: NDArray, values: Values, padded: bool = False) -> tuple[Numbers, Numbers]:
    """(rows,) least and largest sums of codes (rows, …) times such values, or some of them."""
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    up, down = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
    least, most = values.least, values.most
    if padded:
        least, most = min(least, 0), max(most, 0)
    return up * least + down * most, up * most + down * least


def ends(least: int, most: int) -> tuple[Numbers, Numbers]:
    return np.array([least], np.int64), np.array([most], np.int64)


def scores(
    factors: Sequence[Fraction], offsets: Sequence[Fraction], sizes: Sequence[int]
) -> list[list[int]]:
    """Whole numbers (2, K) in the proportion of factors and offsets, which sums up to sizes meet.

    As they are where 62 bits hold them, else rounded to these.

    Examples
    --------
    >>> from ntklc_helpers.compression.integers import scores
    >>> scores([Fraction(1, 2), Fraction(3, 4)], [Fraction(0), Fraction(1, 8)], [10, 10])
    [[4, 6], [0, 1]]
    """
    largest = max(abs(f) * s + abs(b) for f, b, s in zip(factors, offsets, sizes, strict=True))
    denominator = Fraction(max(number.denominator for number in (*factors, *offsets)))
    if largest * denominator >= WIDE:
        # One bit is kept for what rounding adds.
        denominator = Fraction(2) ** (60 - math.frexp(float(largest))[1])
    return [[round(number * denominator) for number in row] for row in (factors, offsets)]


def inputs_of_bytes(low: ArrayLike, step: ArrayLike, count: int) -> tuple[NDArray, NDArray]:
    """(count,) inputs of byte 0, and from one byte to the next; ValueError if there are none."""
    found = []
    for name, given in (("low", low), ("step", step)):
        numbers = array(name, given, None)
        if numbers.shape not in ((), (1,), (count,)):
            raise ValueError(
                f"{name} must be one number, or {count}, one a channel or column; "
                f"got shape {numbers.shape}"
            )
        found.append(np.broadcast_to(numbers, count))
    if not (found[1] > 0).all():
        raise ValueError(f"step must be positive, got {found[1].min():g}")
    if not (np.abs(found[0]) + LARGEST * found[1] <= np.finfo(np.float32).max).all():
        raise ValueError("low and step must leave inputs that float32 holds")
    return found[0], found[1]


def bytes_as_they_are(low: NDArray, step: NDArray, shape: Any, padded: bool) -> Stage:
    """Bytes that no staircase changes: on a grid through zero if padding asks for that, else fine.

    A channel has a grid of its own; ``shape`` is (rows, columns, channels).
    """
    zero = np.rint(-low / step)
    alike = np.ptp(step) <= TIE * step[0] and np.ptp(low) == 0
    if alike and (not padded or (zero * step == -low).all()) and abs(zero[0]) < MOST_SHIFT:
        shift = int(zero[0]) if padded or zero[0] * step[0] == -low[0] else MIDDLE
        base = float(low[0] + shift * step[0])
        values = values_of(np.array([-shift, LARGEST - shift]), float(step[0]), base, base == 0)
        return Stage(
            "input", (), shape, values, ends(0, LARGEST),
            Stairs(start=np.array([-shift], np.int64)),
        )  # fmt: skip
    unit = 2.0 ** (math.frexp(float(np.abs([low, low + LARGEST * step]).max()))[1] - _BITS)
    gain, start = (np.rint(part / unit).astype(np.int64) for part in (step, low))
    both = np.stack([start, start + LARGEST * gain])
    # The product is there before the start is added.
    most = int(max(np.abs(both).max(), LARGEST * gain.max()))
    return Stage(
        "input", (), shape, values_of(both, unit, 0.0, False), ends(0, most),
        Stairs(gain=gain, start=start),
    )  # fmt: skip


def readout_stage(readout: Readout, before: list[Stage]) -> Stage:
    W = readout.weights.T
    K, scale, bias = len(W), readout.scale.astype(np.float64), readout.bias
    if readout.dtype == "int8":
        codes = W.astype(np.int32)
    else:
        used = W * scale[:, None]
        unit = 2.0 ** (math.frexp(float(np.abs(used).max()))[1] - _BITS + 1)
        codes, scale = np.rint(used / unit).astype(np.int32), np.full(K, unit)
    return score_stage(codes.reshape(K, 1, 1, -1), scale, bias, before, len(before) - 1)


def score_stage(
    codes: NDArray[np.int32], scale: NDArray, bias: NDArray, before: list[Stage], of: int
) -> Stage:
    """Scores scale · (codes ∗ x) + bias; two where there is one, which stands against 0."""
    if len(codes) == 1:
        codes = np.concatenate([np.zeros_like(codes), codes])
        scale, bias = (np.array([one, both[0]]) for one, both in ((1.0, scale), (0.0, bias)))
    values = before[of].values
    reach = reach_of(codes, values)
    sizes = np.maximum(*map(np.abs, reach)).tolist()
    sums = codes.reshape(len(codes), -1).sum(1, dtype=np.int64).tolist()
    unit, base = Fraction(values.unit), Fraction(values.base)
    factors = [Fraction(float(s)) * unit for s in scale]
    offsets = [
        Fraction(float(b)) + Fraction(float(s)) * base * total
        for s, b, total in zip(scale, bias, sums, strict=True)
    ]
    return Stage(
        "scores", (of,), (1, 1, len(codes)), values, reach, weights=codes,
        kernel=codes.shape[1:3], scores=scores(factors, offsets, sizes),
    )  # fmt: skip
