"""The two loops that a ternary layer runs, on whole vector registers.

Both read the weights four to a byte. :func:`add_up` lists the columns of a few rows' non-zeros,
and adds for each the codes of as many samples as its inputs hold side by side, for all of them
before the next few rows. :func:`multiply` multiplies 64 weights with the codes of one sample at a
time. Both count how many bounds a sum exceeds. Sums of whole numbers are exact in either; floats
are added by the first in a fixed order.

They are written for LLVM in vectors longer than a register may be, which it cuts to what the
processor has. The product of bytes, and a list of the bytes that are marked, ask for an instruction
by name, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types, uintp
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

# Codes of as many samples lie side by side; floats of eight, whatever the register.
LANES, FLOAT_LANES = 64, 8
# Rows and samples whose sums are taken at a time in a product, and bytes that are read at a time.
TILE, PIECE = 4, 64
# Rows whose non-zeros are listed at a time, bytes that are asked of the memory before they are
# needed, and non-zeros of 64 weights that are written down at once.
TOGETHER, AHEAD, SOME = 64, 8192, 16
_BYTE, _INT, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _INTS = ir.VectorType(_BYTE, PIECE), ir.VectorType(_INT, PIECE // 4)
_FLAGS = ir.VectorType(ir.IntType(1), PIECE)


class Vector(types.Type):
    """Numbers of one type side by side, as LLVM knows them."""

    def __init__(self, dtype: types.Number, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(f"Vector({dtype}, {width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        number = manager.lookup(kind.dtype).get_data_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.width))


def _start(context: Any, builder: ir.IRBuilder, kind: types.Array, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _vector_at(builder: ir.IRBuilder, start: Any, place: Any, kind: ir.VectorType) -> Any:
    """Where the vector is that begins at that number of an array."""
    return builder.bitcast(builder.gep(start, [place]), kind.as_pointer())


def _read(builder: ir.IRBuilder, start: Any, place: Any, kind: ir.VectorType, align: int) -> Any:
    found = builder.load(_vector_at(builder, start, place, kind))
    found.align = align
    return found


def _everywhere(builder: ir.IRBuilder, value: Any, width: int) -> Any:
    kind = ir.VectorType(value.type, width)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    zeros = ir.Constant(ir.VectorType(_INT, width), None)
    return builder.shuffle_vector(first, first, zeros)


@intrinsic
def zeros(typing_context, like):
    """As many zeros as samples lie side by side, of an array's type."""
    floats = isinstance(like.dtype, types.Float)
    kind = Vector(like.dtype, FLOAT_LANES if floats else LANES)
    return kind(like), lambda context, *_: ir.Constant(context.get_data_type(kind), None)


@intrinsic
def same(typing_context, number, like):
    """A number in all places of a vector as long as another."""

    def generate(context, builder, signature, args):
        return _everywhere(builder, args[0], like.width)

    return Vector(number, like.width)(number, like), generate


def _group(dtype: types.Number) -> int:
    """How many inputs are added up before they join the total: of codes, as many as fit."""
    return 4 if isinstance(dtype, types.Float) else 8


@intrinsic
def group_of(typing_context, inputs):
    """How many inputs :func:`some` adds."""
    return types.uintp(inputs), lambda *_: _LONG(_group(inputs.dtype))


def _joins(whole: str, floats: str, full: bool) -> Callable:
    """Add to a total, or take from it, the inputs that the columns from a place on name.

    A full group is added up first, in order; of one that is not, ended by ``end``, floats join one
    by one. Those behind the end are read as zeros: to jump over them takes longer.
    """

    def operation(typing_context, total, inputs, first, columns, place, end):
        exact = not isinstance(inputs.dtype, types.Float)
        kind = Vector(inputs.dtype, total.width)
        align = min(64, kind.width * kind.dtype.bitwidth // 8)

        def generate(context, builder, signature, args):
            start = builder.gep(_start(context, builder, inputs, args[1]), [args[2]])
            names, vector = _start(context, builder, columns, args[3]), context.get_data_type(kind)
            join = getattr(builder, whole if exact else floats)
            found = []
            for k in range(_group(inputs.dtype) - (not full)):
                at = builder.add(args[4], _LONG(k))
                there = builder.icmp_unsigned("<", at, args[5])
                column = builder.zext(builder.load(builder.gep(names, [at])), _LONG)
                column = column if full else builder.select(there, column, _LONG(0))
                row = _read(builder, start, builder.mul(column, _LONG(kind.width)), vector, align)
                there = _everywhere(builder, there, kind.width)
                found.append(
                    row if full else builder.select(there, row, ir.Constant(row.type, None))
                )
            if not (full or exact):
                return reduce(join, found, args[0])
            part = reduce(builder.add if exact else builder.fadd, found)
            wide = context.get_data_type(total)
            return join(args[0], part if part.type == wide else builder.sext(part, wide))

        number = types.uintp
        return total(total, inputs, number, columns, number, number), generate

    return intrinsic(operation)


plus, plus_rest = _joins("add", "fadd", True), _joins("add", "fadd", False)
minus, minus_rest = _joins("sub", "fsub", True), _joins("sub", "fsub", False)


@intrinsic
def raised(typing_context, value, total, bound, step):
    """value + step where the total exceeds the bound."""

    def generate(context, builder, signature, args):
        limit, more = (_everywhere(builder, number, total.width) for number in args[2:])
        floats = isinstance(total.dtype, types.Float)
        compare = builder.fcmp_ordered if floats else builder.icmp_signed
        chosen = builder.select(compare(">", args[1], limit), more, ir.Constant(more.type, None))
        return builder.add(args[0], chosen)

    return value(value, total, bound, step), generate


@intrinsic
def write(typing_context, array, place, vector):
    """Put a vector into an array, from a place on."""

    def generate(context, builder, signature, args):
        start = _start(context, builder, array, args[0])
        stored = builder.store(args[2], _vector_at(builder, start, args[1], args[2].type))
        stored.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.uintp, vector), generate


def _knows(context: Any, instructions: str) -> bool:
    return f"+{instructions}" in context.codegen().magic_tuple()[-1]


def _numbers(context: Any, builder: ir.IRBuilder, marked: Any, first: Any, to: Callable) -> None:
    """Write which of 64 bits are set, counted from ``first``, where ``to`` says, 64 at most."""
    kind = ir.FunctionType(_BYTES, [_BYTES, _BYTES, _FLAGS])
    name = f"llvm.x86.avx512.mask.compress.v{PIECE}i8"
    compress = cgutils.get_or_insert_function(builder.module, kind, name)
    counted = ir.Constant(_BYTES, list(range(PIECE)))
    given = counted, ir.Constant(_BYTES, None), builder.bitcast(marked, _FLAGS)
    numbers = builder.call(compress, given)

    def store(begin: int, end: int) -> None:
        some = ir.Constant(ir.VectorType(_INT, end - begin), list(range(begin, end)))
        row = ir.VectorType(first.type, end - begin)
        found = builder.zext(builder.shuffle_vector(numbers, numbers, some), row)
        place = builder.bitcast(to(_LONG(begin)), row.as_pointer())
        stored = builder.store(builder.add(found, _everywhere(builder, first, row.count)), place)
        stored.align = first.type.width // 8

    # Most of them are few, and to store takes longest.
    store(0, SOME)
    with builder.if_then(builder.icmp_unsigned(">", builder.ctpop(marked), _LONG(SOME))):
        store(SOME, PIECE)


def _numbers_one_by_one(
    context: Any, builder: ir.IRBuilder, marked: Any, first: Any, to: Callable
) -> None:
    left = cgutils.alloca_once_value(builder, marked)
    with cgutils.for_range(builder, builder.ctpop(marked)) as loop:
        now = builder.load(left)
        bit = builder.cttz(now, ir.Constant(ir.IntType(1), 1))
        builder.store(builder.add(first, builder.trunc(bit, first.type)), to(loop.index))
        builder.store(builder.and_(now, builder.sub(now, _LONG(1))), left)


@intrinsic
def listed(typing_context, weights, at, turn, valid, first, columns, up, down):
    """Write down which of 64 bytes have +1, and which −1, in two of their bits; and how many have.

    The bits are those from ``turn`` on, the bytes those from ``at`` on of which the bit in
    ``valid`` is set. What is written are their numbers, increasing, counted from ``first``: from
    ``up`` and from ``down`` on. Behind the last of each 64 more numbers may be changed.
    """

    def generate(context, builder, signature, args):
        W, names = (_start(context, builder, kind, args[k]) for k, kind in arrays)
        ints = _read(builder, W, args[1], _INTS, 1)
        turn = _everywhere(builder, builder.trunc(args[2], _INT), PIECE // 4)
        threes = ir.Constant(_INTS, [0x03030303] * (PIECE // 4))
        codes = builder.bitcast(builder.and_(builder.lshr(ints, turn), threes), _BYTES)
        first = builder.trunc(args[4], context.get_data_type(columns.dtype))
        put = _numbers if _knows(context, "avx512vbmi2") else _numbers_one_by_one
        counts = []
        for code, start in ((2, args[6]), (0, args[7])):
            equal = builder.icmp_unsigned("==", codes, ir.Constant(_BYTES, [code] * PIECE))
            marked = builder.and_(builder.bitcast(equal, _LONG), args[3])
            start = builder.gep(names, [start])
            put(context, builder, marked, first, lambda k, start=start: builder.gep(start, [k]))
            counts.append(builder.ctpop(marked))
        return context.make_tuple(builder, signature.return_type, counts)

    number, arrays = types.uintp, ((0, weights), (5, columns))
    taken = (weights, *[number] * 4, columns, number, number)
    return types.UniTuple(number, 2)(*taken), generate


def _fours(context: Any, builder: ir.IRBuilder, total: Any, weights: Any, codes: Any) -> Any:
    """Add products of bytes, of which the weights have no sign, to sums of four neighbours each."""
    if _knows(context, "avx512vnni"):
        kind = ir.FunctionType(_INTS, [_INTS] * 3)
        name = "llvm.x86.avx512.vpdpbusd.512"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [total, weights, codes])
    down = ir.Constant(_INTS, [24] * (PIECE // 4))
    for k in range(4):
        up = ir.Constant(_INTS, [24 - 8 * k] * (PIECE // 4))
        weight = builder.lshr(builder.shl(weights, up), down)
        code = builder.ashr(builder.shl(codes, up), down)
        total = builder.add(total, builder.mul(weight, code))
    return total


@intrinsic(prefer_literal=True)
def products(typing_context, weights, row, stride, inputs, sample, segment, samples):
    """Sums over (w + 1) x of a tile of rows and of so many samples, row by row.

    A row of weights is ``stride`` bytes, a sample four segments of codes: for the lowest two bits
    of these bytes, for the next, and so on. What a segment is longer than a row is filled with 0.
    """
    if not isinstance(samples, types.IntegerLiteral):
        return None
    many = samples.literal_value
    tile = [(r, s) for r in range(TILE) for s in range(many)]

    def generate(context, builder, signature, args):
        _, row, stride, _, sample, segment, _ = args
        W = _start(context, builder, weights, args[0])
        X = _start(context, builder, inputs, args[3])
        totals = {at: cgutils.alloca_once_value(builder, ir.Constant(_INTS, None)) for at in tile}
        rows = [builder.add(row, builder.mul(stride, _LONG(r))) for r in range(TILE)]
        starts = [
            [builder.add(sample, builder.mul(segment, _LONG(4 * s + k))) for k in range(4)]
            for s in range(many)
        ]
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        threes = ir.Constant(_INTS, [0x03030303] * (PIECE // 4))
        with cgutils.for_range(builder, builder.udiv(segment, _LONG(PIECE))) as loop:
            at = builder.mul(loop.index, _LONG(PIECE))
            packed = [_read(builder, W, builder.add(place, at), _INTS, 1) for place in rows]
            for place in rows:
                ahead = builder.add(builder.add(place, at), _LONG(AHEAD))
                builder.call(fetch, [builder.gep(W, [ahead]), _INT(0), _INT(3), _INT(1)])
            for k in range(4):
                down = ir.Constant(_INTS, [2 * k] * (PIECE // 4))
                parts = [builder.and_(builder.lshr(part, down), threes) for part in packed]
                codes = [_read(builder, X, builder.add(s[k], at), _INTS, PIECE) for s in starts]
                for r, s in tile:
                    total = builder.load(totals[r, s])
                    builder.store(_fours(context, builder, total, parts[r], codes[s]), totals[r, s])
        kind = ir.FunctionType(_INT, [_INTS])
        name = f"llvm.vector.reduce.add.v{PIECE // 4}i32"
        add = cgutils.get_or_insert_function(builder.module, kind, name)
        sums = [builder.call(add, [builder.load(totals[at])]) for at in tile]
        return context.make_tuple(builder, signature.return_type, sums)

    places = types.uintp, types.uintp
    taken = (weights, *places, inputs, *places, samples)
    return types.UniTuple(types.int32, TILE * many)(*taken), generate


@njit
def _list(weights, start, end, width, like):
    """Columns of some rows' +1, and of their −1, and where each row's begin and end."""
    stride, full, room = uintp(weights.shape[1]), ~uintp(0), (end - start) * width + PIECE
    w = weights.reshape(weights.size)
    columns, ends = np.empty(2 * room, like.dtype), np.empty((end - start + 1, 2), np.uint64)
    up, down = uintp(0), uintp(room)
    ends[0] = up, down
    for i in range(end - start):
        row = uintp(start + i) * stride
        for k in range(uintp(0), uintp(4), uintp(1)):
            for at in range(uintp(0), stride, uintp(PIECE)):
                valid = full >> (uintp(PIECE) - min(uintp(PIECE), stride - at))
                given = row + at, uintp(2) * k, valid, k * stride + at, columns, up, down
                ups, downs = listed(w, *given)
                up += ups
                down += downs
        ends[i + 1] = up, down
    return columns, ends


@njit
def _signed_sums(ends, columns, inputs, first, total):
    group, q, end = group_of(inputs), ends[0, 0], ends[1, 0]
    while q + group <= end:
        total = plus(total, inputs, first, columns, q, end)
        q += group
    total = plus_rest(total, inputs, first, columns, q, end)
    q, end = ends[0, 1], ends[1, 1]
    while q + group <= end:
        total = minus(total, inputs, first, columns, q, end)
        q += group
    return minus_rest(total, inputs, first, columns, q, end)


@njit
def _add_row(i, ends, columns, inputs, first, bounds, steps, out, place):
    total = _signed_sums(ends, columns, inputs, first, zeros(bounds))
    value, many = same(steps[0], total), uintp(len(steps) - 1)
    own = uintp(0) if len(bounds) == many else i * many
    for t in range(many):
        value = raised(value, total, bounds[own + t], steps[t + uintp(1)])
    write(out, place, value)


def add_up(weights, like, inputs, bounds, steps, out):
    """Steps added up where the signed sums exceed their bounds.

    ``weights`` as a TernaryMatrix has them; ``inputs`` (blocks, columns, lanes) and ``out``
    (blocks, rows, lanes), whose blocks may hold several of the inputs' side by side; ``bounds``
    (rows · t,), or (t,) if all rows have the same; ``steps`` (t + 1,) from the first value to the
    next and on; ``like`` of a type that counts columns.
    """
    _, rows, lanes = out.shape
    x, y = inputs.reshape(inputs.size), out.reshape(out.size)
    for tile in prange(-(-rows // TOGETHER)):
        start, end = tile * TOGETHER, min(rows, (tile + 1) * TOGETHER)
        columns, ends = _list(weights, start, end, inputs.shape[1], like)
        for block in range(len(inputs)):
            first = uintp(block * inputs.shape[1] * inputs.shape[2])
            k, lane = divmod(block * inputs.shape[2], lanes)
            for i in range(start, end):
                place, own = uintp((k * rows + i) * lanes + lane), ends[i - start :]
                _add_row(uintp(i), own, columns, x, first, bounds, steps, y, place)


@njit
def _settle(total, i, bounds, table):
    piece, many = 0, uintp(len(table) - 1)
    own = uintp(0) if len(bounds) == many else i * many
    for t in range(many):
        piece += total > bounds[own + t]
    return table[piece]


@njit
def _multiply_tile(tile, weights, inputs, lifts, bounds, table, out):
    stride, segment, first = uintp(weights.shape[1]), uintp(inputs.shape[2]), TILE * tile
    w, x = weights.reshape(weights.size), inputs.reshape(inputs.size)
    (n, rows), s = out.shape, 0
    while s + TILE <= n:
        row, sample = uintp(first) * stride, uintp(4 * s) * segment
        sums = products(w, row, stride, x, sample, segment, TILE)
        for r in range(min(TILE, rows - first)):
            for k in range(TILE):
                total = sums[TILE * r + k] - lifts[s + k]
                out[s + k, first + r] = _settle(total, uintp(first + r), bounds, table)
        s += TILE
    while s < n:
        row, sample = uintp(first) * stride, uintp(4 * s) * segment
        sums = products(w, row, stride, x, sample, segment, 1)
        for r in range(min(TILE, rows - first)):
            total = sums[r] - lifts[s]
            out[s, first + r] = _settle(total, uintp(first + r), bounds, table)
        s += 1


@njit
def _segments(codes, stride):
    """Codes (n, 4, segment) for a row's bytes, filled up to whole pieces; and their sums (n,)."""
    n, columns = codes.shape
    length = -(-stride // PIECE) * PIECE
    room, lifts = np.zeros(4 * n * length + PIECE, np.int8), np.zeros(n, np.int32)
    # They begin at a cache line, so that no vector lies on two.
    start = -room.ctypes.data % PIECE
    found = room[start : start + 4 * n * length].reshape(n, 4, length)
    for s in range(n):
        for k in range(4):
            for i in range(min(stride, columns - k * stride)):
                found[s, k, i] = codes[s, k * stride + i]
                lifts[s] += codes[s, k * stride + i]
    return found, lifts


def multiply(weights, codes, bounds, table, out):
    """The table's entry at the number of bounds that T x exceeds, (n, rows).

    ``weights`` (rows, stride) hold w + 1, with rows of anything up to a full tile and a register
    behind the last one; ``codes`` (n, columns) are x.
    """
    inputs, lifts = _segments(codes, weights.shape[1])
    for tile in prange(-(-out.shape[1] // TILE)):
        _multiply_tile(tile, weights, inputs, lifts, bounds, table, out)


def score(rows, weights, bias, out):
    """rows · weights + bias, (n, K), for rows (n, d) and weights (K, d)."""
    n, d = rows.shape
    none = bias[0] - bias[0]
    for tile in prange(-(-n // TILE)):
        for s in range(TILE * tile, min(n, TILE * (tile + 1))):
            for k in range(len(weights)):
                total = none
                for i in range(d):
                    total += rows[s, i] * weights[k, i]
                out[s, k] = total + bias[k]


def spell_out(pieces, values, out):
    """values[pieces], from blocks (b, rows, lanes) to samples (n, rows)."""
    _, rows, lanes = pieces.shape
    flat = pieces.reshape(pieces.size)
    for tile in prange(-(-rows // lanes)):
        for s in range(len(out)):
            block, lane = divmod(s, lanes)
            place = uintp(block * rows * lanes + lane)
            for i in range(uintp(tile * lanes), uintp(min(rows, (tile + 1) * lanes))):
                out[s, i] = values[uintp(flat[place + i * uintp(lanes)])]
