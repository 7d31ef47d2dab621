"""Ternary matrices: drawn from a seed, held by their non-zeros, and packed near their entropy.

A matrix has entries −1, 0 and +1; the factor (1 − ε)^(−½) that gives them variance 1 is kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import nonnegative_integer, positive_integer, sparsity_below_one

Bytes = NDArray[np.uint8]

_BITS = 31
_MOST_RICE_BITS = 30


def draw_ternary(
    shape: tuple[int, int], sparsity: float, seed: int, stream: int = 0
) -> NDArray[np.int8]:
    """A matrix of i.i.d. entries: 0 with probability ε, else −1 or +1 with equal probability.

    The same on every platform and with every version of numpy: only the raw output of PCG64 and
    its seeding are used, both of which numpy keeps. Each entry takes 32 bits: the lowest is the
    sign, and the others, as a number v, make it 0 where v < ε 2³¹.

    Parameters
    ----------
    shape : (rows, columns)
    sparsity : float
        ε in [0, 1), rounded to a multiple of 2⁻³¹.
    seed, stream : int
        At least 0; each pair gives a matrix of its own.

    Returns
    -------
    (rows, columns) int8 array

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    rows, columns = (positive_integer("shape", size) for size in shape)
    sparsity = sparsity_below_one(sparsity)
    seeds = [nonnegative_integer("seed", seed), nonnegative_integer("stream", stream)]
    count = rows * columns
    raw = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw((count + 1) // 2)
    halves = raw.astype("<u8").view("<u4")[:count]
    signs = (2 * (halves & 1)).astype(np.int8) - np.int8(1)
    signs[(halves >> 1) < round(sparsity * 2**_BITS)] = 0
    return signs.reshape(rows, columns)


def ternary_entropy(sparsity: float) -> float:
    """Entropy of the law in bits: what no code for i.i.d. entries can beat on average.

    H(ε) = −ε log₂ ε − (1 − ε) log₂((1 − ε)/2).

    Raises
    ------
    ValueError
        If the sparsity is not in [0, 1).
    """
    eps = sparsity_below_one(sparsity)
    zeros = -eps * np.log2(eps) if eps else 0.0
    return float(zeros - (1 - eps) * np.log2((1 - eps) / 2))


@dataclass(frozen=True, eq=False)
class TernaryMatrix:
    """A ternary matrix, held by the columns of its non-zero entries: 2 or 4 bytes each.

    Attributes
    ----------
    shape : (rows, columns)
    starts : (rows + 1,) int64 array
        Row i's entries are ``columns[starts[i]:starts[i + 1]]``: first the +1, then the −1.
    middles : (rows,) int64 array
        Where the −1 of each row begin.
    columns : (entries,) uint16 or uint32 array
        Increasing within each row and sign.
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
        return cls(
            shape=shape,
            starts=np.concatenate([[0], ends[1::2]]),
            middles=ends[::2].copy(),
            columns=column[np.argsort(run, kind="stable")].astype(width),
        )

    @classmethod
    def from_dense(cls, matrix: ArrayLike) -> TernaryMatrix:
        """From a matrix of −1, 0 and +1.

        Raises
        ------
        ValueError
            If it is not a matrix, is empty, or holds another value.
        """
        dense = np.asarray(matrix)
        if dense.ndim != 2 or dense.size == 0 or not np.isin(dense, (-1, 0, 1)).all():
            raise ValueError(
                "matrix must have two dimensions, at least one entry, and hold -1, 0 and 1 only; "
                f"got shape {dense.shape} and dtype {dense.dtype}"
            )
        flat = np.flatnonzero(dense)
        return cls.from_entries(dense.shape, flat, dense.ravel()[flat] < 0)

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
    def longest_row(self) -> int:
        """The most non-zeros in any row."""
        return int(np.diff(self.starts).max())

    @property
    def sparsity(self) -> float:
        """The share of zeros that it really has."""
        return 1 - len(self.columns) / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.starts.nbytes + self.middles.nbytes + self.columns.nbytes


@dataclass(frozen=True, eq=False)
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
    """Pack a ternary matrix; :func:`unpack_ternary` gives it back."""
    dense = matrix.to_dense().ravel()
    nonzero = dense != 0
    codes_zeros = bool(2 * np.count_nonzero(nonzero) > dense.size)
    gaps = np.diff(np.flatnonzero(nonzero != codes_zeros), prepend=-1) - 1
    sizes = [int((gaps >> k).sum()) + (1 + k) * len(gaps) for k in range(_MOST_RICE_BITS + 1)]
    k = int(np.argmin(sizes))
    ends = np.cumsum((gaps >> k) + 1)
    unary = np.zeros(ends[-1] if len(gaps) else 0, np.uint8)
    unary[ends - 1] = 1
    low = gaps[:, None] >> np.arange(k)[::-1] & 1
    return PackedTernary(
        shape=matrix.shape,
        codes_zeros=codes_zeros,
        rice_bits=k,
        count=len(gaps),
        unary=np.packbits(unary),
        low=np.packbits(low.astype(np.uint8).ravel()),
        signs=np.packbits(dense[nonzero] < 0),
    )


def pruned_bytes(matrix: ArrayLike) -> int:
    """Bytes of a float32 matrix as small as a lossless file gets with what is used here.

    All entries, or the non-zeros and where they stand, as :func:`pack_ternary` stores it;
    whichever is less.
    """
    dense = np.asarray(matrix)
    packed = pack_ternary(TernaryMatrix.from_dense((dense != 0).astype(np.int8)))
    sparse = 4 * np.count_nonzero(dense) + packed.unary.nbytes + packed.low.nbytes
    return min(4 * dense.size, int(sparse))


def unpack_ternary(packed: PackedTernary) -> TernaryMatrix:
    """The matrix that was packed.

    Raises
    ------
    ValueError
        If the streams do not fit each other, the count or the shape.
    """
    total, k, count = packed.shape[0] * packed.shape[1], packed.rice_bits, packed.count
    if not (0 <= k <= _MOST_RICE_BITS and 0 <= count <= total):
        raise ValueError(f"rice_bits {k} or count {count} is out of range")
    ends = np.flatnonzero(np.unpackbits(packed.unary))
    if len(ends) != count or len(packed.unary) != (ends[-1] // 8 + 1 if count else 0):
        raise ValueError(f"unary must hold {count} gaps and nothing more")
    low = _bits(packed.low, count * k, "low").reshape(count, k)
    gaps = ((np.diff(ends, prepend=-1) - 1) << k) + low @ (1 << np.arange(k)[::-1])
    positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= total:
        raise ValueError(f"the positions reach beyond the matrix of shape {packed.shape}")
    if packed.codes_zeros:
        positions = np.delete(np.arange(total), positions)
    signs = _bits(packed.signs, len(positions), "signs")
    return TernaryMatrix.from_entries(packed.shape, positions, signs.astype(bool))


def _bits(stream: Bytes, count: int, name: str) -> Bytes:
    bits = np.unpackbits(stream)
    if len(stream) != -(-count // 8) or bits[count:].any():
        raise ValueError(f"{name} must hold {count} bits and nothing more")
    return bits[:count]
