"""Kernel ridge regression where one n × n matrix is all that fits, or more than fits.

(K + δI)A = Y by conjugate gradients, all columns of Y and all ridges at once. The kernel is only
multiplied with, as an array, a file, or a dask array that multiplies where it lies. What makes the
steps few is Nyström's approximation from some of the rows, inverted as a preconditioner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from tqdm import tqdm

from .._checks import array, number, positive, whole
from .duals import FloatArray

# Entries of a tile: what is read of a kernel at a time, in float64.
_TILE = 2**20
_ROUNDING = 1e-12
# Steps in the kernel's own precision may lose two digits before the residual is taken anew.
_DIGITS = 1e-2


@frozen(eq=False)
class RidgeSolution:
    """Coefficients A of kernel ridge regression, f(x) = K(x, X) A, for each ridge.

    Attributes
    ----------
    coefficients : (r, n, c) array
    residual : (r,) array
        ‖Y − (K + δI)A‖ / ‖Y‖ at the end, of the worst column.
    steps : int
        Products with the kernel that it took.

    Examples
    --------
    >>> solution = nh.theory.kernel_ridge(np.eye(3), np.ones((3, 1)), [0.0, 1 / 3])
    >>> solution.coefficients.shape, solution.coefficients[:, 0, 0].round(4).tolist()
    ((2, 3, 1), [1.0, 0.5])
    """

    coefficients: FloatArray
    residual: FloatArray
    steps: int


def kernel_ridge(
    K: Any,
    Y: ArrayLike,
    ridges: Sequence[float],
    *,
    rank: int = 1000,
    tolerance: float = 1e-8,
    most: int = 300,
    seed: int = 0,
    progress: bool = False,
) -> RidgeSolution:
    """Solve (K + δI)A = Y, δ = ridge · tr K, for several ridges at once.

    Parameters
    ----------
    K : (n, n) array or dask array
        Symmetric and positive semi-definite; an array of float32 or in a file is read by tiles.
    Y : (n, c) array
    ridges : sequence of float
        Not negative; a ridge is relative to the trace.
    rank : int
        Rows of K for the preconditioner, drawn with ``seed``; n at most. It takes rank · n numbers.
    tolerance : float
        Largest residual, in float64 and relative to the column of Y, that ends the steps.
    most : int
        Steps after which it is given up.
    progress : bool
        Whether to show the steps.

    Returns
    -------
    RidgeSolution

    Raises
    ------
    ValueError
        If K is not square or Y has another number of rows; if a ridge is negative, or so small
        that the residual does not fall to the tolerance, as of 0 with a singular kernel.

    Notes
    -----
    With C some rows of K and S the square among them, K ≈ CᵀS⁻¹C, and by Woodbury's identity
    (CᵀS⁻¹C + δI)⁻¹ = (I − Cᵀ(δS + CCᵀ)⁻¹C)/δ (Rudi, Carratino and Rosasco, 2017; Frangella, Tropp
    and Udell, 2021).

    Examples
    --------
    >>> K, Y = np.diag([1.0, 2.0, 3.0]), np.ones((3, 1))
    >>> nh.theory.kernel_ridge(K, Y, [0.5]).coefficients.round(4).ravel().tolist()
    [0.25, 0.2, 0.1667]
    """
    if getattr(K, "ndim", 0) != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K must be a square matrix, got shape {getattr(K, 'shape', None)}")
    Y = array("Y", Y, 2)
    if len(Y) != len(K):
        raise ValueError(f"Y must have {len(K)} rows, as many as K, got shape {Y.shape}")
    if isinstance(K, np.ndarray) and K.dtype not in (np.float32, np.float64):
        K = array("K", K, 2)
    trace, c = float(np.asarray(np.diagonal(K), np.float64).sum()), Y.shape[1]
    shares = [number("ridges", ridge, "numbers of at least 0") for ridge in ridges]
    if not shares or min(shares) < 0 or not 0 < trace < np.inf:
        raise ValueError(f"ridges must be numbers of at least 0, and K's trace positive: {ridges}")
    solve = _preconditioner(K, trace * np.array(shares), whole("rank", rank), seed)
    B, shift = np.tile(Y, len(shares)), trace * np.repeat(shares, c)
    quiet = {} if progress else {"disable": True}
    bar = tqdm(range(1, whole("most", most) + 1), leave=False, **quiet)
    A, residual = _conjugate_gradients(K, B, shift, solve, positive("tolerance", tolerance), bar)
    if not residual.max() <= tolerance:
        worst = shares[int(residual.argmax()) // c]
        raise ValueError(
            f"ridges must be larger: with {worst:g} the residual is {residual.max():.2g} after "
            f"{most} steps; the kernel is singular, or nearly"
        )
    by_ridge = A.reshape(len(Y), -1, c).transpose(1, 0, 2)
    return RidgeSolution(by_ridge, residual.reshape(-1, c).max(axis=1), bar.n)


def _conjugate_gradients(
    K: Any, B: FloatArray, shift: FloatArray, solve: Any, tolerance: float, steps: tqdm
) -> tuple[FloatArray, FloatArray]:
    """Each column of (K + shift)A = B, and its relative residual; ``steps`` counts them."""
    size = np.maximum(np.linalg.norm(B, axis=0), np.finfo(float).tiny)
    R, A, P, Z = B.copy(), np.zeros_like(B), np.zeros_like(B), solve(B)
    rz, last, residual = np.einsum("ij,ij->j", R, Z), np.ones(len(shift)), np.ones(len(shift))
    trusted = 1.0
    for step in steps:
        P *= rz / last
        P += Z
        Q = multiply(K, P, exact=False) + shift * P
        curvature = np.einsum("ij,ij->j", P, Q)
        alpha = np.divide(rz, curvature, out=np.zeros_like(rz), where=curvature > 0)
        A += alpha * P
        R -= alpha * Q
        residual = np.linalg.norm(R, axis=0) / size
        if residual.max() <= max(tolerance, _DIGITS * trusted):
            R = B - multiply(K, A) - shift * A
            residual = np.linalg.norm(R, axis=0) / size
            if (trusted := residual.max()) <= tolerance:
                steps.n = step
                break
        Z = solve(R)
        last, rz = np.where(rz > 0, rz, 1), np.einsum("ij,ij->j", R, Z)
    steps.close()
    return A, residual


def multiply(K: Any, V: FloatArray, exact: bool = True) -> FloatArray:
    """K @ V: of an array in float64, by tiles of rows; of a dask array where it lies.

    Unless ``exact``, an array of float32 is multiplied in float32, five times as fast.

    Returns
    -------
    (n, k) array

    Examples
    --------
    >>> from ntklc_helpers.theory.ridge import multiply
    >>> multiply(np.eye(2, dtype=np.float32), np.ones((2, 1)))
    array([[1.],
           [1.]])
    """
    if not isinstance(K, np.ndarray):
        return np.asarray(K @ V)
    if K.dtype == np.float64 or not exact:
        return (K @ V.astype(K.dtype)).astype(np.float64)
    rows, right = max(1, _TILE // K.shape[1]), torch.from_numpy(V)
    product = np.empty((len(K), V.shape[1]))
    for start in range(0, len(K), rows):
        tile = torch.from_numpy(K[start : start + rows]).double()
        torch.matmul(tile, right, out=torch.from_numpy(product[start : start + rows]))
    return product


def _preconditioner(K: Any, shifts: FloatArray, rank: int, seed: int) -> Any:
    """v ↦ (I − Cᵀ(δS + CCᵀ)⁻¹C)v/δ, for columns in as many groups as there are shifts."""
    n = len(K)
    chosen = np.sort(np.random.default_rng(seed).choice(n, min(rank, n), replace=False))
    C = np.asarray(K[chosen], np.float64)
    S, CC = C[:, chosen], C @ C.T
    least = _ROUNDING * float(CC.diagonal().sum())
    factors = []
    for shift in shifts:
        inner = shift * S + CC
        inner[np.diag_indices_from(inner)] += least
        try:
            factors.append(cho_factor(inner, overwrite_a=True))
        except (LinAlgError, ValueError) as error:
            raise ValueError("K must be positive semi-definite, and finite") from error

    def solve(R: FloatArray) -> FloatArray:
        inside, c = C @ R, R.shape[1] // len(factors)
        for i, factor in enumerate(factors):
            inside[:, i * c : (i + 1) * c] = cho_solve(factor, inside[:, i * c : (i + 1) * c])
        return R - C.T @ inside

    return solve
