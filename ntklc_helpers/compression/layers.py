"""One compressed layer: ternary weights, a staircase, and the two ways to run it.

A layer maps h to activation(s T h + c): T ternary, s one scale, c one offset a neuron (none for
random networks). Levels hold the centring and 1/√d, so that nothing else is to be done between
layers. Where they lie on a uniform grid, h = base + step · code, what is passed on are the codes:
small numbers, whose sums T h are exact on integers and in torch alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from attrs import asdict, converters, field, frozen
from numpy.typing import NDArray

from .._checks import array, positive, whole
from ..theory.activations import Quantized
from ..theory.weights import draw_ternary
from .engine import IntegerLayer
from .scaling import Scaling
from .ternary import PackedTernary, TernaryMatrix, pack_ternary, unpack_ternary

# What int8 holds; what pieces are counted in; what a file may ask its reader to make room for.
_MOST_CODES, _MOST_PIECES = 256, 2**16
_MOST_NEURONS, _MOST_NUMBERS = 2**20, 2**28
_STREAMS = ("unary", "low", "signs")

WeightStorage = Literal["smallest", "packed", "seed"]


@frozen
class Drawn:
    """How ternary weights were drawn: :func:`draw_ternary` gives them again."""

    sparsity: float
    seed: int
    stream: int

    def matrix(self, shape: tuple[int, int]) -> TernaryMatrix:
        """The weights, (outputs, inputs)."""
        return TernaryMatrix.from_signs(draw_ternary(shape, self.sparsity, self.seed, self.stream))


@frozen(eq=False, slots=False)
class TernaryLayer:
    """One hidden layer, h ↦ activation(s T h + c).

    ValueError if lengths do not fit or a value is out of range.

    Parameters
    ----------
    weights : TernaryMatrix
        T, (outputs, inputs).
    scale : float
        s, positive.
    activation : Quantized
    offset : (outputs,) float32 array, optional
        c; zero if absent.
    drawn : Drawn, optional
        Where the weights come from, if they can be drawn again.

    Examples
    --------
    >>> T = nh.compression.TernaryMatrix.from_dense([[1, -1], [0, 1]])
    >>> layer = TernaryLayer(T, 0.5, nh.Quantized([0.2], [0.0, 1.0]), offset=[0.0, 0.1])
    >>> nh.CompressedNetwork([layer]).features([[1.0, 0.0], [0.0, 1.0]]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    weights: TernaryMatrix
    scale: float = field(converter=lambda value: positive("scale", value))
    activation: Quantized = field()
    offset: NDArray[np.float32] | None = field(
        default=None,
        converter=converters.optional(lambda c: array("offset", c, 1).astype(np.float32)),
    )
    drawn: Drawn | None = None

    @activation.validator
    def _countable(self, _: Any, activation: Quantized) -> None:
        if not isinstance(activation, Quantized) or len(activation.levels) > _MOST_PIECES:
            raise ValueError(f"activation must be a Quantized of at most {_MOST_PIECES} levels")

    @offset.validator
    def _one_each(self, _: Any, offset: NDArray | None) -> None:
        if offset is not None and offset.shape != self.weights.shape[:1]:
            raise ValueError(
                f"offset must have one entry per neuron, {self.weights.shape[0]}, "
                f"got shape {offset.shape}"
            )

    @cached_property
    def grid(self) -> tuple[float, float, NDArray[np.float64]] | None:
        """(base, step, codes) with levels = base + step · codes; None if there is no such grid.

        Codes are whole. Where 0 is on the grid, or half a step from it, base is 0 and codes are
        whole or half numbers: then no sum of weights enters what the next layer computes.
        """
        levels = np.array(self.activation.levels)
        distinct = np.unique(levels)
        if len(distinct) == 1:
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # of differences beyond float64
            step = float(np.diff(distinct).min())
            codes = np.rint((levels - distinct[0]) / step)
            # Added in their order, so that whoever reads the file has the same bits.
            base = float(np.cumsum(levels - step * codes)[-1] / len(levels))
            off = np.abs(base + step * codes - levels).max()
            if not (codes.max() < _MOST_CODES and off <= 1e-12 * np.ptp(distinct)):
                return None
        first = np.rint(2 * base / step) / 2
        if abs(first) <= _MOST_CODES and abs(first * step - base) <= 1e-9 * step:
            return 0.0, step, codes + first
        return base, step, codes

    @cached_property
    def _int8(self) -> tuple[float, NDArray[np.int8]] | None:
        """(middle, codes − middle): whole numbers as small as can be; None without a grid."""
        if self.grid is None:
            return None
        codes = self.grid[2]
        middle = float(codes.min() + (np.ptp(codes) + 1) // 2)
        return middle, (codes - middle).astype(np.int8)

    @cached_property
    def _signs(self) -> torch.Tensor:
        return torch.from_numpy(self.weights.to_dense())

    def _affine(self, before: TernaryLayer | None) -> tuple[float, NDArray[np.float64]]:
        """(gain, shift) with gain · T codes + shift for s T h + c, codes of the layer before."""
        shift = np.zeros(self.weights.shape[0]) if self.offset is None else self.offset
        base, step, _ = (before and before.grid) or (0.0, 1.0, None)
        return self.scale * step, shift + self.scale * base * self.weights.row_sums

    def on_integers(self, before: TernaryLayer | None, last: bool) -> IntegerLayer:
        """To run on the CPU, on the int8 codes of the layer before; on floats where it has none."""
        gain, shift = self._affine(before)
        reach = None
        if before is not None and before._int8 is not None:
            middle, codes = before._int8
            shift = shift + gain * middle * self.weights.row_sums
            reach = int(codes.min()), int(codes.max())
        return self._prepared(reach, gain, shift, last)

    def on_bytes(self, scaling: Scaling | None, last: bool) -> IntegerLayer | None:
        """As a first layer of bytes less 128; None where columns are scaled differently."""
        centre, scale = (scaling.centre, scaling.scale) if scaling else (np.zeros(1), np.ones(1))
        if (scale != scale[0]).any():
            return None
        gain, shift = self._affine(None)
        # Of what is not whole, the sums of centred columns are taken once, and not of every sample.
        lift = self.weights.to_dense() @ np.broadcast_to(128 - centre, self.weights.shape[1])
        return self._prepared((-128, 127), gain / scale[0], shift + gain / scale[0] * lift, last)

    def _prepared(
        self, reach: tuple[int, int] | None, gain: float, shift: NDArray[np.float64], last: bool
    ) -> IntegerLayer:
        values: NDArray = np.array(self.activation.levels, np.float32 if last else np.float64)
        if self._int8 is not None and not last:
            values = self._int8[1]
        thresholds = np.array(self.activation.thresholds)
        return IntegerLayer.prepare(self.weights, reach, gain, shift, thresholds, values)

    def by_torch(
        self, before: TernaryLayer | None, like: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """From codes (n, d_prev) of the layer before to its own (n, d), on a device: ``like``'s."""
        gain, shift = self._affine(before)
        codes = self.activation.levels if self.grid is None else self.grid[2]
        parts = (self._signs, shift, self.activation.thresholds, codes)
        W, bias, thresholds, values = (torch.as_tensor(part).to(like) for part in parts)
        return lambda x: values[torch.bucketize(gain * (x @ W.T) + bias, thresholds)]

    def to_arrays(self, weights: WeightStorage) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Arrays and a description that :meth:`from_arrays` takes.

        ValueError if the seed is asked for and the weights were not drawn from one.
        """
        arrays: dict[str, NDArray] = {
            "thresholds": np.array(self.activation.thresholds),
            "levels": np.array(self.activation.levels),
        }
        if self.offset is not None:
            arrays["offset"] = self.offset
        about: dict[str, Any] = {"shape": self.weights.shape, "scale": self.scale}
        if weights == "seed" and self.drawn is None:
            raise ValueError('weights="seed" needs weights drawn from a seed; these were not')
        if weights != "packed" and self.drawn is not None:
            return arrays, about | {"drawn": asdict(self.drawn)}
        packed = asdict(pack_ternary(self.weights))
        arrays |= {name: packed.pop(name) for name in _STREAMS}
        del packed["shape"]
        return arrays, about | {"packed": packed}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], about: Mapping[str, Any]) -> TernaryLayer:
        """The layer again; weights that were drawn are drawn again.

        KeyError, TypeError or ValueError if arrays and description do not make a layer.
        """

        def vector(name: str, dtype: type) -> NDArray:
            if arrays[name].ndim != 1 or arrays[name].dtype != dtype:
                raise ValueError(f"{name} must be a vector of {dtype.__name__}")
            return arrays[name]

        rows, columns = (whole("shape", n, 1, _MOST_NEURONS) for n in about["shape"])
        if rows * max(columns, len(arrays["levels"])) > _MOST_NUMBERS:
            raise ValueError(f"shape must not ask for more than {_MOST_NUMBERS} numbers")
        drawn = Drawn(**about["drawn"]) if "drawn" in about else None
        if drawn is not None:
            weights = drawn.matrix((rows, columns))
        else:
            parts = about["packed"] | {name: vector(name, np.uint8) for name in _STREAMS}
            weights = unpack_ternary(PackedTernary((rows, columns), **parts))
        stairs = Quantized(vector("thresholds", np.float64), vector("levels", np.float64))
        offset = vector("offset", np.float32) if "offset" in arrays else None
        return cls(weights, about["scale"], stairs, offset, drawn)
