"""The two loops that a ternary layer runs, on whole vector registers.

Both read weights as two bits each: whether one is not zero, and whether it is negative.
:func:`add_up` lists the columns of a few rows' non-zeros, and adds for each the codes of as many
samples as its inputs hold side by side, for all of them before the next few rows. :func:`multiply`
takes the codes bit by bit: it counts, for 512 weights at a time, which meet a bit that is set and
which, if negative, one that is not. Both count how many bounds a sum exceeds. Sums of whole numbers
are exact in either; floats are added by the first in a fixed order.

They are written for LLVM in vectors longer than a register may be, which it cuts to what the
processor has. A list of the bits that are set asks for an instruction by name, where there is one.
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
# Rows of weights that lie side by side, columns in a word of theirs, and bits of a code that are
# counted at a time. And bits, or bytes, that are listed at a time.
ROWS, WORD, PLANES, PIECE = 16, 32, 4, 64
# Rows whose non-zeros are listed at a time, and non-zeros of 64 weights written down at once.
TOGETHER, SOME = 64, 16
_BYTE, _INT, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _INTS = ir.VectorType(_BYTE, PIECE), ir.VectorType(_INT, ROWS)
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
def listed(typing_context, marked, first, columns, place):
    """Write down which of 64 bits are set, increasing, counted from ``first``; how many there are.

    The numbers stand in ``columns`` from ``place`` on; behind the last more may be changed, up to
    the 64th.
    """

    def generate(context, builder, signature, args):
        start = builder.gep(_start(context, builder, columns, args[2]), [args[3]])
        first = builder.trunc(args[1], context.get_data_type(columns.dtype))
        put = _numbers if _knows(context, "avx512vbmi2") else _numbers_one_by_one
        put(context, builder, args[0], first, lambda k: builder.gep(start, [k]))
        return builder.ctpop(args[0])

    number = types.uintp
    return number(number, number, columns, number), generate


def _shuffled(builder: ir.IRBuilder, a: Any, b: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_INT, len(order)), order)
    return builder.shuffle_vector(a, b, mask)


def _counted(builder: ir.IRBuilder, weights: tuple[Any, Any], x: Any, totals: list[Any]) -> None:
    """Add for each row how many non-zeros meet a bit that is set or, if negative, one that is not.

    Of as many bits as there are totals, which lie side by side from ``x`` on.
    """
    kind = ir.FunctionType(_INTS, [_INTS])
    count = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{ROWS}i32")
    nonzero, negative = weights
    for b, total in enumerate(totals):
        bits = _everywhere(builder, builder.load(builder.gep(x, [_LONG(b)])), ROWS)
        met = builder.call(count, [builder.and_(nonzero, builder.xor(negative, bits))])
        builder.store(builder.add(builder.load(total), met), total)


def _weigh(builder: ir.IRBuilder, counts: list[Any], shift: Any, total: Any) -> None:
    """Add the counts, each of a bit twice as large as the one before; the first is of 2^shift."""
    found = builder.load(counts[-1])
    for count in reversed(counts[:-1]):
        found = builder.add(builder.add(found, found), builder.load(count))
    found = builder.shl(found, _everywhere(builder, shift, ROWS))
    builder.store(builder.add(builder.load(total), found), total)


def _one_after_another(builder: ir.IRBuilder, parts: list[Any]) -> Any:
    while len(parts) > 1:
        order = list(range(2 * parts[0].type.count))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_shuffled(builder, a, b, order) for a, b in pairs]
    return parts[0]


@intrinsic(prefer_literal=True)
def products(typing_context, weights, tile, full, half, planes, sample, rounds, samples):
    """Counts for ROWS rows of a tile and so many samples, sample by sample.

    A count is Σ w u, plus for each negative w the largest u there can be: u has ``rounds`` times
    PLANES bits. The tile's words and the first sample's bits lie from those places on.
    """
    if not isinstance(samples, types.IntegerLiteral):
        return None
    many = samples.literal_value

    def generate(context, builder, signature, args):
        _, tile, full, half, _, sample, rounds, _ = args
        W, X = (_start(context, builder, kind, args[k]) for k, kind in ((0, weights), (4, planes)))
        nothing = ir.Constant(_INTS, None)
        totals = [cgutils.alloca_once_value(builder, nothing) for _ in range(many)]
        counts = [[cgutils.alloca_once(builder, _INTS) for _ in range(PLANES)] for _ in totals]
        length = builder.mul(builder.add(full, half), _LONG(PLANES))
        behind = builder.add(tile, builder.mul(full, _LONG(2 * ROWS)))
        with cgutils.for_range(builder, rounds) as turn:

            def met(pair: tuple[Any, Any], word: Any) -> None:
                for s, own in enumerate(counts):
                    before = builder.add(builder.mul(rounds, _LONG(s)), turn.index)
                    at = builder.add(sample, builder.mul(before, length))
                    at = builder.add(at, builder.mul(word, _LONG(PLANES)))
                    _counted(builder, pair, builder.gep(X, [at]), own)

            for count in sum(counts, []):
                builder.store(nothing, count)
            with cgutils.for_range(builder, full) as loop:
                at = builder.add(tile, builder.mul(loop.index, _LONG(2 * ROWS)))
                pair = (at, builder.add(at, _LONG(ROWS)))
                nonzero, negative = (_read(builder, W, place, _INTS, 4) for place in pair)
                met((nonzero, negative), loop.index)
            with builder.if_then(builder.icmp_unsigned("!=", half, _LONG(0))):
                both = _read(builder, W, behind, _INTS, 4)
                up = ir.Constant(_INTS, [WORD // 2] * ROWS)
                low = ir.Constant(_INTS, [2 ** (WORD // 2) - 1] * ROWS)
                met((builder.and_(both, low), builder.lshr(both, up)), full)
            shift = builder.trunc(builder.mul(turn.index, _LONG(PLANES)), _INT)
            for total, own in zip(totals, counts, strict=True):
                _weigh(builder, own, shift, total)
        return _one_after_another(builder, [builder.load(total) for total in totals])

    places = (types.uintp,) * 3
    taken = weights, *places, planes, types.uintp, types.uintp, samples
    return Vector(types.int32, many * ROWS)(*taken), generate


@intrinsic
def bits_of(typing_context, codes, place, lowest, turn, planes, at):
    """Write that turn's PLANES bits of WORD codes less the lowest, a word for each bit."""

    def generate(context, builder, signature, args):
        X, out = (_start(context, builder, kind, args[k]) for k, kind in ((0, codes), (4, planes)))
        own = ir.VectorType(_BYTE, WORD)
        found = _read(builder, X, args[1], own, 1)
        found = builder.sub(found, _everywhere(builder, builder.trunc(args[2], _BYTE), WORD))
        turn = builder.trunc(builder.mul(args[3], _LONG(PLANES)), _BYTE)
        found = builder.lshr(found, _everywhere(builder, turn, WORD))
        for b in range(PLANES):
            marked = builder.and_(found, ir.Constant(own, [1 << b] * WORD))
            marked = builder.icmp_unsigned("!=", marked, ir.Constant(own, None))
            there = builder.gep(out, [builder.add(args[5], _LONG(b))])
            builder.store(builder.bitcast(marked, _INT), there)
        return context.get_dummy_value()

    number = types.uintp
    return types.void(codes, number, types.intp, number, planes, number), generate


@intrinsic(prefer_literal=True)
def of_rows(typing_context, numbers, place, samples):
    """ROWS numbers from a place in an array on, over again for each sample."""
    if not isinstance(samples, types.IntegerLiteral):
        return None
    order = [*range(ROWS)] * samples.literal_value

    def generate(context, builder, signature, args):
        start = _start(context, builder, numbers, args[0])
        own = ir.VectorType(context.get_data_type(numbers.dtype), ROWS)
        found = _read(builder, start, args[1], own, numbers.dtype.bitwidth // 8)
        found = found if own == _INTS else builder.sext(found, _INTS)
        return _shuffled(builder, found, found, order)

    return Vector(types.int32, len(order))(numbers, types.uintp, samples), generate


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
def words_of(columns):
    """How many words of weights a row has: full ones, and whether one of half as many follows."""
    left = columns % WORD
    half = int(0 < left <= WORD // 2)
    return uintp(columns // WORD + (left > 0) - half), uintp(half)


@njit
def _pair(w, row, word, full, half):
    """Which of a word's weights are not zero, and which are negative."""
    at = row + uintp(2 * ROWS) * word
    if word < full:
        return uintp(w[at]), uintp(w[at + uintp(ROWS)])
    if word == full + half:
        return uintp(0), uintp(0)
    both = uintp(w[at])
    return both & uintp(2 ** (WORD // 2) - 1), both >> uintp(WORD // 2)


@njit
def _list(weights, start, end, width, like):
    """Columns of some rows' +1, and of their −1, and where each row's begin and end."""
    (full, half), room = words_of(width), (end - start) * width + PIECE
    w = weights.reshape(weights.size)
    columns, ends = np.empty(2 * room, like.dtype), np.empty((end - start + 1, 2), np.uint64)
    up, down = uintp(0), uintp(room)
    ends[0] = up, down
    for i in range(end - start):
        row = uintp((start + i) // ROWS * weights.shape[1] + (start + i) % ROWS)
        for word in range(uintp(0), full + half, uintp(2)):
            nonzero, negative = _pair(w, row, word, full, half)
            more = _pair(w, row, word + uintp(1), full, half)
            nonzero |= more[0] << uintp(WORD)
            negative |= more[1] << uintp(WORD)
            first = uintp(WORD) * word
            up += listed(nonzero & ~negative, first, columns, up)
            down += listed(negative, first, columns, down)
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
            value = raised(value, total, of_rows(bounds, t * apart + first, many), step)
        else:
            value = raised(value, total, int32(bounds[t]), step)
    return value


def _by(many: int) -> Callable:
    """Of a tile, from a sample on so many at a time, as long as there are; where that ends."""

    @njit
    def rows(tile, begin, weights, words, planes, n, rounds, lifts, bounds, steps, out):
        w, y, (full, half) = weights.reshape(weights.size), out.reshape(out.size), words
        apart, own = uintp(out.shape[1]), uintp(len(planes) // n)
        start, first = uintp(tile) * uintp(weights.shape[1]), uintp(ROWS * tile)
        end = n - (n - begin) % many
        for s in range(begin, end, many):
            place = uintp(s) * own
            total = products(w, start, full, half, planes, place, rounds, many)
            total = less(total, of_rows(lifts, first, many))
            value = _settle(total, first, bounds, steps, many)
            write_each(y, uintp(s) * apart + first, apart, value, many)
        return end

    return rows


_by_four, _by_two, _one_by_one = map(_by, (4, 2, 1))


@njit
def _planes(codes, lowest, rounds):
    """Bits of codes (n, columns) less the lowest: of each sample, turn and word PLANES words."""
    n, columns = codes.shape
    full, left = columns // WORD, columns % WORD
    found = np.empty(n * rounds * (full + (left > 0)) * PLANES, np.uint32)
    x, rest, at = codes.reshape(codes.size), np.zeros(WORD, np.int8), uintp(0)
    for s in range(n):
        first = uintp(s * columns)
        rest[:left] = codes[s, columns - left :]
        for turn in range(uintp(0), rounds, uintp(1)):
            for word in range(uintp(0), uintp(full), uintp(1)):
                bits_of(x, first + word * uintp(WORD), lowest, turn, found, at)
                at += uintp(PLANES)
            if left > 0:
                bits_of(rest, uintp(0), lowest, turn, found, at)
                at += uintp(PLANES)
    return found


def multiply(weights, codes, lowest, rounds, lifts, bounds, steps, out):
    """Steps added up where the products T x exceed their bounds, (n, rows).

    ``weights`` as a TernaryMatrix has them, with rows up to a full tile, and so have ``bounds``,
    ``lifts`` and ``out``; ``codes`` (n, columns) are x, int8, and less the lowest of them have
    PLANES times ``rounds`` bits; ``lifts`` are what is counted where T x = 0; the rest as for
    :func:`add_up`.
    """
    rounds, n = uintp(rounds), len(codes)
    planes, words = _planes(codes, lowest, rounds), words_of(codes.shape[1])
    for tile in prange(len(weights)):
        given = weights, words, planes, n, rounds, lifts, bounds, steps, out
        s = _by_four(tile, 0, *given)
        s = _by_two(tile, s, *given)
        _one_by_one(tile, s, *given)


def score(rows, weights, bias, out):
    """rows · weights + bias, (n, K), for rows (n, d) and weights (K, d)."""
    n, d = rows.shape
    none = bias[0] - bias[0]
    for tile in prange(-(-n // ROWS)):
        for s in range(ROWS * tile, min(n, ROWS * (tile + 1))):
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
