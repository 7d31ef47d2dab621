"""What m levels cannot do: proved bounds on the shares of one staircase.

A function σ of ξ ~ N(0, 1) with m levels, mean 0 and unit variance cannot come nearer to a function
f than an m-level quantiser of f. With a weight W > 0,
``E[Wσ²] − 2 E[Wσf] + E[Wf²] = E[W(σ − f)²] ≥ D``, D the least weighted squared error of such a
quantiser; multiplying f by the best number gives ``E[Wσf]² ≤ (E[Wf²] − D) E[Wσ²]``.
Every number here errs on the safe side.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_banded
from scipy.special import ndtri

from .._checks import FloatArray, array, whole
from ..theory.gaussian import cell_probabilities
from .solve import Tolerance

MOST_LEVELS = 32
ANGLES = np.linspace(0.0, np.pi / 2, 33)
_FINE = 40_000
_BINS = 1000
# λ of the gain's bound: a linear share of 0.4 asks for the first, of 0.99 for the last.
_WEIGHTS = 1 + np.geomspace(0.5, 60.0, 20)


def linear_share_bound(m: int) -> float:
    """The most a function of m levels can hold of its variance in the linear part: R(m).

    1 − D(m), D(m) the distortion of the optimal m-level quantiser of N(0, 1) (Lloyd, Max): 2/π,
    0.810, 0.883, …, 0.9905 at 16. Raises ValueError unless m is a whole number of at least 1.

    Examples
    --------
    >>> round(nh.linear_share_bound(2) * np.pi, 12)
    2.0
    """
    return _linear_share_bound(whole("m", m))


@lru_cache(maxsize=1024)
def _linear_share_bound(m: int) -> float:
    """By Newton's method on the thresholds, to 1e-13; the density is log-concave, so there is one
    fixed point."""
    x = np.sqrt(3.0) * ndtri(np.arange(1, m) / m)
    for _ in range(50):
        density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        mass = cell_probabilities(x)
        centre = -np.diff(density, prepend=0.0, append=0.0) / mass
        # x_j is midway between the centroids of its two cells.
        residual = x - (centre[1:] + centre[:-1]) / 2
        left = density * (x - centre[:-1]) / mass[:-1]
        right = density * (centre[1:] - x) / mass[1:]
        bands = np.stack([-left / 2, 1 - (left + right) / 2, -right / 2])
        step = solve_banded((1, 1), bands, residual)
        x = x - step
        if np.max(np.abs(step), initial=0.0) < 1e-13:
            break
    return float(mass @ centre**2)


@lru_cache(maxsize=1024)
def projection_bound(angle: float, weight: float = np.inf, bins: int = _BINS) -> FloatArray:
    """(32,) upper bounds on E[Wσf]²/E[Wσ²] for σ of 1 … 32 levels and mean 0.

    ``W = ξ² − 1 + λ``, λ the ``weight``, and ``Wf = cos θ ξ + sin θ (ξ² − 1)/√2``, θ the
    ``angle``; W = 1 for λ = ∞. In terms of the shares of σ (u = ±√r₁, w = ±√r₂, g):
    ``(u cos θ + w sin θ)² ≤ bound · (2g + λ)``, for λ = ∞ without the last factor.
    """
    xi, mass = _cells()
    wf = np.cos(angle) * xi + np.sin(angle) * (xi**2 - 1) / np.sqrt(2)
    w = xi**2 - 1 + weight if np.isfinite(weight) else np.ones_like(xi)
    f, mass = wf / w, mass * w
    power = float(np.sum(mass * f**2))
    zeroth, first, second = rows = binned(f, mass, bins)
    lost = max(float(np.sum(second - first**2 / zeroth)), 0.0)
    coarse, _ = optimal_partitions(rows, MOST_LEVELS)
    # ‖f − σ‖ ≥ ‖f̄ − σ‖ − ‖f − f̄‖ for every σ, f̄ the bins' means.
    error = np.maximum(np.sqrt(np.maximum(coarse, 0)) - np.sqrt(lost), 0) ** 2
    return power - error + Tolerance.SAFETY * power


@lru_cache(maxsize=1)
def _cells() -> tuple[FloatArray, FloatArray]:
    """Nodes (cells, 3) of a fine Gauss–Legendre rule for ξ, and their masses."""
    edges = np.linspace(-9.0, 9.0, _FINE + 1)
    node, weight = np.polynomial.legendre.leggauss(3)
    half = (edges[1] - edges[0]) / 2
    xi = (edges[:-1, None] + half) + half * node
    return xi, half * weight * np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi)


def binned(value: FloatArray, mass: FloatArray, bins: int = _BINS) -> FloatArray:
    """(3, bins or fewer): mass, Σ mass · value and Σ mass · value² of bins of consecutive values.

    ``value`` and ``mass`` (points, k): the k of a point stay together. Bins have equal shares of
    the cube root of density, which leaves the least variance within them.
    """
    order = np.argsort(value.mean(axis=1), kind="stable")
    value, mass = value[order], mass[order]
    fine = np.stack([mass.sum(1), (mass * value).sum(1), (mass * value**2).sum(1)])
    width = np.diff(value.mean(axis=1), prepend=value[0].mean())
    total = np.cumsum(np.cbrt(fine[0] * width**2))
    bin_of = np.minimum((total / total[-1] * bins).astype(int), bins - 1)
    rows = np.array([np.bincount(bin_of, row, bins) for row in fine])
    return np.asarray(rows[:, rows[0] > 0], np.float64)


def optimal_partitions(rows: FloatArray, most: int) -> tuple[FloatArray, FloatArray]:
    """Least squared error of 1 … most cells of bins, and the means of the ``most`` best cells.

    By dynamic programming, ``rows`` those of :func:`binned`. The error is that of bins taken for
    points at their means. Of partitions that are equal to rounding the first is taken.
    """
    zeroth, first, _ = rows
    m, f, s = (np.concatenate([[0.0], np.cumsum(a)]) for a in (zeroth, first, first**2 / zeroth))
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = s[None, :] - s[:, None] - (f[None, :] - f[:, None]) ** 2 / (m[None, :] - m[:, None])
    # Row i, column j: points i … j − 1 in one cell.
    cost[np.tril_indices(len(m))] = np.inf
    best = [cost[0]]
    for _ in range(1, most):
        best.append(np.min(best[-1][:, None] + cost, axis=0))
    ends = [len(m) - 1]
    for before in best[-2::-1]:
        total = before + cost[:, ends[0]]
        ends.insert(0, int(np.argmax(total <= np.min(total) + Tolerance.FALL * s[-1])))
    means = np.diff(f[ends], prepend=0.0) / np.diff(m[ends], prepend=0.0)
    return np.array([row[-1] for row in best]), means


def quadratic_share_bound(m: int) -> float:
    """No function of m ≤ 32 levels holds more than this of its variance in its quadratic part."""
    return float(projection_bound(ANGLES[-1])[m - 1])


def quadratic_frontier(linear_share: ArrayLike, m: int) -> FloatArray:
    """Upper bound on the quadratic share of an m-level function with at least this linear share.

    The intersection of the half-planes (√r₁ cos θ + √r₂ sin θ)² ≤ :func:`projection_bound` over a
    grid of θ. Raises ValueError unless ``linear_share`` is numbers in one dimension, in [0, 1], and
    m is from 1 to 32.

    Returns
    -------
    array
        As many numbers as ``linear_share`` has, −inf where not even that can be had.

    Examples
    --------
    >>> print(np.round(nh.matching.quadratic_frontier([0.0, 0.5, 0.9], 4), 3))
    [0.895 0.4    -inf]
    """
    r1, m = array("linear_share", linear_share, 1), whole("m", m, 1, MOST_LEVELS)
    if np.any((r1 < 0) | (r1 > 1)):
        raise ValueError(f"linear_share must be in [0, 1], got {r1.min()} to {r1.max()}")
    w = np.full(r1.shape, np.inf)
    for theta in ANGLES[1:]:
        most = np.sqrt(projection_bound(theta)[m - 1])
        w = np.minimum(w, (most - np.sqrt(r1) * np.cos(theta)) / np.sin(theta))
    out = np.where(w >= 0, np.maximum(w, 0) ** 2, -np.inf)
    return np.where(r1 > linear_share_bound(m) + Tolerance.SAFETY, -np.inf, out)


def least_gain(linear_share: FloatArray, m: int) -> FloatArray:
    """Lower bound on the norm gain g of an m-level function with at least this linear share.

    ``u² ≤ bound · (2g + λ)`` at θ = 0 for every λ > 1, so ``g ≥ ½(r₁/bound − λ)``; the best of a
    list of λ. Without a limit on levels the extremal functions are σ ∝ ξ/(ξ² − 1 + λ), which tanh
    comes close to.
    """
    lines = [linear_share / projection_bound(0.0, weight)[m - 1] - weight for weight in _WEIGHTS]
    return np.maximum.reduce(lines) / 2
