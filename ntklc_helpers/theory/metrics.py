"""How far apart two kernels are: in norm, in eigenvectors, and how that falls with size."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, orthogonal_procrustes, svdvals
from scipy.sparse.linalg import ArpackError, eigsh
from scipy.stats import linregress

from .._checks import array, same_length, samples, whole
from .operators import KernelEquivalent

FloatArray = NDArray[np.float64]


def spectral_norm(symmetric: ArrayLike) -> float:
    """Largest absolute eigenvalue of a matrix as for :func:`relative_error`, to 1e-9 relative.

    Examples
    --------
    >>> nh.theory.spectral_norm(np.diag([1.0, -3.0]))
    3.0
    """
    matrix = _square("symmetric", symmetric)
    # A fixed start keeps the last digits the same from run to run.
    start = np.random.default_rng(0).standard_normal(len(matrix))
    if len(matrix) >= 200:
        try:
            value = eigsh(matrix, 1, which="LM", v0=start, tol=1e-9, return_eigenvectors=False)
            return float(abs(value[0]))
        except ArpackError:
            pass  # It finds nothing to start from in a matrix of zeros.
    return float(np.abs(np.linalg.eigvalsh(matrix)).max())


def relative_error(kernel: ArrayLike, equivalent: KernelEquivalent | ArrayLike) -> float:
    """‖K − K̃‖ / ‖K‖ in spectral norm, of symmetric (n, n) matrices.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes differ, an entry is not finite, or the kernel is zero.

    Examples
    --------
    >>> nh.relative_error(2 * np.eye(3), np.eye(3))
    0.5
    """
    kernel = _square("kernel", kernel)
    other: Any = equivalent.to_dense() if isinstance(equivalent, KernelEquivalent) else equivalent
    other = _square("equivalent", other)
    same_length("equivalent", other, "the rows of kernel", len(kernel))
    if not kernel.any():
        raise ValueError("kernel must not be zero: an error relative to it does not exist")
    return spectral_norm(kernel - other) / spectral_norm(kernel)


def leading_eigenpairs(kernel: ArrayLike, k: int) -> tuple[FloatArray, FloatArray]:
    """The k largest eigenvalues (k,), descending, and eigenvectors (n, k) of a symmetric matrix.

    Errors as for :func:`relative_error`, and if k is not from 1 to n.

    Examples
    --------
    >>> nh.leading_eigenpairs(np.diag([1.0, 3.0, 2.0]), 2)[0].tolist()
    [3.0, 2.0]
    """
    kernel = _square("kernel", kernel)
    n = len(kernel)
    values, vectors = eigh(kernel, subset_by_index=[n - whole("k", k, most=n), n - 1])
    return values[::-1], vectors[:, ::-1]


def align(vectors: ArrayLike, reference: ArrayLike) -> FloatArray:
    """``vectors`` (n, k) rotated within their own span to be as close as can be to ``reference``.

    Eigenvectors of nearby eigenvalues are determined only together, as a plane, and a single one
    only up to its sign; orthogonal Procrustes takes care of both. Errors as for :func:`power_law`.

    Examples
    --------
    >>> nh.theory.align(-np.eye(3)[:, :1], np.eye(3)[:, :1]).ravel().tolist()
    [1.0, 0.0, 0.0]
    """
    vectors, reference = _planes(vectors, reference)
    rotation, _ = orthogonal_procrustes(vectors, reference)
    return vectors @ rotation


def principal_cosines(vectors: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Cosines (k,) between the planes that two sets of orthonormal vectors (n, k) span, descending.

    The least is 1 only if the planes are one; vectors within a plane are turned as :func:`align`
    turns them.

    Examples
    --------
    >>> nh.theory.principal_cosines(np.eye(3)[:, :2], np.eye(3)[:, 1:]).tolist()
    [1.0, 0.0]
    """
    vectors, reference = _planes(vectors, reference)
    return svdvals(vectors.T @ reference)


@frozen
class PowerLaw:
    """y = prefactor · x^slope fitted on log axes; ``slope_error`` is one standard error."""

    slope: float
    slope_error: float
    prefactor: float

    def __call__(self, x: ArrayLike) -> FloatArray:
        return self.prefactor * array("x", x, np.ndim(x)) ** self.slope


def power_law(x: ArrayLike, y: ArrayLike) -> PowerLaw:
    """Least-squares line through (log x, log y).

    Returns
    -------
    PowerLaw

    Raises
    ------
    ValueError
        Unless x and y are as many, three or more, and positive.

    Examples
    --------
    >>> round(nh.power_law([1, 2, 4], [8, 4, 2]).slope, 9)
    -1.0
    """
    x, y = array("x", x, 1), array("y", y, 1)
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"x and y must have one length of 3 or more, got {len(x)} and {len(y)}")
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError("x and y must be positive to be fitted on log axes")
    fit = linregress(np.log(x), np.log(y))
    return PowerLaw(float(fit.slope), float(fit.stderr), float(np.exp(fit.intercept)))


def _square(argument: str, values: Any) -> FloatArray:
    found = array(argument, values, 2)
    if not len(found) or found.shape[0] != found.shape[1]:
        raise ValueError(f"{argument} must be a square matrix, got shape {found.shape}")
    return found


def _planes(vectors: Any, reference: Any) -> tuple[FloatArray, FloatArray]:
    vectors, reference = samples("vectors", vectors), samples("reference", reference)
    if vectors.shape != reference.shape:
        raise ValueError(
            f"vectors and reference must have one shape, got {vectors.shape} and {reference.shape}"
        )
    return vectors, reference
