"""Ternary matrices: held in two bits an entry, and packed near their entropy.

A matrix has entries −1, 0 and +1; the factor (1 − ε)^(−½) that gives them variance 1 is kept apart.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import array, share, whole
from .kernels import ROWS, WORD, words_of

Bytes = NDArray[np.uint8]

_MOST_RICE_BITS = 30


def ternary_entropy(sparsity: float) -> float:
    """Entropy of the law in bits: what no code for i.i.d. entries can beat on average.

    H(ε) = −ε log₂ ε − (1 − ε) log₂((1 − ε)/2). Raises ValueError unless the sparsity ε is
    in [0, 1).

    Returns
    -------
    float
        Bits a weight.

    Examples
    --------
    >>> ternary_entropy(0.5), round(ternary_entropy(0.9), 3)
    (1.5, 0.569)
    """
    eps = share("sparsity", sparsity)
    zeros = -eps * np.log2(eps) if eps else 0.0
    return float(zeros - (1 - eps) * np.log2((1 - eps) / 2))


def packed_bits(sparsity: float) -> float:
    """Bits a weight that :func:`pack_ternary` takes on average, for i.i.d. entries.

    With q the share of the rarer kind, gaps g between its positions are geometric, and ⌊g/2^k⌋ is
    on average r/(1 − r), r = (1 − q)^(2^k). So q (1 + k + r/(1 − r)) bits say where they stand, by
    the best k, and 1 − ε bits are signs. Raises ValueError unless the sparsity ε is in [0, 1).

    Returns
    -------
    float

    Examples
    --------
    >>> packed_bits(0.0), round(packed_bits(0.9), 3)
    (1.0, 0.576)
    """
    eps = share("sparsity", sparsity)
    q, k = min(eps, 1 - eps), np.arange(_MOST_RICE_BITS + 1)
    if q == 0:
        return 1.0
    logs = 2.0**k * np.log1p(-q)
    return float(np.min(q * (1 + k - np.exp(logs) / np.expm1(logs))) + 1 - eps)


@frozen(eq=False)
class TernaryMatrix:
    """A ternary matrix, held in two bits an entry, as the loops that multiply with it read it.

    A row of ``words`` (tiles, length) holds 16 of the matrix, the last filled up with zeros: for
    each 32 columns 16 words, a row's each, whose bits, from the lowest on, say which entries are
    not zero, and 16 that say which are negative. If 16 columns or fewer are left, 16 words say
    both, the latter in their upper halves.

    Examples
    --------
    >>> matrix = TernaryMatrix.from_dense([[0, 1, -1], [0, 0, 1]])
    >>> matrix.to_dense().tolist(), matrix.row_sums.tolist(), matrix.sparsity
    ([[0, 1, -1], [0, 0, 1]], [0, 1], 0.5)
    """

    shape: tuple[int, int]
    words: NDArray[np.uint32]

    @classmethod
    def from_dense(cls, matrix: ArrayLike) -> TernaryMatrix:
        """From a matrix of −1, 0 and +1; ValueError if it is none, or empty."""
        dense = array("matrix", matrix, 2)
        if dense.size == 0 or not ((dense == 0) | (np.abs(dense) == 1)).all():
            raise ValueError(
                f"matrix must have an entry and hold -1, 0 and 1 only, got shape {dense.shape}"
            )
        return cls.from_signs(dense.astype(np.int8))

    @classmethod
    def from_signs(cls, dense: NDArray[np.int8]) -> TernaryMatrix:
        """From an int8 matrix that is known to be ternary."""
        rows, columns = dense.shape
        full, half = map(int, words_of(columns))
        both = np.zeros((2, -(-rows // ROWS) * ROWS, 4 * (full + half)), np.uint8)
        for part, marked in zip(both, (dense != 0, dense < 0), strict=True):
            bits = np.packbits(marked, axis=1, bitorder="little")
            part[:rows, : bits.shape[1]] = bits
        # (tile, word, what it says, row)
        tiled = both.view("<u4").reshape(2, -1, ROWS, full + half).transpose(1, 3, 0, 2)
        words = tiled[:, :full].reshape(len(tiled), -1)
        if half:
            last = tiled[:, full, 0] | tiled[:, full, 1] << WORD // 2
            words = np.concatenate([words, last], axis=1)
        return cls((rows, columns), np.ascontiguousarray(words, np.uint32))

    @property
    def _marked(self) -> NDArray[np.uint32]:
        """(2, rows, words) which entries are not zero, and which are negative."""
        full, half = map(int, words_of(self.shape[1]))
        whole = self.words[:, : 2 * ROWS * full].reshape(len(self.words), full, 2, ROWS)
        tiled = whole.transpose(2, 0, 3, 1)
        if half:
            last = self.words[:, -ROWS:, None]
            both = np.stack([last & np.uint32(2 ** (WORD // 2) - 1), last >> WORD // 2])
            tiled = np.concatenate([tiled, both], axis=3)
        return tiled.reshape(2, -1, full + half)[:, : self.shape[0]]

    def to_dense(self) -> NDArray[np.int8]:
        """(rows, columns) int8 array."""
        parts = np.ascontiguousarray(self._marked, "<u4").view(np.uint8)
        nonzero, negative = np.unpackbits(
            parts, axis=2, count=self.shape[1], bitorder="little"
        ).view(np.int8)
        return nonzero - 2 * negative

    @property
    def row_nonzeros(self) -> NDArray[np.int64]:
        """(rows,) number of entries that are not zero."""
        return _count(self._marked[0])

    @property
    def row_sums(self) -> NDArray[np.int64]:
        """(rows,) number of +1 less number of −1."""
        nonzeros, negatives = map(_count, self._marked)
        return nonzeros - 2 * negatives

    @property
    def size(self) -> int:
        """Number of entries, zeros included."""
        return self.shape[0] * self.shape[1]

    @property
    def nonzeros(self) -> int:
        """Number of entries that are not zero."""
        return int(self.row_nonzeros.sum())

    @property
    def sparsity(self) -> float:
        """The share of zeros that it really has."""
        return 1 - self.nonzeros / self.size

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.words.nbytes


def _count(bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """(rows,) bits that are set."""
    return np.bitwise_count(bits).sum(axis=1, dtype=np.int64)


@frozen(eq=False)
class PackedTernary:
    """A ternary matrix in few bits: where the rarer kind stands, and the non-zeros' signs.

    The positions of the rarer kind (zeros or non-zeros) are stored as gaps, in Rice's code: gap g
    as ⌊g/2^k⌋ zeros and a one in ``unary``, and its k lowest bits in ``low``. For gaps between
    i.i.d. events this is within a few percent of the entropy; k = 0 is a plain bitmap. One bit a
    non-zero in ``signs`` is set for −1. Bits fill each byte from its highest.
    """

    shape: tuple[int, int]
    codes_zeros: bool
    rice_bits: int
    count: int
    unary: Bytes
    low: Bytes
    signs: Bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the three streams."""
        return self.unary.nbytes + self.low.nbytes + self.signs.nbytes


def pack_ternary(matrix: TernaryMatrix) -> PackedTernary:
    """A ternary matrix as a :class:`PackedTernary`; :func:`unpack_ternary` gives it back.

    Examples
    --------
    >>> matrix = TernaryMatrix.from_dense(nh.theory.draw_ternary((100, 80), sparsity=0.9, seed=0))
    >>> packed = pack_ternary(matrix)
    >>> 8 * packed.nbytes / matrix.size < 0.6, unpack_ternary(packed).nonzeros
    (True, 803)
    """
    dense = matrix.to_dense().ravel()
    nonzero = dense != 0
    codes_zeros = bool(2 * np.count_nonzero(nonzero) > dense.size)
    gaps = np.diff(np.flatnonzero(nonzero != codes_zeros), prepend=-1) - 1
    sizes = [int((gaps >> k).sum()) + (1 + k) * len(gaps) for k in range(_MOST_RICE_BITS + 1)]
    k = int(np.argmin(sizes))
    ends = np.cumsum((gaps >> k) + 1)
    unary = np.zeros(ends[-1] if len(gaps) else 0, np.uint8)
    unary[ends - 1] = 1
    low = (gaps[:, None] >> np.arange(k)[::-1] & 1).astype(np.uint8).ravel()
    streams = (np.packbits(bits) for bits in (unary, low, dense[nonzero] < 0))
    return PackedTernary(matrix.shape, codes_zeros, k, len(gaps), *streams)


def unpack_ternary(packed: PackedTernary) -> TernaryMatrix:
    """The matrix that :func:`pack_ternary` packed.

    Raises ValueError if the streams do not fit each other, count or shape.

    Examples
    --------
    >>> matrix = TernaryMatrix.from_dense([[0, 1, -1], [0, 0, 1]])
    >>> unpack_ternary(pack_ternary(matrix)).to_dense().tolist()
    [[0, 1, -1], [0, 0, 1]]
    """
    total = packed.shape[0] * packed.shape[1]
    if not isinstance(packed.codes_zeros, bool):
        raise ValueError(f"codes_zeros must be true or false, got {packed.codes_zeros!r}")
    k = whole("rice_bits", packed.rice_bits, 0, _MOST_RICE_BITS)
    count = whole("count", packed.count, 0, total)
    ends = np.flatnonzero(np.unpackbits(packed.unary))
    if len(ends) != count or len(packed.unary) != (ends[-1] // 8 + 1 if count else 0):
        raise ValueError(f"unary must hold {count} gaps and nothing more")
    low = _bits(packed.low, count * k, "low").reshape(count, k)
    # Before anything as large as the shape says is made: the stream bounds it.
    signs = _bits(packed.signs, total - count if packed.codes_zeros else count, "signs")
    gaps = ((np.diff(ends, prepend=-1) - 1) << k) + low @ (1 << np.arange(k)[::-1])
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= total:
        raise ValueError(f"the positions reach beyond the matrix of shape {packed.shape}")
    nonzero = np.full(total, bool(packed.codes_zeros))
    nonzero[positions] = not packed.codes_zeros
    dense = np.zeros(total, np.int8)
    dense[nonzero] = 1 - 2 * signs.astype(np.int8)
    return TernaryMatrix.from_signs(dense.reshape(packed.shape))


def _bits(stream: Bytes, count: int, name: str) -> Bytes:
    bits = np.unpackbits(stream)
    if len(stream) != -(-count // 8) or bits[count:].any():
        raise ValueError(f"{name} must hold {count} bits and nothing more")
    return bits[:count]


def pruned_bytes(matrix: ArrayLike) -> int:
    """Bytes of a float32 matrix as small as a lossless file gets with what is used here.

    All entries, or the non-zeros and where they stand, as packed here; whichever is less. Raises
    ValueError if ``matrix`` is no matrix of finite numbers.

    Examples
    --------
    >>> pruned_bytes([[0, 0, 0, 0.5], [0, 0, 0, 0]]), pruned_bytes([[1.5, 2.5]])
    (6, 8)
    """
    places = TernaryMatrix.from_dense(array("matrix", matrix, 2) != 0)
    packed = pack_ternary(places)
    kept = 4 * places.nonzeros + packed.unary.nbytes + packed.low.nbytes
    return min(4 * places.size, kept)
