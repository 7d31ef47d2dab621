"""How far apart two kernels are: in norm, in eigenvectors, and how that falls with size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, orthogonal_procrustes
from scipy.sparse.linalg import eigsh
from scipy.stats import linregress

from .equivalents import KernelEquivalent
from .validation import finite_array, positive, positive_integer

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """y = prefactor · x^slope fitted on log axes; ``slope_error`` is one standard error."""

    slope: float
    slope_error: float
    prefactor: float

    def __call__(self, x: ArrayLike) -> FloatArray:
        return self.prefactor * np.asarray(x, dtype=np.float64) ** self.slope


def spectral_norm(symmetric: FloatArray) -> float:
    """Largest absolute eigenvalue of a symmetric (n, n) matrix, to 1e-9 relative."""
    n = len(symmetric)
    if n < 200:
        return float(np.abs(np.linalg.eigvalsh(symmetric)).max())
    # A fixed start keeps the last digits the same from run to run.
    start = np.random.default_rng(0).standard_normal(n)
    value = eigsh(symmetric, 1, which="LM", v0=start, tol=1e-9, return_eigenvectors=False)
    return float(abs(value[0]))


def relative_error(kernel: ArrayLike, equivalent: KernelEquivalent | ArrayLike) -> float:
    """‖K − K̃‖ / ‖K‖ in spectral norm.

    Parameters
    ----------
    kernel : (n, n) array
        The symmetric reference K.
    equivalent : KernelEquivalent or (n, n) array
        What is compared with it.

    Raises
    ------
    ValueError
        If the shapes differ or an entry is not finite.
    """
    kernel = finite_array("kernel", kernel, 2)
    if isinstance(equivalent, KernelEquivalent):
        equivalent = equivalent.to_dense()
    equivalent = finite_array("equivalent", equivalent, 2)
    if kernel.shape != equivalent.shape or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"kernel and equivalent must be square and of one shape, got {kernel.shape} and "
            f"{equivalent.shape}"
        )
    return spectral_norm(kernel - equivalent) / spectral_norm(kernel)


def leading_eigenpairs(kernel: ArrayLike, k: int) -> tuple[FloatArray, FloatArray]:
    """The k largest eigenvalues of a symmetric matrix, descending, and eigenvectors (n, k)."""
    kernel, k = finite_array("kernel", kernel, 2), positive_integer("k", k)
    n = len(kernel)
    if k > n:
        raise ValueError(f"k must be at most n={n}, got {k}")
    values, vectors = eigh(kernel, subset_by_index=[n - k, n - 1])
    return values[::-1], vectors[:, ::-1]


def align(vectors: ArrayLike, reference: ArrayLike) -> FloatArray:
    """``vectors`` (n, k) rotated within their own span to be as close as can be to ``reference``.

    Eigenvectors of nearby eigenvalues are determined only together, as a plane, and a single one
    only up to its sign; orthogonal Procrustes takes care of both.
    """
    vectors, reference = (
        finite_array("vectors", vectors, 2),
        finite_array("reference", reference, 2),
    )
    if vectors.shape != reference.shape:
        raise ValueError(
            f"vectors and reference must have one shape, got {vectors.shape} and {reference.shape}"
        )
    rotation, _ = orthogonal_procrustes(vectors, reference)
    return vectors @ rotation


def power_law(x: ArrayLike, y: ArrayLike) -> PowerLaw:
    """Least-squares line through (log x, log y); x and y positive, three points or more.

    Raises
    ------
    ValueError
        If the lengths differ, there are fewer than three points, or a value is not positive.
    """
    x, y = finite_array("x", x, 1), finite_array("y", y, 1)
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"x and y must have one length of 3 or more, got {len(x)} and {len(y)}")
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError("x and y must be positive to be fitted on log axes")
    fit = linregress(np.log(x), np.log(y))
    return PowerLaw(float(fit.slope), float(fit.stderr), float(np.exp(fit.intercept)))


def required_width(widths: ArrayLike, errors: ArrayLike, target: float) -> float:
    """The width at which the error first falls to ``target``, between widths on log axes.

    Parameters
    ----------
    widths : (k,) increasing
    errors : (k,) array
        Positive; the error at each width.
    target : float

    Raises
    ------
    ValueError
        If the widths do not increase, a value is not positive, or the error does not cross the
        target between the first width and the last: nothing is extrapolated.
    """
    widths, errors = finite_array("widths", widths, 1), finite_array("errors", errors, 1)
    target = positive("target", target)
    if len(widths) != len(errors) or (np.diff(widths) <= 0).any():
        raise ValueError("widths must increase and be as many as errors")
    if (widths <= 0).any() or (errors <= 0).any():
        raise ValueError("widths and errors must be positive")
    below = int(np.argmax(errors <= target))
    if errors[0] <= target or errors[below] > target:
        raise ValueError(
            f"errors must cross the target {target:.3g} between the first width and the last; "
            f"they go from {errors[0]:.3g} to {errors[-1]:.3g}"
        )
    x, y = np.log(widths[below - 1 : below + 1]), np.log(errors[below - 1 : below + 1])
    return float(np.exp(x[0] + (np.log(target) - y[0]) * (x[1] - x[0]) / (y[1] - y[0])))
