"""One compressed layer: ternary weights, a staircase, and what takes them to and from arrays.

A layer maps h to levels[j], where j counts the thresholds below s T h + c: T ternary, s one scale,
c one offset a neuron (none for random networks). Levels hold the centring and 1/√d, so that nothing
else is to be done between layers. Where they lie on a uniform grid, h = base + step · code, the
next layer's sums T h are taken over whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .activations import Quantized
from .integer import IntegerLayer
from .ternary import PackedTernary, TernaryMatrix, draw_ternary, pack_ternary, unpack_ternary
from .validation import finite_array

_MOST_PIECES = 256
_MOST_WEIGHTS = 2**31

WeightStorage = Literal["smallest", "packed", "seed"]


@dataclass(frozen=True)
class Drawn:
    """How ternary weights were drawn: :func:`draw_ternary` gives them again."""

    sparsity: float
    seed: int
    stream: int

    def matrix(self, shape: tuple[int, int]) -> TernaryMatrix:
        """The weights, (outputs, inputs)."""
        return TernaryMatrix.from_dense(draw_ternary(shape, self.sparsity, self.seed, self.stream))


@dataclass(frozen=True, eq=False)
class TernaryLayer:
    """One hidden layer, h ↦ levels[#{k: s (T h)_i + c_i > thresholds[k]}].

    Parameters
    ----------
    weights : TernaryMatrix
        T, (outputs, inputs).
    scale : float
        s, positive.
    thresholds : (t,) array, increasing, 1 ≤ t ≤ 255
    levels : (t + 1,) array
    offset : (outputs,) float32 array, optional
        c; zero if absent.
    drawn : Drawn, optional
        Where the weights come from, if they can be drawn again.

    Raises
    ------
    ValueError
        If lengths do not fit or a value is out of range.
    """

    weights: TernaryMatrix
    scale: float
    thresholds: NDArray[np.float64]
    levels: NDArray[np.float64]
    offset: NDArray[np.floating] | None = None
    drawn: Drawn | None = None

    def __post_init__(self) -> None:
        steps = Quantized(tuple(self.thresholds), tuple(self.levels))
        if len(steps.levels) > _MOST_PIECES:
            raise ValueError(f"levels must be at most {_MOST_PIECES}, got {len(steps.levels)}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a positive finite number, got {self.scale!r}")
        if self.offset is not None:
            offset = finite_array("offset", self.offset, 1)
            if offset.shape != self.weights.shape[:1]:
                raise ValueError(
                    f"offset must have one entry per neuron, {self.weights.shape[0]}, "
                    f"got shape {offset.shape}"
                )
            object.__setattr__(self, "offset", offset.astype(np.float32))
        object.__setattr__(self, "thresholds", np.array(steps.thresholds))
        object.__setattr__(self, "levels", np.array(steps.levels))

    @cached_property
    def grid(self) -> tuple[float, float, NDArray[np.int8]] | None:
        """(base, step, codes) with levels = base + step · codes; None if there is no such grid."""
        distinct = np.unique(self.levels)
        if len(distinct) == 1:
            return None
        step = np.diff(distinct).min()
        codes = np.rint((self.levels - distinct[0]) / step)
        if codes.max() >= _MOST_PIECES:
            return None
        codes -= codes.max() // 2
        base = float(np.mean(self.levels - step * codes))
        if np.abs(base + step * codes - self.levels).max() > 1e-12 * np.abs(np.ptp(distinct)):
            return None
        return base, float(step), codes.astype(np.int8)

    def prepared(self, before: TernaryLayer | None, last: bool) -> IntegerLayer:
        """The layer as it runs: on the codes of the layer before; on floats where it has none."""
        gain, largest, shift = self.scale, None, np.zeros(self.weights.shape[0])
        if self.offset is not None:
            shift = self.offset.astype(np.float64)
        if before is not None and before.grid is not None:
            base, step, codes = before.grid
            gain, largest = self.scale * step, int(np.abs(codes.astype(int)).max())
            shift = shift + self.scale * base * self.weights.row_sums
        values: NDArray
        if last:
            values = self.levels.astype(np.float32)
        else:
            values = self.levels if self.grid is None else self.grid[2]
        return IntegerLayer.prepare(self.weights, largest, gain, shift, self.thresholds, values)

    @property
    def nbytes(self) -> int:
        """Bytes that the offset, thresholds and levels take in a file."""
        offset = 0 if self.offset is None else self.offset.nbytes
        return offset + self.thresholds.nbytes + self.levels.nbytes

    def to_arrays(self, weights: WeightStorage) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Arrays and a description that :meth:`from_arrays` takes.

        Raises
        ------
        ValueError
            If the seed is asked for and the weights were not drawn from one.
        """
        arrays: dict[str, NDArray] = {"thresholds": self.thresholds, "levels": self.levels}
        if self.offset is not None:
            arrays["offset"] = self.offset
        about: dict[str, Any] = {"shape": self.weights.shape, "scale": self.scale}
        if weights == "seed" and self.drawn is None:
            raise ValueError('weights="seed" needs weights drawn from a seed; these were not')
        if weights != "packed" and self.drawn is not None:
            return arrays, about | {"drawn": asdict(self.drawn)}
        packed = pack_ternary(self.weights)
        arrays |= {"unary": packed.unary, "low": packed.low, "signs": packed.signs}
        names = ("codes_zeros", "rice_bits", "count")
        return arrays, about | {"packed": {name: getattr(packed, name) for name in names}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], about: Mapping[str, Any]) -> TernaryLayer:
        """The layer again; weights that were drawn are drawn again.

        Raises
        ------
        KeyError, TypeError, ValueError
            If arrays and description do not make a layer.
        """
        rows, columns = shape = tuple(about["shape"])
        if not (_count(rows) and _count(columns) and rows * columns <= _MOST_WEIGHTS):
            raise ValueError(f"the shape {shape} is not that of a layer")
        drawn = Drawn(**about["drawn"]) if "drawn" in about else None
        if drawn is not None:
            weights = drawn.matrix(shape)
        else:
            unary, low, signs = (
                _vector(arrays[name], np.uint8) for name in ("unary", "low", "signs")
            )
            packed = PackedTernary(
                shape=shape, unary=unary, low=low, signs=signs, **about["packed"]
            )
            weights = unpack_ternary(packed)
        return cls(
            weights=weights,
            scale=float(about["scale"]),
            thresholds=_vector(arrays["thresholds"], np.float64),
            levels=_vector(arrays["levels"], np.float64),
            offset=_vector(arrays["offset"], np.float32) if "offset" in arrays else None,
            drawn=drawn,
        )


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _vector(array: NDArray, dtype: type) -> NDArray:
    if array.ndim != 1 or array.dtype != dtype:
        raise ValueError(f"expected a vector of {dtype.__name__}, got {array.dtype} {array.shape}")
    return array
