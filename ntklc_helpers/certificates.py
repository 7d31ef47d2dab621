"""What m levels cannot do: proved bounds on the shares of a staircase and of a network of them.

A function σ of ξ ~ N(0, 1) with m levels and unit variance has c(θ) = E[σ h_θ] at most
√(1 − D_m(θ)) for h_θ = cos θ ξ + sin θ (ξ² − 1)/√2, where D_m(θ) is the least squared error of an
m-level quantiser of the variable h_θ. Every number here errs on the safe side.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .quantizers import linear_share_bound

FloatArray = NDArray[np.float64]

_ANGLES = np.linspace(0.0, np.pi / 2, 33)
_MOST_LEVELS = 32
_FINE = 40_000
_BINS = 1000
_GRID = 1500
# Far above rounding in the dynamic programme, far below what it decides.
_SAFETY = 1e-9


@dataclass(frozen=True)
class Certificate:
    """A proof that a demand cannot be met, in numbers and words.

    Attributes
    ----------
    kind : str
        "linear": the product of the linear shares. "quadratic": the quadratic share of one layer.
        "joint": α₁ and α₃ together.
    demand, bound : float
        The original's number, and the most that activations with these many levels can reach.
    levels_needed : int or None
        Fewest levels per layer that this bound allows; None if more than 32 (joint, quadratic) or
        1024 (linear).
    text : str
    """

    kind: str
    demand: float
    bound: float
    levels_needed: int | None
    text: str


@lru_cache(maxsize=_ANGLES.size)
def _distortions(angle: int) -> FloatArray:
    """Lower bounds on D_m(θ) for m = 1 … 32 at one of the grid's angles."""
    edges = np.linspace(-9.0, 9.0, _FINE + 1)
    node, weight = np.polynomial.legendre.leggauss(3)
    half = (edges[1] - edges[0]) / 2
    xi = (edges[:-1, None] + half) + half * node
    mass = half * weight * np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi)
    theta = _ANGLES[angle]
    h = np.cos(theta) * xi + np.sin(theta) * (xi**2 - 1) / np.sqrt(2)
    order = np.argsort(h.mean(axis=1), kind="stable")
    h, mass = h[order], mass[order]
    fine = np.stack([mass.sum(1), (mass * h).sum(1), (mass * h**2).sum(1)])
    # Bins of equal share of the cube root of density: the least variance within them.
    width = np.diff(h.mean(axis=1), prepend=h[0].mean())
    total = np.cumsum(np.cbrt(fine[0] * width**2))
    bin_of = np.minimum((total / total[-1] * _BINS).astype(int), _BINS - 1)
    zeroth, first, second = (np.bincount(bin_of, row, _BINS) for row in fine)
    keep = zeroth > 0
    zeroth, first, second = zeroth[keep], first[keep], second[keep]
    between = first**2 / zeroth
    lost = max(float(np.sum(second - between)), 0.0)
    coarse = _optimal_partitions(zeroth, first, between, _MOST_LEVELS)
    # ‖h − σ‖ ≥ ‖h̄ − σ‖ − ‖h − h̄‖ for every σ, h̄ the bins' means.
    return np.maximum(np.sqrt(np.maximum(coarse, 0)) - np.sqrt(lost), 0) ** 2


def _optimal_partitions(
    mass: FloatArray, first: FloatArray, square: FloatArray, most: int
) -> FloatArray:
    """Least squared error of 1 … most cells of consecutive points, by dynamic programming."""
    m, f, s = (np.concatenate([[0.0], np.cumsum(a)]) for a in (mass, first, square))
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = s[None, :] - s[:, None] - (f[None, :] - f[:, None]) ** 2 / (m[None, :] - m[:, None])
    # Row i, column j: points i … j − 1 in one cell.
    cost[np.tril_indices(len(m))] = np.inf
    best = cost[0].copy()
    out = [best[-1]]
    for _ in range(1, most):
        best = np.min(best[:, None] + cost, axis=0)
        out.append(best[-1])
    return np.array(out)


def quadratic_share_bound(m: int) -> float:
    """No function of m ≤ 32 levels holds more than this of its variance in its quadratic part."""
    return float(1 - _distortions(len(_ANGLES) - 1)[m - 1] + _SAFETY)


def quadratic_frontier(linear_share: FloatArray, m: int) -> FloatArray:
    """Upper bound on the quadratic share of an m-level function with at least this linear share.

    ``linear_share`` any shape, in [0, 1]; −inf where not even the linear share can be had. The
    intersection of the half-planes √r₁ cos θ + √r₂ sin θ ≤ √(1 − D_m(θ)) over a grid of θ.
    """
    u = np.sqrt(np.asarray(linear_share, dtype=np.float64))
    w = np.full(u.shape, np.inf)
    for angle, theta in enumerate(_ANGLES[1:], start=1):
        reach = np.sqrt(1 - _distortions(angle)[m - 1] + _SAFETY)
        w = np.minimum(w, (reach - u * np.cos(theta)) / np.sin(theta))
    out = np.where(w >= 0, np.maximum(w, 0) ** 2, -np.inf)
    return np.where(linear_share > linear_share_bound(m) + _SAFETY, -np.inf, out)


def joint_bound(alpha1: float, levels: Sequence[int]) -> float:
    """The most α̂₃ a network of staircases with these many levels can have at this α̂₁.

    With P_ℓ the product of the first ℓ linear shares, α̂₃ = α̂₁ Σ_ℓ P_{ℓ−1}² r₂_ℓ / P_ℓ; each r₂_ℓ is
    bounded by :func:`quadratic_frontier` at r₁_ℓ = P_ℓ/P_{ℓ−1}. Maximised over the path
    1 = P_0 ≥ … ≥ P_L = α̂₁ by dynamic programming on a grid of log P, every term rounded up.
    """
    edge = np.log(alpha1) * np.linspace(0.0, 1.0, _GRID + 1)
    # Cell k holds log P in [edge[k + 1], edge[k]]; α̂₁ is the lower end of the last.
    step = -np.log(alpha1) / _GRID
    apart = np.arange(_GRID)
    lowest = np.exp(np.minimum(-(apart + 1) * step, 0.0))
    best = np.full(_GRID, -np.inf)
    for depth, m in enumerate(levels):
        frontier = quadratic_frontier(lowest, m)
        if depth == 0:
            # P_0 = 1 exactly.
            best = frontier / np.exp(edge[1:])
            continue
        path = best[:, None] + np.where(
            apart[None, :] >= apart[:, None],
            np.exp(2 * edge[:-1, None] - edge[None, 1:])
            * frontier[np.maximum(apart[None, :] - apart[:, None], 0)],
            -np.inf,
        )
        best = path.max(axis=0)
    return float(alpha1 * best[-1])


def certify(shares: FloatArray, levels: Sequence[int]) -> Certificate | None:
    """A proof that no network with these many levels has the same α₁, α₃ and τ_L, if one is found.

    ``shares`` (L, 3): the original's rows (c₁/√v, c₂/√v, c_s/2v). The bounds hold for any
    activations of at most ``levels[ℓ]`` distinct values in layer ℓ, matched one by one or not.
    """
    depth = len(levels)
    linear = float(np.prod(shares[:, 0] ** 2))
    bound = float(np.prod([linear_share_bound(m) for m in levels]))
    if linear > bound + _SAFETY:
        return _linear(linear, bound, levels)
    if max(levels) > _MOST_LEVELS:
        return None
    if depth == 1 and linear < 1e-12:
        return _quadratic(float(shares[0, 1] ** 2), levels[0])
    if linear < 1e-12:
        return None
    products = np.cumprod(np.append(1.0, shares[:, 0] ** 2))
    third = float(linear * np.sum(products[:-1] ** 2 * shares[:, 1] ** 2 / products[1:]))
    if third < 1e-12:
        return None
    bound = joint_bound(linear, levels)
    if third <= bound:
        return None
    allowed = (
        k for k in range(max(levels) + 1, _MOST_LEVELS + 1)
        if third <= joint_bound(linear, [k] * depth)
    )  # fmt: skip
    needed = next(allowed, None)
    text = (
        f"with the original's linear share {linear:.6g} (the product over the layers), layers of "
        f"{_counts(levels)} levels reach a coefficient α₃τ₀⁴/τ_L² of at most {bound:.6g}; the "
        f"original has {third:.6g}; {_needed(needed, _MOST_LEVELS)}"
    )
    return Certificate("joint", third, bound, needed, text)


def _linear(demand: float, bound: float, levels: Sequence[int]) -> Certificate:
    counts = range(2, 1025)
    # The bound grows with k.
    place = bisect_left(counts, True, key=lambda k: demand <= linear_share_bound(k) ** len(levels))
    needed = counts[place] if place < len(counts) else None
    text = (
        f"the linear share {demand:.6g} (the product over the layers) exceeds the most that "
        f"{_counts(levels)} levels can hold, {bound:.6g}; {_needed(needed, 1024)}"
    )
    return Certificate("linear", demand, bound, needed, text)


def _quadratic(demand: float, m: int) -> Certificate | None:
    bound = quadratic_share_bound(m)
    if demand <= bound:
        return None
    allowed = (k for k in range(m + 1, _MOST_LEVELS + 1) if demand <= quadratic_share_bound(k))
    needed = next(allowed, None)
    text = (
        f"the quadratic share {demand:.6g} exceeds the most that {m} levels can hold, {bound:.6g}; "
        f"{_needed(needed, _MOST_LEVELS)}"
    )
    return Certificate("quadratic", demand, bound, needed, text)


def _counts(levels: Sequence[int]) -> str:
    if len(set(levels)) == 1:
        return str(levels[0])
    return "(" + ", ".join(map(str, levels)) + ")"


def _needed(needed: int | None, most: int) -> str:
    if needed is None:
        return f"this bound allows it at no count up to {most}"
    return f"this bound allows it from {needed} levels per layer on"
