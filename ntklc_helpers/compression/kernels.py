"""The two loops that a ternary layer runs, on whole vector registers.

Both read the weights four to a byte. :func:`add_up` lists the columns of a few rows' non-zeros,
and adds for each the codes of as many samples as its inputs hold side by side, for all of them
before the next few rows. :func:`multiply` multiplies 64 weights at a time with the codes of a few
samples. Both count how many bounds a sum exceeds. Sums of whole numbers are exact in either; floats
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
from numba import int32, njit, prange, types, uintp
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

# Codes of as many samples lie side by side; floats of eight, whatever the register.
LANES, FLOAT_LANES = 64, 8
# Sums that a product takes at a time, of so many rows and samples: what it reads of the weights
# serves all of these samples, and of the codes all rows. And bytes that are read at a time.
SUMS, PIECE = 16, 64
# Rows whose non-zeros are listed at a time, and non-zeros of 64 weights written down at once.
TOGETHER, SOME = 64, 16
# Rows whose products are taken side by side: more are more streams than a processor follows.
FEW = 4
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
    """value + step where the total exceeds the bound, one or each its own."""

    def generate(context, builder, signature, args):
        limit, more = args[2], _everywhere(builder, args[3], total.width)
        limit = limit if isinstance(bound, Vector) else _everywhere(builder, limit, total.width)
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


def _shuffled(builder: ir.IRBuilder, a: Any, b: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_INT, len(order)), order)
    return builder.shuffle_vector(a, b, mask)


def _added_up(builder: ir.IRBuilder, sums: list[Any]) -> Any:
    """Of sixteen vectors of sixteen numbers the sum of each, in one vector."""
    quarters = [range(4 * k, 4 * k + 4) for k in range(4)]
    low = [[q[0], q[0] + 16, q[1], q[1] + 16] for q in quarters]
    pairs = [[q[0], q[1], q[0] + 16, q[1] + 16] for q in quarters]
    halves = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]
    even = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]
    for first, apart in ((sum(low, []), 2), (sum(pairs, []), 2), (halves, 8), (even, 4)):
        others = [place + apart for place in first]
        sums = [
            builder.add(_shuffled(builder, a, b, first), _shuffled(builder, a, b, others))
            for a, b in zip(sums[::2], sums[1::2], strict=True)
        ]
    return sums[0]


def _sums_of(
    context: Any,
    builder: ir.IRBuilder,
    W: Any,
    rows: list[Any],
    X: Any,
    starts: list[list[Any]],
    pieces: Any,
    ahead: Any,
) -> list[list[Any]]:
    """Products of a few rows, from ``rows`` on, with each sample: sixteen sums to be added up."""
    totals = [
        [cgutils.alloca_once_value(builder, ir.Constant(_INTS, None)) for _ in starts] for _ in rows
    ]
    taken = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
    fetch = cgutils.get_or_insert_function(builder.module, taken, "llvm.prefetch.p0")
    threes = ir.Constant(_INTS, [0x03030303] * (PIECE // 4))
    with cgutils.for_range(builder, pieces) as loop:
        at = builder.mul(loop.index, _LONG(PIECE))
        places = [builder.add(row, at) for row in rows]
        for place in places:
            there = builder.gep(W, [builder.add(place, ahead)])
            builder.call(fetch, [there, _INT(0), _INT(3), _INT(1)])
        packed = [_read(builder, W, place, _INTS, 1) for place in places]
        for k in range(4):
            codes = [_read(builder, X, builder.add(s[k], at), _INTS, PIECE) for s in starts]
            down = ir.Constant(_INTS, [2 * k] * (PIECE // 4))
            for part, own in zip(packed, totals, strict=True):
                part = builder.and_(builder.lshr(part, down), threes)
                for code, total in zip(codes, own, strict=True):
                    found = _fours(context, builder, builder.load(total), part, code)
                    builder.store(found, total)
    return [[builder.load(total) for total in own] for own in totals]


@intrinsic(prefer_literal=True)
def products(typing_context, weights, row, stride, inputs, sample, segment, samples):
    """Sums over (w + 1) x of so many samples, each of SUMS / samples rows, sample by sample.

    A row of weights is ``stride`` bytes, a sample four segments of codes: for the lowest two bits
    of these bytes, for the next, and so on. What a segment is longer than a row is filled with 0.
    """
    if not isinstance(samples, types.IntegerLiteral):
        return None
    many = samples.literal_value
    kind = Vector(types.int32, SUMS)

    def generate(context, builder, signature, args):
        _, row, stride, _, sample, segment, _ = args
        W = _start(context, builder, weights, args[0])
        X = _start(context, builder, inputs, args[3])
        rows = [builder.add(row, builder.mul(stride, _LONG(r))) for r in range(SUMS // many)]
        starts = [
            [builder.add(sample, builder.mul(segment, _LONG(4 * s + k))) for k in range(4)]
            for s in range(many)
        ]
        told = X, starts, builder.udiv(segment, _LONG(PIECE)), builder.mul(stride, _LONG(FEW))
        by_row = [
            found
            for first in range(0, len(rows), FEW)
            for found in _sums_of(context, builder, W, rows[first : first + FEW], *told)
        ]
        return _added_up(builder, [found[s] for s in range(many) for found in by_row])

    places = types.uintp, types.uintp
    return kind(weights, *places, inputs, *places, samples), generate


@intrinsic(prefer_literal=True)
def spread(typing_context, numbers, place, samples, by_row):
    """For each of SUMS sums the number of its sample, or its row, from a place in an array on."""
    known = isinstance(samples, types.IntegerLiteral), isinstance(by_row, types.BooleanLiteral)
    if not all(known):
        return None
    many = samples.literal_value
    rows = SUMS // many
    order = [r if by_row.literal_value else s for s in range(many) for r in range(rows)]

    def generate(context, builder, signature, args):
        start = _start(context, builder, numbers, args[0])
        own = ir.VectorType(context.get_data_type(numbers.dtype), max(order) + 1)
        found = _read(builder, start, args[1], own, numbers.dtype.bitwidth // 8)
        found = _shuffled(builder, found, found, order)
        return found if found.type == _INTS else builder.sext(found, _INTS)

    return Vector(types.int32, SUMS)(numbers, types.uintp, samples, by_row), generate


@intrinsic
def less(typing_context, total, other):
    """The difference of two vectors of whole numbers."""
    return total(total, other), lambda context, builder, _, args: builder.sub(*args)


@intrinsic(prefer_literal=True)
def write_each(typing_context, array, place, stride, vector, samples):
    """Put a vector's numbers into an array, those of a sample side by side, ``stride`` apart."""
    if not isinstance(samples, types.IntegerLiteral):
        return None
    many = samples.literal_value
    rows = vector.width // many

    def generate(context, builder, signature, args):
        start = _start(context, builder, array, args[0])
        for s in range(many):
            part = _shuffled(builder, args[3], args[3], list(range(s * rows, (s + 1) * rows)))
            at = builder.add(args[1], builder.mul(args[2], _LONG(s)))
            stored = builder.store(part, _vector_at(builder, start, at, part.type))
            stored.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.uintp, types.uintp, vector, samples), generate


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
    apart = uintp(len(bounds) // max(many, uintp(1)))
    own = i if apart > 1 else uintp(0)
    for t in range(many):
        value = raised(value, total, bounds[own + t * apart], steps[t + uintp(1)])
    write(out, place, value)


def add_up(weights, like, inputs, bounds, steps, out):
    """Steps added up where the signed sums exceed their bounds.

    ``weights`` as a TernaryMatrix has them; ``inputs`` (blocks, columns, lanes) and ``out``
    (blocks, rows, lanes), whose blocks may hold several of the inputs' side by side; ``bounds``
    (t · rows,), with rows up to a full tile, or (t,) if all have the same; ``steps`` (t + 1,) from
    the first value to the next and on; ``like`` of a type that counts columns.
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
def _settle(total, first, bounds, steps, many):
    value, count = same(steps[0], total), uintp(len(steps) - 1)
    apart = uintp(len(bounds) // max(count, uintp(1)))
    for t in range(count):
        step = steps[t + uintp(1)]
        if apart > 1:
            own = spread(bounds, t * apart + first, many, True)
            value = raised(value, total, own, step)
        else:
            value = raised(value, total, int32(bounds[t]), step)
    return value


def _by(many: int) -> Callable:
    """Of SUMS rows, from a sample on so many at a time, as long as there are; where that ends."""

    @njit
    def tiles(tile, begin, weights, inputs, lifts, bounds, steps, out):
        stride, segment = uintp(weights.shape[1]), uintp(inputs.shape[2])
        w, x, y = weights.reshape(weights.size), inputs.reshape(inputs.size), out.reshape(out.size)
        apart, rows = uintp(out.shape[1]), SUMS // many
        end = len(inputs) - (len(inputs) - begin) % many
        for first in range(SUMS * tile, SUMS * (tile + 1), rows):
            row = uintp(first) * stride
            for s in range(begin, end, many):
                total = products(w, row, stride, x, uintp(4 * s) * segment, segment, many)
                total = less(total, spread(lifts, uintp(s), many, False))
                value = _settle(total, uintp(first), bounds, steps, many)
                write_each(y, uintp(s) * apart + uintp(first), apart, value, many)
        return end

    return tiles


_by_four, _by_two, _one_by_one = map(_by, (4, 2, 1))


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


def multiply(weights, codes, bounds, steps, out):
    """Steps added up where the products T x exceed their bounds, (n, rows).

    ``weights`` (rows, stride) hold w + 1, with rows of anything up to a full tile and a register
    behind the last one, and so have ``bounds`` and ``out``; ``codes`` (n, columns) are x, the rest
    as for :func:`add_up`.
    """
    inputs, lifts = _segments(codes, weights.shape[1])
    for tile in prange(out.shape[1] // SUMS):
        given = weights, inputs, lifts, bounds, steps, out
        s = _by_four(tile, 0, *given)
        s = _by_two(tile, s, *given)
        _one_by_one(tile, s, *given)


def score(rows, weights, bias, out):
    """rows · weights + bias, (n, K), for rows (n, d) and weights (K, d)."""
    n, d = rows.shape
    none = bias[0] - bias[0]
    for tile in prange(-(-n // SUMS)):
        for s in range(SUMS * tile, min(n, SUMS * (tile + 1))):
            for k in range(len(weights)):
                total = none
                for i in range(d):
                    total += rows[s, i] * weights[k, i]
                out[s, k] = total + bias[k]


def spell_rows(pieces, values, out):
    """values[pieces], both (n, rows)."""
    for s in prange(len(out)):
        for i in range(out.shape[1]):
            out[s, i] = values[pieces[s, i]]


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
