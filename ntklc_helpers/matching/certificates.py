"""Proofs that no network of staircases with these many levels has the original's coefficients.

From the bounds on one staircase, by following how a network's coefficients are made of its layers'
shares. With P_ℓ and G_ℓ the products of the first ℓ linear shares and norm gains, layer ℓ
contributes ``A_ℓ = r₂ P²_{ℓ−1}/P_ℓ`` to α̂₃/α̂₁ = Σ A_ℓ and ``B_ℓ = r₂ G²_{ℓ−1}/2P_ℓ`` to
α̂₂/α̂₁ = Σ B_ℓ. Every number here errs on the safe side.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from .._checks import FloatArray
from . import bounds
from .bounds import linear_share_bound
from .solve import Tolerance

_WITH = (
    "with the original's linear share {linear:.6g} (the product over the layers), layers of "
    "{counts} levels %s {bound:.6g}; the original has {demand:.6g}"
)
_TEXT = {
    "linear": "the linear share {demand:.6g} (the product over the layers) exceeds the most that "
    "{counts} levels can hold, {bound:.6g}",
    "quadratic": "the quadratic share {demand:.6g} exceeds the most that {counts} levels can hold, "
    "{bound:.6g}",
    "joint": _WITH % "reach a coefficient α₃τ₀⁴/τ_L² of at most",
    "norm": _WITH % "have a coefficient α₄τ₀²/τ_L² of at least",
    "chain": "however α₂, α₃, β₂ and β₃ are made up of the layers' contributions, the linear "
    "shares that layers of {counts} levels can have leave too little to the last; with the "
    "contributions of the original it holds at most {bound:.6g} of what it must",
}
_GRID = 1500
# Any angles in [0, π/2], weights and bins make a proof; these make it sharp enough.
_ANGLES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, np.pi / 2)
_TURNS = (-0.02, 0.0, 0.02)
_WEIGHTS = (*(1 + np.geomspace(1.0, 300.0, 7)), np.inf)
_BINS = 500
_MOST_BOXES = 50_000
_SMALLEST = 1e-6
# The A enter by themselves and through the K: sides of theirs count for more.
_SIDE_OF_A = 4.0


@frozen
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

    Examples
    --------
    >>> proof = nh.match(["relu"], tau0=1.0, levels=2).proof
    >>> proof.kind, round(proof.demand, 3), round(proof.bound, 3), proof.levels_needed
    ('linear', 0.733, 0.637, 3)
    """

    kind: str
    demand: float
    bound: float
    levels_needed: int | None
    text: str


def certify(shares: FloatArray, levels: Sequence[int]) -> Certificate | None:
    """A proof that no network with these many levels has the same α₁, α₃ and τ_L, if one is found.

    ``shares`` (L, 3): the original's rows (c₁/√v, c₂/√v, c_s/2v). The bounds hold for any
    activations of at most ``levels[ℓ]`` distinct values in layer ℓ, matched one by one or not.
    """

    def most_linear(levels: Sequence[int]) -> float:
        return float(np.prod([linear_share_bound(m) for m in levels]))

    def most_quadratic(levels: Sequence[int]) -> float:
        return bounds.quadratic_share_bound(levels[0])

    r1, r2 = shares[:, 0] ** 2, shares[:, 1] ** 2
    linear = float(np.prod(r1))
    proof = _exceeded("linear", linear, linear, levels, most_linear, most=1024)
    if proof or max(levels) > bounds.MOST_LEVELS:
        return proof
    if linear < Tolerance.NO_SHARE:
        alone = len(levels) == 1
        return _exceeded("quadratic", float(r2[0]), 0.0, levels, most_quadratic) if alone else None
    p = np.cumprod(np.append(1.0, r1))
    third = float(linear * np.sum(p[:-1] ** 2 * r2 / p[1:]))
    if third < Tolerance.NO_SHARE:
        return None
    return _exceeded("joint", third, linear, levels, partial(joint_bound, linear))


def certify_all(shares: FloatArray, levels: Sequence[int]) -> Certificate | None:
    """A proof that no network with these many levels has all the coefficients, if one is found.

    As :func:`certify`, with α₄ and the β among the demands.
    """
    linear, gain = float(np.prod(shares[:, 0] ** 2)), float(np.prod(shares[:, 2]))
    if max(levels) > bounds.MOST_LEVELS or linear < Tolerance.NO_SHARE:
        return None
    proof = _exceeded("norm", gain, linear, levels, partial(least_norm, linear), sign=-1)
    if proof or len(levels) == 1 or np.any(shares[:, 1] ** 2 <= Tolerance.NO_SHARE):
        return proof
    chain = _Chain(shares, levels)
    slack = float(chain.slack(chain.own[None], chain.own[None], tightened=False)[0])
    if slack >= 1 - Tolerance.SAFETY or not chain.infeasible():
        return None
    return Certificate("chain", 1.0, slack, None, _text("chain", levels, 1.0, slack, linear))


def _exceeded(
    kind: str,
    demand: float,
    linear: float,
    levels: Sequence[int],
    bound_at: Callable[[Sequence[int]], float],
    most: int = bounds.MOST_LEVELS,
    sign: int = 1,
) -> Certificate | None:
    """The proof that ``demand`` is over the bound (under it, for ``sign`` −1), if it is."""

    def allows(levels: Sequence[int]) -> bool:
        return sign * (demand - bound_at(levels)) <= Tolerance.SAFETY

    if allows(levels):
        return None
    bound, counts = bound_at(levels), range(min(levels) + 1, most + 1)
    # More levels allow more.
    place = bisect_left(counts, True, key=lambda m: allows([m] * len(levels)))
    needed = counts[place] if place < len(counts) else None
    allowed = f"from {needed} levels per layer on" if needed else f"at no count up to {most}"
    text = f"{_text(kind, levels, demand, bound, linear)}; this bound allows it {allowed}"
    return Certificate(kind, demand, bound, needed, text)


def _text(kind: str, levels: Sequence[int], demand: float, bound: float, linear: float) -> str:
    counts = f"({', '.join(map(str, levels))})" if len(set(levels)) > 1 else levels[0]
    return _TEXT[kind].format(counts=counts, demand=demand, bound=bound, linear=linear)


def joint_bound(alpha1: float, levels: Sequence[int]) -> float:
    """The most α̂₃ a network of staircases with these many levels can have at this α̂₁.

    With P_ℓ the product of the first ℓ linear shares, α̂₃ = α̂₁ Σ_ℓ P_{ℓ−1}² r₂_ℓ / P_ℓ; each r₂_ℓ is
    bounded by :func:`~.bounds.quadratic_frontier` at r₁_ℓ = P_ℓ/P_{ℓ−1}. Maximised over the path
    1 = P_0 ≥ … ≥ P_L = α̂₁ by dynamic programming on a grid of log P, every term rounded up.
    """
    edge = np.log(alpha1) * np.linspace(0.0, 1.0, _GRID + 1)
    # Cell k holds log P in [edge[k + 1], edge[k]]; α̂₁ is the lower end of the last.
    step = -np.log(alpha1) / _GRID
    lowest = np.exp(np.minimum(-(np.arange(_GRID) + 1) * step, 0.0))
    # P_0 = 1 exactly.
    best = bounds.quadratic_frontier(lowest, levels[0]) / np.exp(edge[1:])
    for m in levels[1:]:
        r2 = bounds.quadratic_frontier(lowest, m)
        terms = (np.exp(2 * edge[: k + 1] - edge[k + 1]) * r2[k::-1] for k in range(_GRID))
        best = np.array([np.max(best[: k + 1] + term) for k, term in enumerate(terms)])
    return float(alpha1 * best[-1])


def least_norm(alpha1: float, levels: Sequence[int]) -> float:
    """The least α̂₄ of a network of staircases with these many levels at this α̂₁.

    −inf if it is unknown, inf if there is no such network. α̂₄ is the product of the norm gains,
    each bounded by :func:`~.bounds.least_gain` at the layer's linear share. With y_ℓ ≥ 0 the log
    of what layer ℓ lacks of the largest share, Σ y_ℓ is given; minimised by dynamic programming on
    a grid of it, every term rounded down.
    """
    most = np.array([linear_share_bound(m) for m in levels])
    step = (np.sum(np.log(most)) - np.log(alpha1)) / _GRID
    if step < 0:
        return np.inf if alpha1 > np.prod(most) + Tolerance.SAFETY else -np.inf
    lacking = np.exp(-(np.arange(_GRID) + 1) * step)
    costs = [
        np.log(np.maximum(bounds.least_gain(share * lacking, m), 1e-300))
        for m, share in zip(levels, most, strict=True)
    ]
    best = costs[0]
    for cost in costs[1:]:
        # The least a[i] + b[n − i], for every n.
        best = np.array([np.min(best[: n + 1] + cost[n::-1]) for n in range(_GRID)])
    return float(np.exp(best[-1])) if best[-1] > -600 else -np.inf


class _Chain:
    """What all the coefficients together leave to the last layer's linear share.

    The β add Σ ℓA_ℓ and Σ ℓB_ℓ to Σ A_ℓ and Σ B_ℓ, and B₁ = A₁/2 always. The contributions fix all
    ratios within a layer: ``r₂/r₁ = A_ℓ/P_{ℓ−1}`` and ``|g|/r₁ = K_ℓ/K_{ℓ−1}`` with K₀ = 1,
    K_ℓ = √(2B_{ℓ+1}/A_{ℓ+1}) and K_L = ``|α̂₄|``/α̂₁. The bound
    ``(√r₁ cos θ + √r₂ sin θ)² ≤ bound · (2g + λ)`` is then one on r₁ alone: P₁, P₂, …, P_L are
    bounded from above one after the other, and P_L must not stay below α̂₁. That leaves every r₁ a
    least value, and with it ``|g|/r₁`` at θ = 0: a bound on the K of layers that contribute too
    little to have one. What the sums leave free is A₃ … A_L and B₄ … B_L: branch and bound over
    boxes of these.

    ``shares`` (L, 3): the original's rows (c₁/√v, c₂/√v, c_s/2v), L ≥ 2, no c₁ or c₂ being 0.
    """

    def __init__(self, shares: FloatArray, levels: Sequence[int]) -> None:
        r1, r2, g = shares[:, 0] ** 2, shares[:, 1] ** 2, np.abs(shares[:, 2])
        p, gain = np.cumprod(np.append(1.0, r1)), np.cumprod(np.append(1.0, g))
        self.alpha1, self.alpha4, self.depth = p[-1], gain[-1], len(r1)
        # A₁ … A_L, B₁ … B_L.
        self.own = np.append(r2 * p[:-1] ** 2 / p[1:], r2 * gain[:-1] ** 2 / (2 * p[1:]))
        # The bounds of each layer: at angles of a grid, and at those near the original's own.
        angle = np.arctan2(np.abs(shares[:, 1]), np.abs(shares[:, 0]))
        near = np.clip(angle[:, None] + np.array(_TURNS), 0.0, np.pi / 2)
        self.lines = [
            np.array(
                [(0.0, np.inf, linear_share_bound(m) + Tolerance.SAFETY)]
                + [
                    (angle, weight, bounds.projection_bound(angle, weight, _BINS)[m - 1])
                    for angle in (*_ANGLES, *angles.tolist())
                    for weight in _WEIGHTS
                ]
            ).T[:, :, None]
            for angles, m in zip(near, levels, strict=True)
        ]

    def infeasible(self) -> bool:
        """Whether P_L stays below α̂₁ at all contributions with the same sums."""
        depth, along, free = self.depth, *self._directions()
        up, down = np.maximum(along, 0), np.minimum(along, 0)
        # A₂ ≥ 0 and B₂ ≥ 0 bound all the others.
        rank = np.tile(np.arange(depth), 2)
        most = np.repeat((rank * self.own).reshape(2, depth).sum(axis=1), depth)
        whole = (most / np.maximum(rank, 1))[free]
        side = whole / np.where(free < depth, _SIDE_OF_A, 1.0)
        low, high = np.zeros((1, len(free))), whole[None]
        while True:
            below, above = low - self.own[free], high - self.own[free]
            least = self.own + below @ up + above @ down
            largest = self.own + above @ up + below @ down
            possible = np.flatnonzero(np.all(largest >= 0, axis=1))
            slack = self.slack(np.maximum(least[possible], 0), np.maximum(largest[possible], 0))
            left = possible[slack >= 1 - Tolerance.SAFETY]
            if not len(left):
                return True
            if not len(free) or len(left) > _MOST_BOXES // max(depth - 4, 1):
                return False
            low, high = low[left], high[left]
            if np.any(high - low < _SMALLEST * whole):
                return False
            # Every box is cut in two across its longest side.
            rows, cut = np.arange(len(low)), np.argmax((high - low) / side, axis=1)
            upper_low, lower_high = low.copy(), high.copy()
            upper_low[rows, cut] = lower_high[rows, cut] = (low[rows, cut] + high[rows, cut]) / 2
            low, high = np.vstack([low, upper_low]), np.vstack([lower_high, high])

    def slack(self, least: FloatArray, most: FloatArray, tightened: bool = True) -> FloatArray:
        """(boxes,) upper bounds on P_L/α̂₁ for contributions (boxes, 2L) from least to most."""
        (a_low, b_low), (a_high, b_high) = (np.split(x, 2, axis=1) for x in (least, most))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # Ends of K₀ … K_L.
            high = np.nan_to_num(np.sqrt(2 * b_high / a_low), nan=np.inf, posinf=np.inf)
            low = np.nan_to_num(np.sqrt(2 * b_low / a_high), nan=0.0)
            low, high = (
                np.pad(k[:, 1:], ((0, 0), (1, 1)), constant_values=1.0) for k in (low, high)
            )
            low[:, -1] = high[:, -1] = self.alpha4 / self.alpha1
            if tightened:
                shares = self._most_linear(a_low, low, high)
                least = self.alpha1 * shares / np.prod(shares, axis=1, keepdims=True)
                gains = [_least_gain(*x) for x in zip(self.lines, least.T, strict=True)]
                for layer, gain in enumerate(gains):
                    low[:, layer + 1] = np.fmax(low[:, layer + 1], low[:, layer] * gain)
                for layer, gain in reversed(list(enumerate(gains))):
                    high[:, layer] = np.fmin(high[:, layer], high[:, layer + 1] / gain)
            return np.prod(self._most_linear(a_low, low, high), axis=1) / self.alpha1

    def _most_linear(self, a_low: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        """(boxes, L) the largest r₁ of every layer, from the first on."""
        gains = np.nan_to_num(high[:, 1:] / low[:, :-1], nan=np.inf, posinf=np.inf)
        out = np.empty_like(a_low)
        product = np.ones(len(a_low))
        for layer, (angle, weight, held) in enumerate(self.lines):
            # The bound on P_ℓ rises with P_{ℓ−1}, so its own bound may stand in for it.
            root, gain = np.sqrt(a_low[:, layer] / product), gains[:, layer]
            square = (np.cos(angle) + np.sin(angle) * root) ** 2
            left = square - 2 * held * gain
            best = weight * held / np.where(left > 0, left, np.nan)
            best = np.where(np.isinf(weight), held / square, best)
            out[:, layer] = np.fmin.reduce(best, axis=0, initial=1.0)
            product = product * out[:, layer]
        return out

    def _directions(self) -> tuple[FloatArray, NDArray[np.intp]]:
        """How all contributions (free, 2L) change with A₃ … A_L, B₄ … B_L, and where these stand.

        The sums stay, and A₁ = 2B₁.
        """
        depth = self.depth
        free = np.append(np.arange(2, depth), np.arange(depth + 3, 2 * depth))
        out = np.zeros((len(free), 2 * depth))
        for row, i in zip(out, free, strict=True):
            a, b, ell = row[:depth], row[depth:], i % depth + 1
            row[i] = 1
            if i < depth:
                a[:2] = ell - 2, 1 - ell
                b[:3] = (ell - 2) * np.array([0.5, -1.0, 0.5])
            else:
                b[1:3] = ell - 3, 2 - ell
        return out, free


def _least_gain(line: FloatArray, share: FloatArray) -> FloatArray:
    """(boxes,) the least ``|g|/r₁`` of a layer with at least this r₁."""
    angle, weight, held = line
    flat = (angle == 0) & np.isfinite(weight)
    best = np.where(flat, 1 / held - weight / share, -np.inf)
    return np.maximum(best.max(axis=0) / 2, 0.0)
