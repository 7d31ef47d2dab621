"""Low rank plus a diagonal: the form in which equivalents are kept and their spectra found."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag, eigh, eigvalsh
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dtrtri
from scipy.sparse.linalg import LinearOperator, eigsh

from .._checks import FloatArray, array, number, samples, whole


def low_rank_diagonal(X: FloatArray, V: FloatArray, A: FloatArray, scale: float = 1) -> FloatArray:
    """The diagonal (n,) of scale · XXᵀ + V A Vᵀ."""
    return scale * np.einsum("ij,ij->i", X, X) + np.einsum("ij,ij->i", V @ A, V)


class KernelEquivalent(LinearOperator):
    """The n × n matrix scale · XXᵀ + V A Vᵀ + shift · I, never formed.

    A scipy ``LinearOperator``, ``kernel @ v`` costing O(n (p + k)): X is (n, p), V (n, k), A (k, k)
    and symmetric; ``shift`` is a number, or (n,) of them for a diagonal that is not constant.

    Examples
    --------
    >>> zero = np.zeros((4, 1))
    >>> nh.KernelEquivalent(np.eye(4), zero, A=[[0]], scale=2, shift=1).eigenvalues().tolist()
    [3.0, 3.0, 3.0, 3.0]
    """

    def __init__(
        self, X: ArrayLike, V: ArrayLike, A: ArrayLike, scale: float, shift: float | ArrayLike
    ) -> None:
        self.X, self.V, self.A = samples("X", X), array("V", V, 2), array("A", A, 2)
        self.scale = number("scale", scale)
        self.shift: Any = array("shift", shift, 1) if np.ndim(shift) else number("shift", shift)
        n, k = self.V.shape
        if n != len(self.X) or self.A.shape != (k, k):
            raise ValueError(f"V and A must fit X, got shapes {self.V.shape} and {self.A.shape}")
        if np.shape(self.shift) not in ((), (n,)):
            raise ValueError(f"shift must be a number or {n} of them, got {np.shape(self.shift)}")
        super().__init__(dtype=np.float64, shape=(n, n))

    def _matmat(self, v: FloatArray) -> FloatArray:
        low_rank = self.scale * (self.X @ (self.X.T @ v)) + self.V @ (self.A @ (self.V.T @ v))
        return low_rank + (self.shift * v.T).T

    _matvec = _matmat

    def _adjoint(self) -> KernelEquivalent:
        return self

    def to_dense(self) -> FloatArray:
        """The (n, n) matrix itself."""
        dense = self.scale * (self.X @ self.X.T) + self.V @ self.A @ self.V.T
        dense.flat[:: len(dense) + 1] += self.shift
        return dense

    @cached_property
    def _factors(self) -> tuple[FloatArray, FloatArray]:
        """R S Rᵀ and the right inverse of R, where RᵀR = UᵀU and U S Uᵀ is the low-rank part.

        U = [X, V]. The non-zero eigenvalues of U S Uᵀ are those of R S Rᵀ, and an eigenvector q of
        the latter gives U R⁺ q. R is the Cholesky factor, or √D Wᵀ from UᵀU = W D Wᵀ where
        columns depend on each other.
        """
        # BLAS wants columns; X.T is already that for an array of rows.
        XtX, XtV = dsyrk(1.0, self.X.T, lower=1), self.X.T @ self.V
        G = np.block([[XtX, XtV], [XtV.T, self.V.T @ self.V]])
        R, failed = dpotrf(G.T, lower=0, clean=1)
        pivots = R.diagonal()
        if failed or pivots.min() < 1e-6 * pivots.max():
            squares, W = eigh(G, lower=True)
            kept = squares > squares[-1] * len(squares) * np.finfo(float).eps
            root, W = np.sqrt(squares[kept]), W[:, kept]
            R, inverse = root[:, None] * W.T, W / root
        else:
            inverse = dtrtri(R)[0]
        S = block_diag(self.scale * np.eye(len(XtX)), self.A)
        return R @ S @ R.T, inverse

    def eigenvalues(self) -> FloatArray:
        """All n eigenvalues, ascending; O(n r² + r³) time and O(nr) memory, r = p + k.

        With one number for a shift they agree with a dense eigensolver to 1e-12 of the largest.
        With a diagonal D that varies, each is within (max D − min D)/2 of the dense solver's, and
        far closer where it is far from D: the r of the low-rank part are Ritz values on its range,
        and the n − r others have the mean and the variance that D has beside that range, and the
        shape of D's distribution.
        """
        n = self.shape[0]
        core, inverse = self._factors
        if np.ndim(self.shift) == 0:
            found = eigvalsh(core)
            found = np.sort(found[np.argsort(np.abs(found))[::-1][:n]])
            return np.sort(np.concatenate([found, np.zeros(n - len(found))])) + self.shift
        low = np.min(self.shift)
        spread = self.shift - low
        Q = self.X @ inverse[: self.X.shape[1]] + self.V @ inverse[self.X.shape[1] :]
        middle = (Q.T * spread) @ Q
        found = eigvalsh(core + middle)
        left = n - len(found)
        if not left:
            return found + low
        inside = np.einsum("ij,ij->i", Q, Q)
        mean = (spread.sum() - middle.trace()) / left
        square = spread**2 @ (1 - 2 * inside) + np.sum(middle**2)
        deviation = np.sqrt(max(square / left - mean**2, 0.0))
        shape = np.quantile(spread, (np.arange(left) + 0.5) / left)
        shape -= shape.mean()
        size = shape.std()
        rest = mean + shape * (deviation / size if size else 0.0)
        return np.sort(np.concatenate([found, rest])) + low

    def truncated(self, rank: int) -> KernelEquivalent:
        """The same with only so many columns: leading eigenvectors, and the diagonal as it was.

        What it leaves out has the norm of the next eigenvalue of the low-rank part, or a little
        more, for the diagonal is kept.
        """
        core, inverse = self._factors
        values, Q = eigh(core)
        kept = np.argsort(-np.abs(values))[: whole("rank", rank, most=len(values))]
        B, p = inverse @ Q[:, kept], self.X.shape[1]
        vectors, A = self.X @ B[:p] + self.V @ B[p:], np.diag(values[kept])
        diagonal = self.shift + low_rank_diagonal(self.X, self.V, self.A, self.scale)
        X = vectors[:, :1]
        return KernelEquivalent(X, vectors, A, 0, diagonal - low_rank_diagonal(X, vectors, A, 0))

    def leading(self, k: int) -> tuple[FloatArray, FloatArray]:
        """The k largest eigenvalues, descending, and their eigenvectors (n, k).

        Where the shift is one number and the low-rank part has eigenvalues below 0, the k largest
        of that part's.
        """
        if np.ndim(self.shift):
            return self._by_products(whole("k", k, most=self.shape[0]))
        core, inverse = self._factors
        rank, p = len(core), self.X.shape[1]
        values, Q = eigh(core, subset_by_index=[rank - whole("k", k, most=rank), rank - 1])
        B = inverse @ Q[:, ::-1]
        return values[::-1] + self.shift, self.X @ B[:p] + self.V @ B[p:]

    def _by_products(self, k: int) -> tuple[FloatArray, FloatArray]:
        n = self.shape[0]
        if n < 4 * k + 40:
            values, vectors = eigh(self.to_dense(), subset_by_index=[n - k, n - 1])
        else:
            start = np.random.default_rng(0).standard_normal(n)
            values, vectors = eigsh(self, k, which="LA", v0=start)
        return values[::-1], vectors[:, ::-1]
