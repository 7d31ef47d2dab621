"""A network as a list of operations, each with the values that it takes, run by torch.

What a trained network is read into, and what it is compressed to: the same list, in which weights
have become codes with a scale a row, and activations staircases. A file holds the latter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from attrs import asdict, field, frozen
from numpy.typing import NDArray
from torch.nn import functional as F

from .._checks import number, whole
from ..theory.activations import Quantized
from .rounding import Bits, code_range
from .ternary import PackedTernary, TernaryMatrix, pack_ternary, unpack_ternary

# What a file may ask its reader to make room for: numbers, and sides of a kernel or a padding.
_MOST_NUMBERS, _MOST_OF_A_SIDE = 2**28, 2**12
_LARGEST_UNIT, _MOST_LEVELS = 112, 2**16
# Of packed ternary codes, streams in their order in a file: all lengths follow from the numbers.
_STREAMS, _PACKED = ("low", "signs", "unary"), ("codes_zeros", "rice_bits", "count")
# Of pools: least values of options that are a number or one a side; what is true or false.
_SIDES = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "output_size": 1}
_TRUTHS, _ABSENT = ("ceil_mode", "count_include_pad"), ("stride", "divisor_override")
# What has no numbers of its own, by the name in a file.
PLAIN: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add,
    "flatten": partial(torch.flatten, start_dim=1),
    "mean": torch.mean,
    "max_pool2d": F.max_pool2d,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "mean": ("dim",),
    "max_pool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": (
        *("kernel_size", "stride", "padding", "ceil_mode"),
        *("count_include_pad", "divisor_override"),
    ),
    "adaptive_avg_pool2d": ("output_size",),
    "adaptive_max_pool2d": ("output_size",),
}


@frozen
class Window:
    """How a convolution moves: ``stride``, ``padding`` and ``dilation`` by rows and columns."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


@frozen(eq=False)
class Affine:
    """``scale · (codes ∗ x) + bias``: a Linear, or a Conv2d where there is a ``window``.

    ``codes`` are (rows, inputs) or (rows, channels, height, width): whole numbers in int8 of so
    many ``bits``, or the weights themselves, as they are before they are rounded. ``scale`` and
    ``bias`` (rows,) float32.
    """

    codes: NDArray
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    bits: Bits | None = None
    window: Window | None = None

    def __attrs_post_init__(self) -> None:
        rows = self.codes.shape[:1]
        if self.codes.ndim != (2 if self.window is None else 4) or self.codes.size == 0:
            raise ValueError(f"codes of shape {self.codes.shape} are no layer's")
        for name, one_each in (("scale", self.scale), ("bias", self.bias)):
            if one_each.shape != rows or not np.isfinite(one_each).all():
                raise ValueError(f"{name} must have a finite entry a row, got {one_each.shape}")

    @property
    def matrix(self) -> NDArray:
        """(rows, columns) codes."""
        return self.codes.reshape(len(self.codes), -1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        codes, scale, bias = (
            torch.from_numpy(a).to(x) for a in (self.codes, self.scale, self.bias)
        )
        if self.window is None:
            return F.linear(x, codes) * scale + bias
        found = F.conv2d(x, codes, **asdict(self.window, recurse=False))
        return found * scale[:, None, None] + bias[:, None, None]

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """(n, groups, places, columns): what each row of the codes is multiplied with."""
        if self.window is None:
            return x.reshape(len(x), 1, -1, x.shape[-1])
        w = self.window
        shape = self.codes.shape[2:]
        found = F.unfold(x, shape, w.dilation, w.padding, w.stride).transpose(1, 2)
        return found.unflatten(2, (w.groups, -1)).transpose(1, 2)

    @property
    def nbytes(self) -> int:
        """Bytes that codes, scales and biases take in a file."""
        return sum(array.nbytes for array in self.to_arrays()[0].values())

    def to_arrays(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """What a file holds of it: scales and biases, and codes in one stream of bits."""
        about: dict[str, Any] = {"bits": self.bits, "shape": self.codes.shape}
        both = [in_halves(row) for row in (self.scale, self.bias)]
        rows = np.stack([self.scale, self.bias])
        if all((half[2] == row).all() for half, row in zip(both, rows, strict=True)):
            rows, about["units"] = np.stack([half[0] for half in both]), [half[1] for half in both]
        arrays: dict[str, NDArray] = {"rows": rows}
        if self.window is not None:
            moves, still = asdict(self.window), asdict(Window())
            about["window"] = {name: moves[name] for name in moves if moves[name] != still[name]}
        packed = asdict(pack_ternary(TernaryMatrix.from_signs(np.sign(self.matrix))))
        streams = [packed[name] for name in _STREAMS]
        about_places = about | {"packed": [packed[name] for name in _PACKED]}
        if self.bits == "ternary":
            return arrays | {"codes": np.concatenate(streams)}, about_places
        width = cast(Literal[2, 3, 4, 8], self.bits)
        everywhere = _as_bits(self.codes.ravel() - np.int16(code_range(width)[0]), width)
        sizes = np.abs(self.codes[self.codes != 0].astype(np.int16))
        streams.insert(2, _as_bits(sizes - 1, width - 1))
        placed = np.concatenate(streams)
        if len(placed) < len(everywhere):
            return arrays | {"codes": placed}, about_places
        return arrays | {"codes": everywhere}, about

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], about: Mapping[str, Any]) -> Affine:
        """The operation again; KeyError, TypeError or ValueError if there is none."""
        bits, shape = about["bits"], tuple(whole("shape", n, 1) for n in about["shape"])
        few = len(shape) > 1 and np.prod(shape, dtype=float) < _MOST_NUMBERS
        if bits not in get_args(Bits) or not few:
            raise ValueError(f"there are no codes of {bits!r} bits and shape {shape}")
        rows, stream = arrays["rows"], arrays["codes"]
        if rows.shape != (2, shape[0]):
            raise ValueError(f"scale and bias must have an entry a row, got shape {rows.shape}")
        if rows.dtype == np.float16:
            units = [whole("units", e, -_LARGEST_UNIT, _LARGEST_UNIT) for e in about["units"]]
            one_each = np.array(units, np.int32).reshape(2, 1)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused
                rows = np.ldexp(rows.astype(np.float32), one_each)
        if rows.dtype != np.float32 or stream.dtype != np.uint8 or stream.ndim != 1:
            raise ValueError("codes must be packed in bytes, scale and bias be float32")
        window = _window(about["window"]) if "window" in about else None
        size = shape[0], int(np.prod(shape[1:]))
        if bits == "ternary" or "packed" in about:
            codes = _placed(stream, size, bits, about["packed"]).reshape(shape)
        else:
            places = _of_bits(stream, bits, size[0] * size[1])
            codes = (places + code_range(bits)[0]).astype(np.int8).reshape(shape)
        scale, bias = rows
        return cls(codes, scale, bias, bits, window)


def in_halves(row: NDArray[np.float32]) -> tuple[NDArray[np.float16], int, NDArray[np.float32]]:
    """Entries nearest to these in float16 times a power of two: those, its exponent, and both.

    Examples
    --------
    >>> from ntklc_helpers.compression.operations import in_halves
    >>> halves, unit, rounded = in_halves(np.float32([3e9, 1.0]))
    >>> float(halves[0]), unit, rounded.tolist()
    (22896.0, 17, [3001024512.0, 1.0])
    """
    largest = float(np.abs(row).max(initial=0.0))
    # So that the largest stays below 2^15, within what float16 holds.
    unit = int(np.frexp(largest)[1]) - 15 if largest else 0
    unit = int(np.clip(unit, -_LARGEST_UNIT, _LARGEST_UNIT))
    halves = np.ldexp(row, -unit).astype(np.float16)
    return halves, unit, np.ldexp(halves.astype(np.float32), unit)


def _window(given: Mapping[str, Any]) -> Window:
    """From what a file says; KeyError, TypeError or ValueError if that is none."""
    moves = {**asdict(Window()), **given}
    groups, pairs = whole("groups", moves.pop("groups"), 1, _MOST_NUMBERS), {}
    for name, (one, two) in moves.items():
        least = int(name != "padding")
        pairs[name] = tuple(whole(name, k, least, _MOST_OF_A_SIDE) for k in (one, two))
    return Window(**pairs, groups=groups)


def _placed(
    stream: NDArray[np.uint8], size: tuple[int, int], bits: Bits, packed: Sequence[Any]
) -> NDArray[np.int8]:
    """Codes of which it is told where they are not 0, and their signs; and sizes, if not all 1."""
    (zeros, k, count), total = packed, size[0] * size[1]
    k, count = whole("rice_bits", k, 0, 30), whole("count", count, 0, total)
    nonzeros = total - count if zeros else count
    width = 0 if bits == "ternary" else bits - 1
    ends = np.cumsum([-(-b // 8) for b in (count * k, nonzeros, nonzeros * width)])
    low, signs, sizes, unary = np.split(stream, ends)
    streams = {"low": low, "signs": signs, "unary": unary}
    codes = unpack_ternary(PackedTernary(size, zeros, k, count, **streams)).to_dense()
    if width:
        full = codes.astype(np.int16)
        full[codes != 0] *= 1 + _of_bits(sizes, width, nonzeros)
        if full.max(initial=0) > code_range(bits)[1]:
            raise ValueError(f"there are no codes of {bits} bits beyond {code_range(bits)[1]}")
        codes = full.astype(np.int8)
    return codes


def _as_bits(values: NDArray, width: int) -> NDArray[np.uint8]:
    """Numbers of so many bits each, from their lowest on."""
    return np.packbits(values.astype(np.uint8)[:, None] >> np.arange(width, dtype=np.uint8) & 1)


def _of_bits(stream: NDArray[np.uint8], width: int, count: int) -> NDArray[np.int16]:
    """The numbers again; ValueError unless the stream holds as many and nothing more."""
    digits = np.unpackbits(stream)
    if len(stream) != -(-count * width // 8) or digits[count * width :].any():
        raise ValueError(f"codes must hold {count} numbers of {width} bits and nothing more")
    return digits[: count * width].reshape(-1, width) @ (1 << np.arange(width, dtype=np.int16))


@frozen(eq=False)
class Applied:
    """An elementwise activation, as it is before staircases take its place."""

    function: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@frozen
class Plain:
    """One of :data:`PLAIN` with its options."""

    name: str
    options: Mapping[str, Any] = field(factory=dict)

    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        return PLAIN[self.name](*values, **self.options)

    @classmethod
    def from_description(cls, name: Any, options: Mapping[str, Any]) -> Plain:
        """From what a file says; ValueError if that is none of them."""
        known = name in PLAIN and options.keys() <= {*OPTIONS.get(name, ())}
        if not known or not all(_possible(*option) for option in options.items()):
            raise ValueError(f"there is no operation {name!r} with options {dict(options)}")
        return cls(name, dict(options))


def _possible(option: str, value: Any) -> bool:
    if option == "dim":
        return value == [2, 3]
    if option in _TRUTHS:
        return isinstance(value, bool)
    if value is None:
        return option in _ABSENT
    sides = value if isinstance(value, list) and option in _SIDES else [value]
    if isinstance(value, list) and option == "output_size":
        sides = [1 if side is None else side for side in value]
    least = _SIDES.get(option, 1)
    numbers = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    return numbers and 0 < len(sides) <= 2 and all(least <= n <= _MOST_OF_A_SIDE for n in sides)


Operation = Affine | Applied | Quantized | Plain


@frozen(eq=False)
class Step:
    """An operation on values: 0 is the input, k what the k-th step makes; ``path`` is its place."""

    operation: Operation
    inputs: tuple[int, ...]
    path: str = ""


@frozen
class LayerReport:
    """What became of one operation: its place, codes or levels, and what that costs.

    ``bits`` of a layer of weights, ``levels`` of a staircase; ``nbytes`` in the file; ``error`` is
    the squared error of what it gives, over the variance of what the original's gives, on the
    tenth of the samples that was held out.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> X = np.random.default_rng(0).standard_normal((99, 2))
    >>> [layer.path for layer in nh.compress(net, X, levels=4, bits=4).report]
    ['net[0]', 'net[1]', 'net[2]']
    """

    path: str
    bits: Bits | None
    levels: int | None
    nbytes: int
    error: float


def run(steps: Sequence[Step], x: torch.Tensor) -> torch.Tensor:
    """What the last step makes of x (n, …); what no later step takes is let go."""
    uses, values = Counter(k for step in steps for k in step.inputs), {0: x}
    for i, step in enumerate(steps, start=1):
        values[i] = step.operation(*(values[k] for k in step.inputs))
        uses.subtract(step.inputs)
        values = {k: value for k, value in values.items() if uses[k] > 0 or k == i}
    return values[len(steps)]


def to_arrays(steps: Sequence[Step]) -> tuple[dict[str, NDArray], list[dict[str, Any]]]:
    """Arrays and descriptions of steps, none of which is an activation that was not replaced."""
    tensors: dict[str, NDArray] = {}
    described: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        about: dict[str, Any] = {} if step.inputs == (i,) else {"inputs": step.inputs}
        arrays: dict[str, NDArray] = {}
        if isinstance(step.operation, Affine):
            arrays, more = step.operation.to_arrays()
        elif isinstance(step.operation, Quantized):
            arrays, more = _of_staircase(step.operation)
        else:
            plain = cast(Plain, step.operation)
            more = {"name": plain.name} | ({"options": plain.options} if plain.options else {})
        tensors |= {f"{i}.{name}": array for name, array in arrays.items()}
        described.append(about | more)
    return tensors, described


def from_arrays(
    tensors: Mapping[str, NDArray], described: Sequence[Mapping[str, Any]], shape: Sequence[int]
) -> list[Step]:
    """The steps again, for inputs of that shape; KeyError, TypeError or ValueError if none fit."""
    steps = []
    for i, about in enumerate(described):
        inputs = tuple(whole("inputs", k, 0, i) for k in about.get("inputs", (i,)))
        arrays = {n.partition(".")[2]: a for n, a in tensors.items() if n.split(".")[0] == str(i)}
        operation: Operation
        if "bits" in about:
            operation = Affine.from_arrays(arrays, about)
        elif "staircase" in arrays or "uniform" in about:
            operation = _staircase(arrays, about)
        else:
            operation = Plain.from_description(about["name"], about.get("options", {}))
        steps.append(Step(operation, inputs))
    _fit(steps, shape)
    return steps


def staircase_bytes(steps: Quantized) -> int:
    """Bytes that thresholds and levels take in a file, the description aside."""
    return sum(array.nbytes for array in _of_staircase(steps)[0].values())


def _of_staircase(steps: Quantized) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """What a file holds of thresholds and levels in float32: first and distance, if these tell."""
    rows = [np.asarray(row, np.float32) for row in (steps.thresholds, steps.levels)]
    told: list[Any] = [len(rows[1])]
    for row in rows:
        told += [float(row[0]), float(row[1] - row[0]) if len(row) > 1 else 1.0]
    if all(np.array_equal(a, b) for a, b in zip(_grids(told), rows, strict=True)):
        return {}, {"uniform": told}
    return {"staircase": np.concatenate(rows)}, {}


def _grids(told: Sequence[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Thresholds and levels at equal distances: how many levels, and first and distance of both."""
    m, *numbers = told
    at = np.arange(whole("uniform", m, 2, _MOST_LEVELS))
    start, step, low, rise = (number("uniform", value) for value in numbers)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused
        thresholds, levels = start + step * at[:-1], low + rise * at
        return thresholds.astype(np.float32), levels.astype(np.float32)


def _staircase(arrays: Mapping[str, NDArray], about: Mapping[str, Any]) -> Quantized:
    if "uniform" in about:
        thresholds, levels = _grids(about["uniform"])
        return Quantized(thresholds.astype(np.float64), levels.astype(np.float64))
    if arrays["staircase"].dtype != np.float32 or len(arrays["staircase"]) > 2 * _MOST_LEVELS:
        raise ValueError(f"a staircase must be of float32, and of at most {_MOST_LEVELS} levels")
    both = arrays["staircase"].astype(np.float64)
    return Quantized(both[: len(both) // 2], both[len(both) // 2 :])


def _fit(steps: Sequence[Step], shape: Sequence[int]) -> None:
    """Refuse steps of which one cannot take what it is given, by shapes alone."""
    sizes = [whole("shape", side, 1, _MOST_NUMBERS) for side in shape]
    if not (steps and sizes) or np.prod(sizes, dtype=float) > _MOST_NUMBERS:
        raise ValueError(f"there is no network of inputs {shape}")
    values = [torch.empty(1, *sizes, device="meta")]
    for step in steps:
        taken = [values[k] for k in step.inputs]
        try:
            _of_one_rank(step.operation, taken)
            stays = isinstance(step.operation, Quantized) and len(taken) == 1
            values.append(taken[0] if stays else step.operation(*taken))
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"operations do not fit: {error}") from error
        if values[-1].ndim < 1 or values[-1].shape[0] != 1 or values[-1].numel() > _MOST_NUMBERS:
            raise ValueError("operations must keep the samples, and make no more than memory holds")
    if values[-1].ndim != 2:
        raise ValueError("operations must end in rows of outputs")


def _of_one_rank(operation: Operation, taken: Sequence[torch.Tensor]) -> None:
    """Refuse values that torch would read otherwise than as samples."""
    moves = isinstance(operation, Affine) and operation.window is not None
    pools = isinstance(operation, Plain) and operation.name in OPTIONS
    if (moves or pools) and taken[0].ndim != 4:
        raise ValueError("operations do not fit: convolutions and pools take images")
    if len({value.ndim for value in taken}) > 1:
        raise ValueError("operations do not fit: what is added must have as many sides")
