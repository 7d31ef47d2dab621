"""Proofs that no network of staircases with these many levels has the original's coefficients.

From the bounds on one staircase, by following how a network's coefficients are made of its layers'
shares. Every number here errs on the safe side.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bounds import (
    MOST_LEVELS,
    SAFETY,
    least_gain,
    quadratic_frontier,
    quadratic_share_bound,
)
from .chains import refuted, room
from .quantizers import linear_share_bound

FloatArray = NDArray[np.float64]

_GRID = 1500


@dataclass(frozen=True)
class Certificate:
    """A proof that a demand cannot be met, in numbers and words.

    Attributes
    ----------
    kind : str
        "linear": the product of the linear shares. "quadratic": the quadratic share of one layer.
        "joint": α₁ and α₃ together. "norm": α₁ and α₄ together. "chain": all coefficients, layer
        by layer.
    demand, bound : float
        The original's number, and the most ("norm": the least) that activations with these many
        levels can reach. "chain": 1, and what the last layer holds of what it must.
    levels_needed : int or None
        Fewest levels per layer that this bound allows; None if more than 1024 (linear) or 32
        (others), and for "chain".
    text : str
    """

    kind: str
    demand: float
    bound: float
    levels_needed: int | None
    text: str


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
    if linear > bound + SAFETY:
        return _linear(linear, bound, levels)
    if max(levels) > MOST_LEVELS:
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
        k for k in range(max(levels) + 1, MOST_LEVELS + 1)
        if third <= joint_bound(linear, [k] * depth)
    )  # fmt: skip
    needed = next(allowed, None)
    text = (
        f"with the original's linear share {linear:.6g} (the product over the layers), layers of "
        f"{_counts(levels)} levels reach a coefficient α₃τ₀⁴/τ_L² of at most {bound:.6g}; the "
        f"original has {third:.6g}; {_needed(needed, MOST_LEVELS)}"
    )
    return Certificate("joint", third, bound, needed, text)


def least_norm(alpha1: float, levels: Sequence[int]) -> float:
    """The least α̂₄ of a network of staircases with these many levels at this α̂₁; 0 if unknown.

    α̂₄ is the product of the norm gains, each bounded by :func:`~.bounds.least_gain` at the layer's
    linear share. With y_ℓ ≥ 0 the log of what layer ℓ lacks of the largest share, Σ y_ℓ is given;
    minimised by dynamic programming on a grid of it, every term rounded down.
    """
    most = np.array([linear_share_bound(m) for m in levels])
    step = (np.sum(np.log(most)) - np.log(alpha1)) / _GRID
    if step < 0:
        return 0.0
    lacking = np.exp(-(np.arange(_GRID) + 1) * step)
    best = None
    for m, share in zip(levels, most, strict=True):
        gain = least_gain(share * lacking, m)
        cost = np.log(np.maximum(gain, 1e-300))
        best = cost if best is None else _least_sums(best, cost)
    return float(np.exp(best[-1])) if best is not None and best[-1] > -600 else 0.0


def _least_sums(a: FloatArray, b: FloatArray) -> FloatArray:
    """min over i of a[i] + b[n − i], for every n."""
    return np.array([np.min(a[: n + 1] + b[n::-1]) for n in range(len(a))])


def certify_all(shares: FloatArray, levels: Sequence[int]) -> Certificate | None:
    """A proof that no network with these many levels has all the coefficients, if one is found.

    As :func:`certify`, with α₄ and the β among the demands.
    """
    linear, gain = float(np.prod(shares[:, 0] ** 2)), float(np.prod(shares[:, 2]))
    if max(levels) > MOST_LEVELS or linear < 1e-12:
        return None
    bound = least_norm(linear, levels)
    if bound > 0 and gain < bound * (1 - SAFETY):
        return _norm(linear, gain, bound, levels)
    if len(levels) > 1 and np.all(shares[:, 1] ** 2 > 1e-12) and refuted(shares, levels):
        return _chain(shares, levels)
    return None


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
    allowed = (k for k in range(m + 1, MOST_LEVELS + 1) if demand <= quadratic_share_bound(k))
    needed = next(allowed, None)
    text = (
        f"the quadratic share {demand:.6g} exceeds the most that {m} levels can hold, {bound:.6g}; "
        f"{_needed(needed, MOST_LEVELS)}"
    )
    return Certificate("quadratic", demand, bound, needed, text)


def _norm(linear: float, demand: float, bound: float, levels: Sequence[int]) -> Certificate:
    allowed = (
        k for k in range(max(levels) + 1, MOST_LEVELS + 1)
        if demand >= least_norm(linear, [k] * len(levels))
    )  # fmt: skip
    needed = next(allowed, None)
    text = (
        f"with the original's linear share {linear:.6g} (the product over the layers), layers of "
        f"{_counts(levels)} levels have a coefficient α₄τ₀²/τ_L² of at least {bound:.6g}; the "
        f"original has {demand:.6g}; {_needed(needed, MOST_LEVELS)}"
    )
    return Certificate("norm", demand, bound, needed, text)


def _chain(shares: FloatArray, levels: Sequence[int]) -> Certificate:
    found = room(shares, levels)
    text = (
        "however α₂, α₃, β₂ and β₃ are made up of the layers' contributions, the linear shares "
        f"that layers of {_counts(levels)} levels can have leave too little to the last; with the "
        f"contributions of the original it holds at most {found:.6g} of what it must"
    )
    return Certificate("chain", 1.0, found, None, text)


def _counts(levels: Sequence[int]) -> str:
    if len(set(levels)) == 1:
        return str(levels[0])
    return "(" + ", ".join(map(str, levels)) + ")"


def _needed(needed: int | None, most: int) -> str:
    if needed is None:
        return f"this bound allows it at no count up to {most}"
    return f"this bound allows it from {needed} levels per layer on"
