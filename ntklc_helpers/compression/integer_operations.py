"""Networks that are lists of operations, as stages on whole numbers.

Behind codes with a scale a row a bound is the last sum that float32, in which torch computes,
leaves below a threshold: found by bisection, since rounding keeps the order. That is so where
levels lie on a grid whose sums float32 holds. Elsewhere bounds are those of real numbers, and a sum
that comes as near to a threshold as float32 rounds may be taken otherwise than by torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import asdict, evolve, frozen
from numpy.typing import ArrayLike, NDArray

from ..theory.activations import Quantized
from .integers import (
    LARGEST,
    Kind,
    Numbers,
    Stage,
    Stairs,
    Values,
    bytes_as_they_are,
    ends,
    inputs_of_bytes,
    reach_of,
    score_stage,
    whole_levels,
)  # fmt: skip
from .operations import Affine, Plain, Step, Window

# Below this float32 knows all whole numbers; levels that a staircase of levels takes.
_FLOAT32, _MOST_LEVELS = 2**24, 2**16


def _refused(path: str, reason: str) -> ValueError:
    return ValueError(f"export_c cannot write {path}: {reason}")


def _bounds(
    layer: Affine, codes: NDArray, steps: Quantized, values: Values, reach: Any
) -> tuple[Numbers, bool]:
    """(rows, t) last sums that are not above each threshold; whether torch finds the same."""
    thresholds = np.asarray(steps.thresholds, np.float32)
    scale, bias = np.abs(layer.scale)[:, None], layer.bias[:, None]
    low, high = (side[:, None] + np.zeros(len(thresholds), np.int64) for side in reach)
    largest = max(np.abs(end).max() for end in reach)
    if not (values.exact and largest < _FLOAT32):
        sums = codes.reshape(len(codes), -1).sum(1)[:, None] * values.base
        with np.errstate(divide="ignore", invalid="ignore"):
            real = ((thresholds - bias.astype(np.float64)) / scale - sums) / values.unit
        # Of a scale of zero nothing is above a threshold that the bias lies on.
        real = np.where(np.isnan(real), np.inf, np.floor(real))
        return np.clip(real, low - 1, high).astype(np.int64), False
    low = low - 1
    while (low < high).any():
        middle = (low + high + 1) // 2
        made = (middle * values.unit).astype(np.float32) * scale + bias
        above = (made > thresholds) & (low < high)
        low, high = np.where(above, low, middle), np.where(above, middle - 1, high)
    return low, True


@frozen(eq=False)
class _Made:
    """A value that a stage makes; ``flat`` where the list has it in one row."""

    stage: int
    flat: bool = False


@frozen(eq=False)
class _Sums:
    """Sums of a layer, on the way to their staircase; ``pool`` is taken of them before that."""

    layer: Affine
    of: int
    path: str
    pool: tuple[int, int] = (1, 1)


def of_operations(
    steps: Sequence[Step], shape: Sequence[int], low: ArrayLike, step: ArrayLike
) -> tuple[list[Stage], bool]:
    """Stages of a :class:`ConvertedNetwork`; and whether all sums are exact in float32, too."""
    return _Operations(steps, shape, low, step).stages()


class _Operations:
    """The list gone through once; ``found[k]`` is what became of value k."""

    def __init__(
        self, steps: Sequence[Step], shape: Sequence[int], low: ArrayLike, step: ArrayLike
    ) -> None:
        if len(shape) not in (1, 3):
            raise _refused(
                f"inputs of shape {tuple(shape)}", "they must be (p,) or (channels, rows, columns)"
            )
        channels, rows, columns = shape if len(shape) == 3 else (shape[0], 1, 1)
        self.steps, self.shape = steps, (rows, columns, channels)
        self.low, self.step = inputs_of_bytes(low, step, channels)
        self.uses = Counter(k for one in steps for k in one.inputs)
        layers = [one.operation for one in steps if isinstance(one.operation, Affine)]
        self.padded = any(layer.window and any(layer.window.padding) for layer in layers)
        self.made: list[Stage] = []
        self.found: dict[int, Any] = {}
        self.flat_input, self.exact = len(shape) == 1, True

    def stages(self) -> tuple[list[Stage], bool]:
        for i, one in enumerate(self.steps, start=1):
            path = one.path or f"operation {i - 1}"
            self.found[i] = self._one(one, i == len(self.steps), path)
        return self.made, self.exact

    def _one(self, one: Step, last: bool, path: str) -> Any:
        operation = one.operation
        if isinstance(operation, Quantized):
            return self._staircase(operation, one.inputs[0], path)
        if isinstance(operation, Affine):
            of = self._levels(one.inputs[0], path)
            if last:
                return self._last(operation, of, path)
            return _Sums(operation, of.stage, path)
        if isinstance(operation, Plain):
            return self._plain(operation, one.inputs, path)
        raise _refused(path, "its activation is not on levels")

    def _add(self, stage: Stage) -> _Made:
        self.made.append(stage)
        return _Made(len(self.made) - 1)

    def _levels(self, k: int, path: str) -> _Made:
        """Value k as whole numbers; the bytes themselves where they are taken as they are."""
        if k == 0 and 0 not in self.found:
            if self.uses[0] > 1:
                raise _refused(path, "the inputs are taken more than once")
            stage = bytes_as_they_are(self.low, self.step, self.shape, self.padded)
            self.exact &= stage.values.exact
            self.found[0] = evolve(self._add(stage), flat=self.flat_input)
        if not isinstance(self.found[k], _Made):
            raise _refused(path, "it takes sums; only a staircase can, or a maximum before one")
        return self.found[k]

    def _staircase(self, steps: Quantized, k: int, path: str) -> _Made:
        found, values = whole_levels(np.asarray(steps.levels, np.float32), self.padded)
        if k == 0 and 0 not in self.found:
            return self._bytes(steps, found, values, path)
        if isinstance(self.found[k], _Sums):
            return self._layer(self.found[k], steps, found, values, self.uses[k], path)
        of = self._levels(k, path)
        before = self.made[of.stage]
        self.exact &= before.values.exact
        taken = np.arange(before.values.least, before.values.most + 1)
        if len(taken) > 2**16:
            raise _refused(path, "a staircase of levels takes these on a grid")
        real = (before.values.base + before.values.unit * taken).astype(np.float32)
        bounds = _passed(real, steps) + before.values.least - 1
        stairs = Stairs(bounds[None], found)
        stage = Stage(
            "sum", (of.stage,), before.shape, values,
            ends(before.values.least, before.values.most), stairs,
        )  # fmt: skip
        return evolve(self._add(stage), flat=of.flat)

    def _bytes(self, steps: Quantized, found: Numbers, values: Values, path: str) -> _Made:
        if self.uses[0] > 1:
            raise _refused(path, "the inputs are taken more than once")
        u = np.arange(LARGEST + 1)
        both = np.unique(np.stack([self.low, self.step]), axis=1)
        alone = both.shape[1] == 1
        low, step = both if alone else (self.low, self.step)
        given = (low[:, None] + step[:, None] * u).astype(np.float32)
        bounds = np.stack([_passed(row, steps) - 1 for row in given])
        stage = Stage("input", (), self.shape, values, ends(0, LARGEST), Stairs(bounds, found))
        self.found[0] = evolve(self._add(stage), flat=self.flat_input)
        return self.found[0]

    def _codes(self, layer: Affine, of: int, path: str) -> tuple[NDArray[np.int32], Window]:
        """(outputs, height, width, channels), rows of negative scale negated; and how they move."""
        signs = np.where(layer.scale < 0, -1, 1).astype(np.int32)
        codes = layer.codes.astype(np.int32)
        rows, columns, channels = self.made[of].shape
        if layer.window is None:
            if codes.shape[1] != rows * columns * channels:
                raise _refused(path, "a layer of sums over one side of an image is not written")
            codes = codes.reshape(-1, channels, rows, columns)
        codes = codes.transpose(0, 2, 3, 1) * signs[:, None, None, None]
        return np.ascontiguousarray(codes), layer.window or Window()

    def _layer(
        self, sums: _Sums, steps: Quantized, found: Numbers, values: Values, uses: int, path: str
    ) -> _Made:
        layer, before = sums.layer, self.made[sums.of]
        if uses > 1:
            raise _refused(sums.path, "its sums are taken more than once")
        if sums.pool != (1, 1) and (np.diff(found) < 0).any():
            raise _refused(path, "behind a maximum of sums a staircase must not fall")
        codes, window = self._codes(layer, sums.of, sums.path)
        reach = reach_of(codes, before.values, any(window.padding))
        bounds, exact = _bounds(layer, codes, steps, before.values, reach)
        self.exact &= exact
        kernel = codes.shape[1:3]
        rows, columns, outputs = _moved(before.shape, kernel, window, len(codes))
        alone = rows == columns == window.groups == 1 and kernel == before.shape[:2]
        stage = Stage(
            "dense" if alone and not any(window.padding) else "weights", (sums.of,),
            (rows // sums.pool[0], columns // sums.pool[1], outputs), values, reach,
            Stairs(bounds, found), codes, kernel=kernel, pool=sums.pool,
            **asdict(window, recurse=False),
        )  # fmt: skip
        return evolve(self._add(stage), flat=layer.window is None)

    def _last(self, layer: Affine, of: _Made, path: str) -> _Made:
        codes, window = self._codes(layer, of.stage, path)
        if window != Window() or codes.shape[1:] != self.made[of.stage].shape:
            raise _refused(path, "the last layer must take all that there is, once")
        scale = np.abs(layer.scale)
        return self._add(score_stage(codes, scale, layer.bias, self.made, of.stage))

    def _plain(self, plain: Plain, inputs: tuple[int, ...], path: str) -> Any:
        if plain.name == "add" and not plain.options:
            one, two = (self._levels(k, path) for k in inputs)
            return self._sum_of(one, two, path)
        if isinstance(given := self.found.get(inputs[0]), _Sums):
            return self._before_stairs(plain, given, self.uses[inputs[0]], path)
        of = self._levels(inputs[0], path)
        if plain.name == "flatten" and not plain.options:
            return evolve(of, flat=True)
        if of.flat:
            raise _refused(path, f"{plain.name} takes images")
        return self._pooled(plain, of, self.uses[inputs[0]], path)

    def _pooled(self, plain: Plain, of: _Made, uses: int, path: str) -> _Made:
        before = self.made[of.stage]
        kernel, window = _pooling(plain, before.shape, path)
        values, shape = before.values, _moved(before.shape, kernel, window, before.shape[2])
        kind: Kind = "max" if "max" in plain.name else "sum"
        beside = kernel == window.stride and not any(window.padding)
        own = before.kind == "weights" and before.pool == (1, 1) and uses == 1
        if kind == "max" and beside and own:
            self.made[of.stage] = evolve(before, pool=kernel, shape=shape)
            return of
        if kind == "sum":
            n = math.prod(kernel)
            values = evolve(
                values, unit=values.unit / n, least=values.least * n, most=values.most * n,
                exact=values.exact and n & (n - 1) == 0,
            )  # fmt: skip
        stage = Stage(
            kind, (of.stage,), shape, values, ends(values.least, values.most),
            kernel=kernel, **asdict(window, recurse=False),
        )  # fmt: skip
        return _Made(self._add(stage).stage, plain.name == "mean")

    def _before_stairs(self, plain: Plain, given: _Sums, uses: int, path: str) -> _Sums:
        """A maximum of sums is one of levels, behind a staircase that does not fall."""
        codes, window = self._codes(given.layer, given.of, given.path)
        shape = _moved(self.made[given.of].shape, codes.shape[1:3], window, len(codes))
        if "max" not in plain.name or uses > 1 or given.pool != (1, 1):
            raise _refused(path, "it takes sums; only a staircase can, or a maximum before one")
        kernel, pooling = _pooling(plain, shape, path)
        if kernel != pooling.stride or any(pooling.padding) or (given.layer.scale < 0).any():
            raise _refused(path, "a maximum of sums must be of windows side by side")
        return evolve(given, pool=kernel)

    def _sum_of(self, one: _Made, two: _Made, path: str) -> _Made:
        a, b = (self.made[of.stage] for of in (one, two))
        unit = min(a.values.unit, b.values.unit)
        times = round(a.values.unit / unit), round(b.values.unit / unit)
        fit = times[0] * unit == a.values.unit and times[1] * unit == b.values.unit
        if not fit or a.shape != b.shape or one.flat != two.flat:
            raise _refused(path, "it must add levels of one shape, on grids that fit each other")
        least = times[0] * a.values.least + times[1] * b.values.least
        most = times[0] * a.values.most + times[1] * b.values.most
        base, exact = a.values.base + b.values.base, a.values.exact and b.values.exact
        values, reach = Values(unit, least, most, base, exact), ends(least, most)
        stage = Stage("add", (one.stage, two.stage), a.shape, values, reach, times=times)
        return evolve(self._add(stage), flat=one.flat)


def _passed(increasing: NDArray[np.float32], steps: Quantized) -> Numbers:
    """Of each threshold how many of the numbers are not above it."""
    thresholds = np.asarray(steps.thresholds, np.float32)
    return np.searchsorted(increasing, thresholds, side="right").astype(np.int64)


def _pair(value: Any) -> tuple[int, int]:
    one, two = value if isinstance(value, Sequence) else (value, value)
    return one, two


def _pooling(plain: Plain, shape: Sequence[int], path: str) -> tuple[tuple[int, int], Window]:
    """Kernel and moves of a pooling of (rows, columns, …); ValueError if they are of others."""
    options, name = dict(plain.options), plain.name
    rows, columns = shape[:2]
    if name == "mean" and sorted(d % 4 for d in _pair(options.pop("dim", 0))) == [2, 3]:
        kernel = (rows, columns)
        window = Window(kernel)
    elif name.startswith("adaptive"):
        size = options.pop("output_size", None)
        sides = _pair(size)
        if None in sides or 0 in sides or rows % sides[0] or columns % sides[1]:
            raise _refused(path, f"output_size={size} does not divide {rows} × {columns}")
        kernel = (rows // sides[0], columns // sides[1])
        window = Window(kernel)
    else:
        kernel = _pair(options.pop("kernel_size", 0))
        stride = options.pop("stride", None)
        window = Window(
            _pair(kernel if stride is None else stride), _pair(options.pop("padding", 0))
        )
    if options or "avg" in name and any(window.padding) or min(kernel) < 1:
        raise _refused(path, f"{name} with options {dict(plain.options)}")
    return kernel, window


def _moved(
    shape: tuple[int, int, int], kernel: Sequence[int], window: Window, channels: int
) -> tuple[int, int, int]:
    """Rows and columns that a window leaves of an image, and so many channels."""
    rows, columns = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(
            shape, kernel, window.stride, window.padding, window.dilation, strict=False
        )
    )
    return rows, columns, channels
