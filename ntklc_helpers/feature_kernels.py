"""How far the features of a trained network are from what the theory assumes of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh, svdvals

from .activations import AnyActivation
from .comparison import leading_eigenpairs, relative_error
from .equivalents import ck_equivalent, propagate
from .gmm import estimate_statistics
from .kernels import limit_kernels
from .validation import class_labels, positive_integer, sample_matrix

FloatArray = NDArray[np.float64]


CLASSES, ONE_CLASS = "classes", "one class"
"""The two readings: with the labels, and with all rows in one class, as staircases are matched."""


@dataclass(frozen=True, eq=False)
class FeatureKernels:
    """The exact conjugate kernel of some data, its equivalent, and the statistics behind it.

    Attributes
    ----------
    tau0 : float
        τ₀, estimated within the classes of the reading.
    t : (K,) array
    T : (K, K) array
    psi : (n,) array
        Estimated as :func:`~ntklc_helpers.gmm.estimate_statistics` does; rows in the order given.
    between : float
        Share of the rows' mean squared norm that the class means make up; of order 1/p under the
        theory's assumptions.
    covariance : (p,) array
        Eigenvalues of C°, the average covariance within classes, ascending; their mean is τ₀².
    exact, equivalent : (n,) arrays
        Eigenvalues, ascending.
    error : float
        Of the equivalent: relative, in spectral norm.
    cosines : array
        Principal cosines between the planes of the leading eigenvectors of both, one fewer than
        there are labels, descending.
    """

    tau0: float
    t: FloatArray
    T: FloatArray
    psi: FloatArray
    between: float
    covariance: FloatArray
    exact: FloatArray
    equivalent: FloatArray
    error: float
    cosines: FloatArray


def feature_kernels(
    X: ArrayLike, labels: ArrayLike, activations: Sequence[AnyActivation]
) -> dict[str, FeatureKernels]:
    """Compare the conjugate kernel of rows X, and a network's activations, with its equivalent.

    Parameters
    ----------
    X : (n, p) array
        At the scale of the theory, as ``normalize`` brings them.
    labels : (n,) whole numbers 0 … K − 1
        Two classes or more, every one with two rows or more.
    activations : sequence of Activation
        σ₁ … σ_L, without jumps.

    Returns
    -------
    dict
        The readings ``CLASSES`` and ``ONE_CLASS``.

    Raises
    ------
    ValueError
        If X, labels or activations are not as stated.
    """
    X = sample_matrix("X", X)
    labels = class_labels("labels", labels, len(X))
    directions = int(labels.max())
    if not directions:
        raise ValueError("labels must be of two classes or more, got one")
    return {
        CLASSES: _reading(X, labels, activations, directions),
        ONE_CLASS: _reading(X, np.zeros_like(labels), activations, directions),
    }


def _reading(
    X: FloatArray,
    labels: NDArray[np.int64],
    activations: Sequence[AnyActivation],
    directions: int,
) -> FeatureKernels:
    stats = estimate_statistics(X, labels)
    equivalent = ck_equivalent(X, stats, propagate(activations, stats.tau0)[-1])
    K, _ = limit_kernels(X, activations, tau0=stats.tau0, ntk=False)
    planes = leading_eigenpairs(K, directions)[1], equivalent.leading(directions)[1]
    means = _class_means(X, labels)
    noise = X - means[labels]
    p = X.shape[1]
    within = eigvalsh(noise.T @ noise * (p / (len(X) - len(means))))
    return FeatureKernels(
        tau0=stats.tau0,
        t=stats.t,
        T=stats.T,
        psi=stats.psi,
        between=between_classes(X, labels),
        covariance=within,
        exact=eigvalsh(K),
        equivalent=equivalent.eigenvalues(),
        error=relative_error(K, equivalent),
        cosines=svdvals(planes[0].T @ planes[1]),
    )


def between_classes(X: FloatArray, labels: NDArray[np.int64]) -> float:
    """Share of the mean squared norm of centred rows X, (n, p), that their class means make up."""
    means = _class_means(X, labels)
    return float(np.sum(means[labels] ** 2) / np.sum(X**2))


def _class_means(X: FloatArray, labels: NDArray[np.int64]) -> FloatArray:
    return np.array([X[labels == a].mean(axis=0) for a in range(labels.max() + 1)])


def balanced_rows(labels: ArrayLike, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions of n rows drawn at random, ⌊n/K⌋ of each class, in the order of the classes.

    Raises
    ------
    ValueError
        If labels are not 0 … K − 1, or a class has too few rows or none is asked for.
    """
    labels = class_labels("labels", labels, len(np.asarray(labels)))
    sizes = np.bincount(labels)
    each = positive_integer("n", n) // len(sizes)
    if not 0 < each <= sizes.min():
        raise ValueError(
            f"n must be from {len(sizes)} to {len(sizes) * sizes.min()}, as many rows of each of "
            f"{len(sizes)} classes, got {n}"
        )
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(np.flatnonzero(labels == a), each, replace=False) for a in range(len(sizes))
    ]
    return np.concatenate([np.sort(rows) for rows in drawn])
