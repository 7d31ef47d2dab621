"""Ternary matrices: held by their non-zeros, and packed near their entropy.

A matrix has entries −1, 0 and +1; the factor (1 − ε)^(−½) that gives them variance 1 is kept apart.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import array, share, whole

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


@frozen(eq=False)
class TernaryMatrix:
    """A ternary matrix, held by the columns of its non-zero entries: 2 or 4 bytes each.

    Row i's are ``columns[starts[i]:starts[i + 1]]``: first those of the +1, increasing, then, from
    ``middles[i]`` on, those of the −1, increasing.

    Examples
    --------
    >>> matrix = TernaryMatrix.from_dense([[0, 1, -1], [0, 0, 1]])
    >>> matrix.columns.tolist(), matrix.row_sums.tolist(), matrix.sparsity
    ([1, 2, 2], [0, 1], 0.5)
    """

    shape: tuple[int, int]
    starts: NDArray[np.int64]
    middles: NDArray[np.int64]
    columns: NDArray[np.unsignedinteger]

    @classmethod
    def from_entries(
        cls, shape: tuple[int, int], flat: NDArray[np.integer], negative: NDArray[np.bool_]
    ) -> TernaryMatrix:
        """From the increasing row-major positions of the non-zeros, and which of them are −1."""
        row, column = np.divmod(flat, shape[1])
        run = 2 * row + negative
        ends = np.cumsum(np.bincount(run, minlength=2 * shape[0]), dtype=np.int64)
        width = np.uint16 if shape[1] <= 2**16 else np.uint32
        columns: NDArray = column[np.argsort(run, kind="stable")].astype(width)
        return cls(shape, np.concatenate([[0], ends[1::2]]), ends[::2].copy(), columns)

    @classmethod
    def from_dense(cls, matrix: ArrayLike) -> TernaryMatrix:
        """From a matrix of −1, 0 and +1; ValueError if it is none, or empty."""
        dense = array("matrix", matrix, 2)
        flat = np.flatnonzero(dense)
        signs = dense.ravel()[flat]
        if dense.size == 0 or not (np.abs(signs) == 1).all():
            raise ValueError(
                f"matrix must have an entry and hold -1, 0 and 1 only, got shape {dense.shape}"
            )
        return cls.from_entries(dense.shape, flat, signs < 0)

    def to_dense(self) -> NDArray[np.int8]:
        """(rows, columns) int8 array."""
        dense = np.zeros(self.shape, np.int8)
        row = np.repeat(np.arange(self.shape[0]), np.diff(self.starts))
        dense[row, self.columns] = np.where(np.arange(len(row)) < self.middles[row], 1, -1)
        return dense

    @property
    def row_sums(self) -> NDArray[np.int64]:
        """(rows,) number of +1 less number of −1."""
        return 2 * self.middles - self.starts[:-1] - self.starts[1:]

    @property
    def size(self) -> int:
        """Number of entries, zeros included."""
        return self.shape[0] * self.shape[1]

    @property
    def sparsity(self) -> float:
        """The share of zeros that it really has."""
        return 1 - len(self.columns) / self.size

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.starts.nbytes + self.middles.nbytes + self.columns.nbytes


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
    >>> 8 * packed.nbytes / matrix.size < 0.6, len(unpack_ternary(packed).columns)
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
    if packed.codes_zeros:
        positions = np.delete(np.arange(total), positions)
    return TernaryMatrix.from_entries(packed.shape, positions, signs.astype(bool))


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
    dense = array("matrix", matrix, 2)
    flat = np.flatnonzero(dense)
    packed = pack_ternary(TernaryMatrix.from_entries(dense.shape, flat, np.zeros(len(flat), bool)))
    return min(4 * dense.size, 4 * len(flat) + packed.unary.nbytes + packed.low.nbytes)
