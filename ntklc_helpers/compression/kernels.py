"""The two loops that a ternary layer runs, on whole vector registers.

:func:`add_up` reads the places of the non-zeros, and adds for each the codes of as many samples as
its inputs hold side by side. :func:`multiply` reads all weights, four to a byte, and multiplies
64 of them with the codes of one sample at a time. Both count how many bounds a sum exceeds. Sums
of whole numbers are exact in either; floats are added by the first in a fixed order.

They are written for LLVM in vectors longer than a register may be, which it cuts to what the
processor has. Only the product of bytes asks for an instruction by name, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, prange, types, uintp
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

# Codes of as many samples lie side by side; floats of eight, whatever the register.
LANES, FLOAT_LANES = 64, 8
# Rows and samples whose sums are taken at a time in a product, and bytes that it reads at a time.
TILE, PIECE = 4, 64
# Rows that add all that is together in a block before the next rows do, and bytes that are asked
# of the memory before they are needed.
TOGETHER, AHEAD = 64, 8192
_BYTE, _INT, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _INTS = ir.VectorType(_BYTE, PIECE), ir.VectorType(_INT, PIECE // 4)


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


def _adds(how_many: Callable[[types.Number], int]) -> Callable:
    """x[c₀] + x[c₁] + …, in this order, for the inputs x that the columns from a place on name."""

    def operation(typing_context, inputs, first, columns, place, like):
        kind = Vector(inputs.dtype, like.width)
        align = min(64, kind.width * kind.dtype.bitwidth // 8)

        def generate(context, builder, signature, args):
            start = builder.gep(_start(context, builder, inputs, args[0]), [args[1]])
            names = builder.gep(_start(context, builder, columns, args[2]), [args[3]])
            add = builder.fadd if isinstance(inputs.dtype, types.Float) else builder.add
            total, vector = None, context.get_data_type(kind)
            for k in range(how_many(inputs.dtype)):
                column = builder.zext(builder.load(builder.gep(names, [_LONG(k)])), _LONG)
                place = builder.mul(column, _LONG(like.width))
                row = _read(builder, start, place, vector, align)
                total = add(total, row) if total else row
            return total

        return kind(inputs, types.uintp, columns, types.uintp, like), generate

    return operation


some, single = intrinsic(_adds(_group)), intrinsic(_adds(lambda _: 1))


def _joins(whole: str, floats: str) -> Callable:
    """An operation on two vectors, of which the second may be of smaller whole numbers."""

    def operation(typing_context, one, two):
        name = floats if isinstance(one.dtype, types.Float) else whole

        def generate(context, builder, signature, args):
            kind, other = context.get_data_type(one), args[1]
            wide = other if two.dtype == one.dtype else builder.sext(other, kind)
            return getattr(builder, name)(args[0], wide)

        return one(one, two), generate

    return operation


plus, minus = intrinsic(_joins("add", "fadd")), intrinsic(_joins("sub", "fsub"))


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


def _fours(context: Any, builder: ir.IRBuilder, total: Any, weights: Any, codes: Any) -> Any:
    """Add products of bytes, of which the weights have no sign, to sums of four neighbours each."""
    if "+avx512vnni" in context.codegen().magic_tuple()[-1]:
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
def _signed_sums(i, starts, middles, columns, inputs, first, total):
    group, q, middle, end = group_of(inputs), starts[i], middles[i], starts[i + uintp(1)]
    while q + group <= middle:
        total = plus(total, some(inputs, first, columns, q, total))
        q += group
    while q < middle:
        total = plus(total, single(inputs, first, columns, q, total))
        q += uintp(1)
    while q + group <= end:
        total = minus(total, some(inputs, first, columns, q, total))
        q += group
    while q < end:
        total = minus(total, single(inputs, first, columns, q, total))
        q += uintp(1)
    return total


@njit
def _add_row(i, starts, middles, columns, inputs, first, bounds, steps, out, place):
    total = _signed_sums(i, starts, middles, columns, inputs, first, zeros(bounds))
    value, many = same(steps[0], total), uintp(len(steps) - 1)
    own = uintp(0) if len(bounds) == many else i * many
    for t in range(many):
        value = raised(value, total, bounds[own + t], steps[t + uintp(1)])
    write(out, place, value)


def add_up(starts, middles, columns, inputs, bounds, steps, out):
    """Steps added up where the signed sums exceed their bounds.

    ``inputs`` (blocks, columns, lanes) and ``out`` (blocks, rows, lanes), whose blocks may hold
    several of the inputs' side by side; ``bounds`` (rows · t,), or (t,) if all rows have the same;
    ``steps`` (t + 1,) from the first value to the next and on; places of the non-zeros as in a
    TernaryMatrix.
    """
    _, rows, lanes = out.shape
    tiles = -(-rows // TOGETHER)
    x, y = inputs.reshape(inputs.size), out.reshape(out.size)
    for job in prange(len(out) * tiles):
        k, tile = divmod(job, tiles)
        for block in range(k * lanes // inputs.shape[2], (k + 1) * lanes // inputs.shape[2]):
            first = uintp(block * inputs.shape[1] * inputs.shape[2])
            lane = block * inputs.shape[2] - k * lanes
            for i in range(tile * TOGETHER, min(rows, (tile + 1) * TOGETHER)):
                place = uintp((k * rows + i) * lanes + lane)
                if block < len(inputs):
                    _add_row(uintp(i), starts, middles, columns, x, first, bounds, steps, y, place)


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


def multiply(weights, inputs, lifts, bounds, table, out):
    """The table's entry at the number of bounds that T x exceeds, (n, rows).

    ``weights`` (rows, stride) hold w + 1, with rows of anything up to a full tile and a register
    behind the last one; ``inputs`` (n, 4, segment) the codes, ``lifts`` (n,) their sums.
    """
    for tile in prange(-(-out.shape[1] // TILE)):
        _multiply_tile(tile, weights, inputs, lifts, bounds, table, out)


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
