"""How far the features of a trained network are from what the theory assumes of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh

from .._checks import FloatArray, class_labels, samples
from ..data.mixture import class_means, estimate_statistics
from .activations import AnyActivation
from .coefficients import propagate
from .equivalents import ck_equivalent
from .infinite import limit_kernels
from .metrics import leading_eigenpairs, principal_cosines, relative_error

CLASSES, ONE_CLASS = "classes", "one class"
"""The two readings: with the labels, and with all rows in one class, as staircases are matched."""


@frozen(eq=False)
class FeatureKernels:
    """The exact conjugate kernel of some data, its equivalent, and the statistics behind it.

    ``tau0``, ``t``, ``T`` and ``psi`` are those of ``estimate_statistics``; ``between`` is of
    order 1/p under the theory's assumptions; ``covariance`` (p,) are the eigenvalues of C°, the
    average covariance within classes, of mean τ₀²; ``exact`` and ``equivalent`` (n,) those of the
    kernels, all ascending; ``error`` is the equivalent's, relative, in spectral norm; ``cosines``
    are those between the planes of as many leading eigenvectors as there are labels less one.
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
    X: ArrayLike, labels: ArrayLike, activations: Sequence[AnyActivation | str]
) -> dict[str, FeatureKernels]:
    """Compare the conjugate kernel of rows X (n, p), ``normalize``-d, with its equivalent.

    Returns the readings ``CLASSES``, with the labels 0 … K − 1, and ``ONE_CLASS``. Raises
    ValueError if there are not two classes or more, of two rows or more.

    >>> from ntklc_helpers.theory.feature_kernels import ONE_CLASS, feature_kernels
    >>> feature_kernels(np.eye(6), [0, 0, 0, 1, 1, 1], ["relu"])[ONE_CLASS].exact.shape
    (6,)
    """
    X = samples("X", X)
    labels = class_labels("labels", labels, len(X))
    if not (directions := int(labels.max())):
        raise ValueError("labels must be of two classes or more, got one")
    readings = {CLASSES: labels, ONE_CLASS: np.zeros_like(labels)}
    return {name: _reading(X, a, activations, directions) for name, a in readings.items()}


def _reading(
    X: FloatArray, labels: NDArray[np.int64], activations: Sequence[Any], directions: int
) -> FeatureKernels:
    stats = estimate_statistics(X, labels)
    equivalent = ck_equivalent(X, stats, propagate(activations, stats.tau0)[-1])
    K, _ = limit_kernels(X, activations, tau0=stats.tau0, ntk=False)
    plane = leading_eigenpairs(K, directions)[1]
    noise, p = X - stats.J @ class_means(X, stats.J), X.shape[1]
    return FeatureKernels(
        tau0=stats.tau0,
        t=stats.t,
        T=stats.T,
        psi=stats.psi,
        between=between_classes(X, labels),
        covariance=eigvalsh(noise.T @ noise * (p / (len(X) - len(stats.t)))),
        exact=eigvalsh(K),
        equivalent=equivalent.eigenvalues(),
        error=relative_error(K, equivalent),
        cosines=principal_cosines(plane, equivalent.leading(directions)[1]),
    )


def between_classes(X: FloatArray, labels: NDArray[np.int64]) -> float:
    """Share of the mean squared norm of centred rows X, (n, p), that their class means make up."""
    means = class_means(X, np.eye(labels.max() + 1)[labels])[labels]
    return float(np.sum(means**2) / np.sum(X**2))
