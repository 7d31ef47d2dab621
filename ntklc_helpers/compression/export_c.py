"""A network as one C99 header: whole numbers alone between the bytes that it takes and its class.

The header holds tables, and behind them how they are read, which is the same for all networks
(``runtime.h``). It calls no library and allocates nothing: all that changes is in a workspace that
the caller holds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from .._checks import one_of
from .integers import NARROW, Numbers, Stage
from .storage import replace_file

CWeights = Literal["packed", "two_bits", "seed"]
_STORED = ("packed", "two_bits", "seed")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PER_LINE, _MOST_RICE_BITS = 100, 31
# Sums among which a line is tried in place of bounds, and how finely.
_MOST_SUMS, _FINEST = 2**22, 24
# Between a stage's description and how it runs the tables stand.
_MARK = "/* The network's tables stand here. */\n"
_C = {1: "int8_t", 2: "int16_t", 4: "int32_t", 8: "int64_t"}


@frozen
class CExport:
    """What a header takes: bytes of tables in ``flash`` and of the workspace in ``ram``.

    ``exact`` says that every sum meets its bounds as in Python, whatever the input: then classes
    differ at most where Python's own scores are equal but for rounding.

    Examples
    --------
    >>> import tempfile
    >>> T = nh.compression.TernaryMatrix.from_dense([[1, -1], [0, 1]])
    >>> layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.5], [0.0, 1.0]))
    >>> readout = nh.compression.Readout.from_weights(np.eye(2), np.zeros(2), ["no", "yes"])
    >>> net = nh.CompressedNetwork([layer], readout.rounded("int8"))
    >>> with tempfile.NamedTemporaryFile(suffix=".h") as file:
    ...     net.export_c(file.name)
    CExport(flash=153, ram=16, exact=True, inputs=(1, 1, 2), classes=('no', 'yes'))
    """

    flash: int
    ram: int
    exact: bool
    inputs: tuple[int, int, int]
    classes: tuple[Any, ...]


def _width(*values: Any, least: int = 1) -> int:
    """Bytes of the smallest signed type that holds all of these."""
    low = min((int(np.min(v)) for v in values if np.size(v)), default=0)
    high = max((int(np.max(v)) for v in values if np.size(v)), default=0)
    return next(n for n in (1, 2, 4, 8) if n >= least and max(high, -low - 1) < 2 ** (8 * n - 1))


def _unsigned(most: int) -> int:
    return 1 if most < 2**8 else 2 if most < 2**16 else 4


# Weights as a stream of bits.


def _bits_of(numbers: Numbers, n: int) -> NDArray[np.uint8]:
    """(…, n) binary digits, the highest first."""
    return (numbers[..., None] >> np.arange(n)[::-1] & 1).astype(np.uint8)


def rice(codes: NDArray[np.int32]) -> tuple[bytes, int, bool]:
    r"""Ternary codes (rows, …) as gaps and signs in one stream; its parameter; if zeros end gaps.

    As :func:`pack_ternary`, but a sign stands with its non-zero, so that one place is read.

    Examples
    --------
    >>> from ntklc_helpers.compression.export_c import rice
    >>> rice(np.array([[0, 0, 0, -1, 1, 0, 0, 0]]))
    (b'x\xc0', 1, False)
    """
    flat = codes.ravel()
    zeros = bool(2 * np.count_nonzero(flat) > len(flat))
    # One more behind the last, so that whoever reads need not count.
    places = np.append(np.flatnonzero((flat == 0) == zeros), len(flat))
    gaps = np.diff(places, prepend=-1) - 1
    k = int(np.argmin([int((gaps >> k).sum()) + k * len(gaps) for k in range(_MOST_RICE_BITS)]))
    signs = (flat[flat != 0] < 0).astype(np.uint8)
    per = gaps if zeros else np.append(np.ones(len(gaps) - 1, np.int64), 0)
    long = (gaps >> k) + 1 + k
    starts = np.cumsum(long + per) - long - per
    stream = np.zeros(int((long + per).sum()), np.uint8)
    stream[starts + (gaps >> k)] = 1
    stream[(starts + (gaps >> k) + 1)[:, None] + np.arange(k)] = _bits_of(gaps, k)
    at = np.repeat(starts + long, per) + np.arange(len(signs))
    at -= np.repeat(np.cumsum(per) - per, per)
    stream[at] = signs
    return np.packbits(stream).tobytes(), k, zeros


def _stored(stage: Stage, how: CWeights) -> tuple[bytes, str, int]:
    """The stream of a stage's weights, its format, and the bits that this asks for."""
    codes: Any = stage.weights
    ternary = np.abs(codes).max() <= 1
    if how == "seed" and stage.drawn is not None:
        state = np.random.PCG64(np.random.SeedSequence([stage.drawn.seed, stage.drawn.stream]))
        told = state.state["state"]
        least = round(stage.drawn.sparsity * 2**31)
        numbers = [told["inc"].to_bytes(16, "little"), told["state"].to_bytes(16, "little")]
        return b"".join([*numbers, least.to_bytes(4, "little")]), "DRAWN", 0
    if ternary and how != "two_bits":
        stream, k, zeros = rice(codes)
        return stream, "ZEROS" if zeros else "ONES", k
    n = 8 * _width(codes)
    n = next(
        b for b in range(2, n + 1) if -(2 ** (b - 1)) <= codes.min() and codes.max() < 2 ** (b - 1)
    )
    digits = _bits_of(codes.ravel().astype(np.int64) + 2 ** (n - 1), n)
    return np.packbits(digits).tobytes(), "DIGITS", n


# Staircases as lines.


def _line(stage: Stage) -> tuple[Numbers, Numbers, int] | None:
    """Gains and starts (rows,), and a shift, so that (gain · s + start) >> shift counts bounds.

    Held within the number of bounds. None unless this is so of every sum s, in int32.
    """
    bounds: Any = stage.stairs.bounds
    t, largest = bounds.shape[1], stage.largest
    if t < 3 or largest > _MOST_SUMS:
        return None
    rows = [*zip(bounds, *(np.broadcast_to(end, len(bounds)) for end in stage.reach), strict=True)]
    slopes = [_slopes(*row) for row in rows]
    if any(not low < high for low, high in slopes):
        return None
    for shift in range(4, _FINEST):
        found = []
        for row, slope in zip(rows, slopes, strict=True):
            found.append(_start(row[0], row[1], row[2], slope, shift))
            if found[-1] is None:
                break
        else:
            gains, starts = (np.array(part, np.int64) for part in zip(*found, strict=True))
            fits = int((gains * largest + np.abs(starts)).max()) < NARROW
            return (gains, starts, shift) if fits else None
    return None


def _slopes(bounds: Numbers, least: int, most: int) -> tuple[float, float]:
    """Between which the slope is of every line that passes step j just behind the j-th bound.

    Above i at none of the sums up to bound i, and at j at all behind bound j; so over the sums
    between, it rises by less than i - j.
    """
    j = np.arange(len(bounds))
    behind, before = bounds < most, bounds >= least
    run = (bounds[before][:, None] - bounds[behind] - 1).astype(float)
    rise = (j[before][:, None] - j[behind]).astype(float)
    level = run == 0
    if (rise[level] <= 0).any():
        return 1.0, 0.0
    limit = rise / np.where(level, 1, run)
    return float(limit[run < 0].max(initial=0.0)), float(limit[run > 0].min(initial=np.inf))


def _start(
    bounds: Numbers, least: int, most: int, slopes: tuple[float, float], shift: int
) -> tuple[int, int] | None:
    """A whole gain between these slopes times 2^shift, and a start, that pass all steps."""
    low, high = (slope * 2.0**shift for slope in slopes)
    gain = int(low) + 1 if np.isinf(high) else max(1, round((low + high) / 2))
    if not low < gain < high:
        return None
    wanted = np.arange(1, len(bounds) + 1) << shift
    behind, before = bounds < most, bounds >= least
    start = (wanted - gain * (bounds + 1))[behind].max(initial=-NARROW)
    end = (wanted - 1 - gain * bounds)[before].min(initial=NARROW)
    return (gain, int(np.clip(0, start, end))) if start <= end else None


# When rows are made, and where they lie.


def _served(stage: Stage, y: int, rows: int) -> tuple[int, int]:
    """First row that the y-th row of sums takes, and how many must be there."""
    k = stage.kernel[0]
    top = y * stage.stride[0] - stage.padding[0]
    return max(top, 0), min(top + (k - 1) * stage.dilation[0] + 1, rows)


def rings(stages: Sequence[Stage]) -> list[int]:
    """Rows of each stage that are kept at a time, found by going through an input as C does."""
    made, part = [0] * len(stages), [0] * len(stages)
    takers: list[list[int]] = [[] for _ in stages]
    for k, stage in enumerate(stages):
        for of in stage.inputs:
            takers[of].append(k)
    kept = [1] * len(stages)

    def ready(k: int) -> bool:
        stage, y = stages[k], made[k] * stages[k].pool[0] + part[k]
        needs = (_served(stage, y, stages[of].shape[0])[1] <= made[of] for of in stage.inputs)
        return made[k] < stage.shape[0] and all(needs)

    def oldest(of: int) -> int:
        rows = stages[of].shape[0]
        return min(
            (
                _served(stages[k], made[k] * stages[k].pool[0] + part[k], rows)[0]
                for k in takers[of]
                if made[k] < stages[k].shape[0]
            ),
            default=made[of],
        )

    for _ in range(stages[0].shape[0]):
        run = [0]
        while run:
            k = run[0]
            kept[k] = max(kept[k], made[k] - oldest(k) + 1)
            part[k] = (part[k] + 1) % stages[k].pool[0]
            made[k] += not part[k]
            run = [k for k in reversed(range(1, len(stages))) if ready(k)][:1]
    return [min(ring, stage.shape[0]) for ring, stage in zip(kept, stages, strict=True)]


# The header.

_PLACES = ("at", "weights", "gains", "table", "length", "times", "times_other")
_SIZES = (
    "kind", "in", "other", "rows", "columns", "channels", "ring", "height", "width", "stride_y",
    "stride_x", "spread_y", "spread_x", "pad_y", "pad_x", "pool_y", "pool_x", "depth", "outputs",
    "format", "bits", "mode", "own", "last", "shift",
)  # fmt: skip


@define(eq=False)
class _Tables:
    """What is written down of all stages, and which parts of the runtime they ask for."""

    rows: list[dict[str, Any]] = field(factory=list)
    weights: bytearray = field(factory=bytearray)
    gains: list[int] = field(factory=list)
    starts: list[int] = field(factory=list)
    bounds: list[int] = field(factory=list)
    # Place 0 says that there is no table.
    table: list[int] = field(factory=lambda: [0])
    has: set[str] = field(factory=set)

    def stage(self, k: int, stage: Stage, stages: Sequence[Stage], how: CWeights) -> None:
        before = stages[stage.inputs[0]] if stage.inputs else stage
        (rows, columns, channels) = stage.shape
        dense = stage.kind in ("dense", "scores")
        height, width = stage.kernel
        row: dict[str, Any] = dict.fromkeys((*_PLACES, *_SIZES, "first"), 0)
        row |= {
            "in": stage.inputs[0] if stage.inputs else 0,
            "other": stage.inputs[-1] if stage.inputs else 0,
            "rows": rows, "columns": columns, "channels": channels,
            "height": height, "width": width,
            "stride_y": stage.stride[0], "stride_x": stage.stride[1],
            "spread_y": stage.dilation[0], "spread_x": stage.dilation[1],
            "pad_y": stage.padding[0], "pad_x": stage.padding[1],
            "pool_y": stage.pool[0], "pool_x": stage.pool[1],
            "length": int(np.prod(before.shape)) if dense else 0,
            "times": stage.times[0], "times_other": stage.times[1],
            "kind": f"NTKLC_{stage.kind.upper()}" if k else 0,
        }  # fmt: skip
        if stage.weights is not None:
            row |= {"depth": stage.weights.shape[3], "outputs": channels // stage.groups}
            row["weights"] = len(self.weights)
            stream, form, row["bits"] = _stored(stage, how)
            row["format"] = f"NTKLC_{form}"
            self.weights += stream
            self.has |= {form}
        self.has |= {"POOL" if stage.kind in ("max", "sum") else stage.kind.upper()}
        if stage.kind != "scores":
            self._stairs(row, stage)
        self.rows.append(row)

    def _stairs(self, row: dict[str, Any], stage: Stage) -> None:
        stairs = stage.stairs
        line = None if stairs.bounds is None else _line(stage)
        if stairs.bounds is None or line:
            row["mode"] = "NTKLC_LINE" if line else "NTKLC_PLAIN"
            gains, starts, row["shift"] = line or (stairs.gain, stairs.start, 0)
            gains, starts = np.broadcast_arrays(gains, starts)
            row |= {"gains": len(self.gains), "own": int(len(gains) > 1)}
            self.gains += gains.tolist()
            self.starts += starts.tolist()
        else:
            row |= {"mode": "NTKLC_BOUNDS", "gains": len(self.bounds)}
            row["own"] = int(len(stairs.bounds) > 1)
            self.bounds += stairs.bounds.ravel().tolist()
        self.has |= {row["mode"].removeprefix("NTKLC_")}
        if stairs.bounds is None or stairs.values is None:
            return
        row["last"] = stairs.bounds.shape[1]
        if (np.diff(stairs.values) == 1).all():
            row["first"] = int(stairs.values[0])
        else:
            row["table"] = len(self.table)
            self.table += stairs.values.tolist()
            self.has |= {"TABLE"}


def _plan(tables: _Tables, stages: Sequence[Stage]) -> tuple[int, int]:
    """Put each stage's rows in their place; the length of all, and of sums side by side."""
    at = across = 0
    for row, stage, ring in zip(tables.rows, stages, rings(stages), strict=True):
        row |= {"at": at, "ring": ring}
        at += 0 if stage.kind == "scores" else ring * stage.shape[1] * stage.shape[2]
        if stage.kind == "weights":
            across = max(across, stage.shape[1] * stage.pool[1])
    return at, across


@frozen(eq=False)
class _Types:
    """Bytes of each type that a header has of its own."""

    value: int
    sum: int
    score: int
    gain: int
    start: int
    bound: int
    place: int
    size: int

    @classmethod
    def of(cls, tables: _Tables, stages: Sequence[Stage]) -> _Types:
        last: Any = stages[-1].scores
        values = [n for s in stages[:-1] for n in (s.values.least, s.values.most)]
        scores = max(abs(f) * stages[-1].largest + abs(b) for f, b in zip(*last, strict=True))
        sums = max(stage.largest for stage in stages)
        places = max(r[name] for r in tables.rows for name in _PLACES)
        sizes = max(int(r[n]) for r in tables.rows for n in _SIZES if not isinstance(r[n], str))
        return cls(
            value=_width(values, tables.table),
            sum=4 if sums < NARROW else 8,
            score=4 if scores < NARROW else 8,
            gain=_width(tables.gains, least=2), start=_width(tables.starts, least=2),
            bound=_width(tables.bounds, least=2),
            place=max(2, _unsigned(places)), size=_unsigned(max(sizes, len(stages))),
        )  # fmt: skip

    @property
    def stage(self) -> int:
        """Bytes of one stage's description."""
        return _struct([(self.place, len(_PLACES)), (self.value, 1), (self.size, len(_SIZES))])


def _struct(parts: Sequence[tuple[int, int]]) -> int:
    """Bytes of a struct of so many numbers of each size, in that order."""
    size, parts = 0, [part for part in parts if part[1]]
    for width, count in parts:
        size = -(-size // width) * width + width * count
    largest = max(width for width, _ in parts)
    return -(-size // largest) * largest


def _array(kind: str, name: str, numbers: Sequence[int], unit: int) -> str:
    ends = {4: "", 8: "LL"}.get(unit, "")
    lines, line = [], "   "
    for number in numbers:
        text = (
            f"({number + 1}{ends} - 1)" if number == -(2 ** (8 * unit - 1)) else f"{number}{ends}"
        )
        if len(line) + len(text) + 2 > _PER_LINE:
            lines.append(line)
            line = "   "
        line += f" {text},"
    body = "\n".join([*lines, line])
    return f"static const {kind} {name}[{len(numbers)}] = {{\n{body}\n}};\n"


def source(
    stages: Sequence[Stage], exact: bool, labels: Sequence[Any], weights: CWeights
) -> tuple[str, CExport]:
    """The header's text, its names beginning with ``ntklc_``, and what it takes.

    Examples
    --------
    >>> from ntklc_helpers.compression.export_c import source
    >>> T = nh.compression.TernaryMatrix.from_dense([[1, -1], [0, 1]])
    >>> layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.5], [0.0, 1.0]))
    >>> readout = nh.compression.Readout.from_weights(np.eye(2), np.zeros(2), ["no", "yes"])
    >>> from ntklc_helpers.compression.integer_layers import of_layers
    >>> text, told = source(*of_layers([layer], readout, None, 0, 1), ["no", "yes"], "packed")
    >>> told.exact, told.inputs
    (True, (1, 1, 2))
    """
    tables = _Tables()
    for k, stage in enumerate(stages):
        tables.stage(k, stage, stages, weights)
    length, across = _plan(tables, stages)
    types = _Types.of(tables, stages)
    last: Any = stages[-1].scores
    arrays = [
        ("uint8_t", "weights", list(tables.weights), 1),
        ("ntklc_gain", "gains", tables.gains, types.gain),
        ("ntklc_start", "starts", tables.starts, types.start),
        ("ntklc_bound", "bounds", tables.bounds, types.bound),
        ("ntklc_value", "table", tables.table if "TABLE" in tables.has else [], types.value),
        ("ntklc_score", "factors", last[0], types.score),
        ("ntklc_score", "offsets", last[1], types.score),
    ]
    arrays = [one for one in arrays if one[2]]
    flash = sum(len(numbers) * unit for _, _, numbers, unit in arrays) + len(stages) * types.stage
    workspace, ram = _workspace(types, len(stages), length, across)
    told = CExport(flash, ram, exact, stages[0].shape, tuple(labels))
    return "\n".join(_text(tables, types, arrays, told, workspace)), told


def _workspace(types: _Types, stages: int, length: int, across: int) -> tuple[list[str], int]:
    """Members of the workspace, the widest first, so that nothing lies between; and its bytes."""
    parts = [
        ("ntklc_sum", f"sums[{across}]", types.sum, across),
        ("ntklc_value", f"values[{length}]", types.value, length),
        ("ntklc_place", "found", types.place, 1),
        ("ntklc_size", f"made[{stages}], part[{stages}]", types.size, 2 * stages),
    ]
    parts = sorted((part for part in parts if part[3]), key=lambda part: -part[2])
    size = _struct([(width, count) for _, _, width, count in parts])
    return [f"    {kind} {name};" for kind, name, _, _ in parts], size


def _text(
    tables: _Tables, types: _Types, arrays: list, told: CExport, workspace: list[str]
) -> list[str]:
    rows, columns, channels = told.inputs
    runtime = files(__package__).joinpath("runtime.h").read_text(encoding="utf-8")
    describe, run = runtime.split(_MARK)
    own = {"value": types.value, "sum": types.sum, "score": types.score, "gain": types.gain}
    own |= {"start": types.start, "bound": types.bound}
    unsigned = {"place": types.place, "size": types.size}
    counts = {
        "CLASSES": len(told.classes), "INPUTS": rows * columns * channels, "ROWS": rows,
        "COLUMNS": columns, "CHANNELS": channels, "STAGES": len(tables.rows),
        "FLASH": told.flash, "RAM": told.ram,
    }  # fmt: skip
    return [
        "#ifndef NTKLC_H\n#define NTKLC_H\n\n#include <stdint.h>\n",
        *(f"#define NTKLC_{name} {number}" for name, number in counts.items()),
        *(f"#define NTKLC_HAS_{name}" for name in sorted(tables.has)),
        "",
        *(f"typedef {_C[n]} ntklc_{name};" for name, n in own.items()),
        *(f"typedef u{_C[n]} ntklc_{name};" for name, n in unsigned.items()),
        "",
        describe,
        "/* All that changes; the caller's. */\ntypedef struct {",
        *workspace,
        "} ntklc_workspace;\n",
        *(_array(f"{kind}", f"ntklc_{name}", numbers, n) for kind, name, numbers, n in arrays),
        *_stages(tables.rows),
        run,
        "/* As stated above. */",
        "typedef char ntklc_flash_is[sizeof(ntklc_stages)",
        *(f"    + sizeof(ntklc_{name})" for _, name, _, _ in arrays),
        "    == NTKLC_FLASH ? 1 : -1];",
        "typedef char ntklc_ram_is[sizeof(ntklc_workspace) <= NTKLC_RAM ? 1 : -1];\n\n#endif\n",
    ]


def _stages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of stages, what is zero left out."""
    found = []
    for row in rows:
        told = ", ".join(f".{name} = {value}" for name, value in row.items() if value != 0)
        found.append("    {" + told + "},")
    return [f"static const ntklc_stage ntklc_stages[{len(rows)}] = {{", *found, "};\n"]


def export_c(
    stages: Sequence[Stage],
    exact: bool,
    labels: Any,
    path: str | os.PathLike,
    weights: CWeights,
    name: str,
    about: str,
) -> CExport:
    """Write the header of such stages; what :meth:`CompressedNetwork.export_c` does.

    Raises ValueError if ``weights`` or ``name`` is not as stated there, OSError if it cannot be
    written.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name must be one that C takes, of letters, digits and _; got {name!r}")
    one_of("weights", weights, _STORED)
    layers = [stage for stage in stages[:-1] if stage.weights is not None]
    if weights == "seed" and any(stage.drawn is None for stage in layers):
        raise ValueError('weights="seed" needs weights drawn from a seed; these were not')
    text, told = source(stages, exact, labels, weights)
    text = text.replace("ntklc_", f"{name}_").replace("NTKLC_", f"{name.upper()}_")
    # So that no label ends the comment, or begins another.
    classes = json.dumps([*told.classes])[1:-1].replace("/", "\\/")
    title = (
        f"/* {about}\n   Classes, from 0: {classes}.\n"
        f"   {told.flash} bytes of tables, {told.ram} bytes of workspace. */\n"
    )
    replace_file(path, (title + text).encode())
    return told
