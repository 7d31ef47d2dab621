"""Proof that no layers with m levels add up to all of a network's coefficients.

With P_ℓ and G_ℓ the products of the first ℓ linear shares and norm gains, layer ℓ contributes
``A_ℓ = r₂ P²_{ℓ−1}/P_ℓ`` to α̂₃/α̂₁ = Σ A_ℓ and ``B_ℓ = r₂ G²_{ℓ−1}/2P_ℓ`` to α̂₂/α̂₁ = Σ B_ℓ; the β
add Σ ℓA_ℓ and Σ ℓB_ℓ, and B₁ = A₁/2 always. The contributions fix all ratios within a layer:
``r₂/r₁ = A_ℓ/P_{ℓ−1}`` and ``|g|/r₁ = K_ℓ/K_{ℓ−1}`` with K₀ = 1, K_ℓ = √(2B_{ℓ+1}/A_{ℓ+1}) and
K_L = ``|α̂₄|``/α̂₁. The bound ``(√r₁ cos θ + √r₂ sin θ)² ≤ reach · (2g + λ)`` is then one on r₁
alone: P₁, P₂, …, P_{L−1} are bounded from above one after the other, and P_L = α̂₁ asks too much of
the last layer. Contributions that the sums leave free are cut into boxes until that is so in each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .bounds import SAFETY, reach

FloatArray = NDArray[np.float64]
# An interval for every box: lower and upper ends (boxes, …).
Interval = tuple[FloatArray, FloatArray]
# θ, λ and the reach there.
Line = tuple[float, float, float]

# Any angles in [0, π/2], weights and bins make a proof; these make it sharp enough.
_TURNS = (-0.08, -0.03, 0.0, 0.015, 0.03, 0.08)
_WEIGHTS = (*(1 + np.geomspace(5.0, 300.0, 9)), np.inf)
_BINS = 500
_MOST_BOXES = 20_000
_SMALLEST = 1e-6


def room(shares: FloatArray, levels: Sequence[int]) -> float:
    """What the last layer allows over what is asked of it, at the original's own contributions.

    ``shares`` (L, 3): the original's rows (c₁/√v, c₂/√v, c_s/2v), L ≥ 2, no c₁ or c₂ being 0.
    """
    a, b, ends = _contributions(shares)
    return float(_room((a[None], a[None]), (b[None], b[None]), ends, _lines(shares, levels))[0])


def refuted(shares: FloatArray, levels: Sequence[int]) -> bool:
    """Whether :func:`room` is proved to be less than 1 at all contributions with the same sums."""
    if room(shares, levels) >= 1 - SAFETY:
        return False
    a, b, ends = _contributions(shares)
    lines = _lines(shares, levels)
    free = len(levels) - 2
    low = np.zeros((1, max(2 * free - 1, 0)))
    whole = np.append(np.full(free, a.sum()), np.full(max(free - 1, 0), b.sum()))
    high = low + whole
    while len(low):
        (a_low, a_high), (b_low, b_high) = _all_contributions(low, high, a, b)
        possible = np.all(a_high >= 0, axis=1) & np.all(b_high >= 0, axis=1)
        intervals = [np.maximum(x[possible], 0) for x in (a_low, a_high, b_low, b_high)]
        rooms = _room(intervals[:2], intervals[2:], ends, lines)
        left = np.flatnonzero(possible)[rooms >= 1 - SAFETY]
        if not free and len(left):
            return False
        if len(left) > _MOST_BOXES or np.any(high[left] - low[left] < _SMALLEST * whole):
            return False
        low, high = _halved(low[left], high[left], whole)
    return True


def _contributions(shares: FloatArray) -> tuple[FloatArray, FloatArray, tuple[float, float]]:
    r1, r2, g = shares[:, 0] ** 2, shares[:, 1] ** 2, np.abs(shares[:, 2])
    p, gain = np.cumprod(np.append(1.0, r1)), np.cumprod(np.append(1.0, g))
    a, b = r2 * p[:-1] ** 2 / p[1:], r2 * gain[:-1] ** 2 / (2 * p[1:])
    return a, b, (float(p[-1]), float(gain[-1]))


def _lines(shares: FloatArray, levels: Sequence[int]) -> list[list[Line]]:
    angles = np.arctan2(np.abs(shares[:, 1]), np.abs(shares[:, 0]))
    return [
        [
            (float(turned), weight, float(reach(float(turned), weight, _BINS)[m - 1]))
            for turned in np.unique(np.clip(angle + np.array(_TURNS), 0.0, np.pi / 2))
            for weight in _WEIGHTS
        ]
        for angle, m in zip(angles, levels, strict=True)
    ]


def _all_contributions(
    low: FloatArray, high: FloatArray, a: FloatArray, b: FloatArray
) -> tuple[Interval, Interval]:
    """The last two of A and of B from the sums; (boxes, L) each."""
    free = len(a) - 2
    first = [x[:, :1] / 2 if free else x for x in (low, high)]
    mine = [(low[:, :free], high[:, :free], a)]
    lower, upper = (np.hstack([f, x[:, free:]]) for f, x in zip(first, (low, high), strict=True))
    mine += [(lower, upper, b)]
    out = []
    order = np.arange(1, len(a) + 1)
    for lowest, highest, original in mine:
        total, ranked = original.sum(), order @ original
        # Weights of the free ones in the last two: both sums must come out.
        last, other = (len(a) - 1 - order[:free]), (len(a) - order[:free])
        base_last, base_other = ranked - (len(a) - 1) * total, len(a) * total - ranked
        ends = [
            np.column_stack([x, base_other - y @ other, base_last + x @ last])
            for x, y in ((lowest, highest), (highest, lowest))
        ]
        out.append((ends[0], ends[1]))
    return out[0], out[1]


def _room(
    a: Sequence[FloatArray],
    b: Sequence[FloatArray],
    ends: tuple[float, float],
    lines: Sequence[Sequence[Line]],
) -> FloatArray:
    """(boxes,) upper bounds on reach · (2g + λ)/(√r₁ cos θ + √r₂ sin θ)² of the last layer."""
    (a_low, a_high), (b_low, b_high) = a, b
    alpha1, alpha4 = ends
    one = np.ones((len(a_low), 1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        k_high = np.nan_to_num(np.sqrt(2 * b_high / a_low), nan=np.inf, posinf=np.inf)[:, 1:]
        k_low = np.nan_to_num(np.sqrt(2 * b_low / a_high), nan=0.0)[:, 1:]
        gain = np.hstack([k_high, one * alpha4 / alpha1]) / np.hstack([one, k_low])
        gain = np.nan_to_num(gain, nan=np.inf, posinf=np.inf)
    most = one[:, 0]
    for layer, line in enumerate(lines[:-1]):
        # The bound on P_ℓ rises with P_{ℓ−1}, so its own bound may stand in for it.
        most = most * _most_linear(line, a_low[:, layer] / most, gain[:, layer])
    # The larger P_{L−1}, the less is asked of the last layer.
    r1, tilt = alpha1 / most, a_low[:, -1] / most
    best = np.full(len(most), np.inf)
    for angle, weight, held in lines[-1]:
        square = r1 * (np.cos(angle) + np.sin(angle) * np.sqrt(tilt)) ** 2
        allowed = held if np.isinf(weight) else held * (2 * r1 * gain[:, -1] + weight)
        best = np.minimum(best, allowed / square)
    return best


def _most_linear(line: Sequence[Line], tilt: FloatArray, gain: FloatArray) -> FloatArray:
    """The largest r₁ at r₂/r₁ of at least ``tilt`` and |g|/r₁ of at most ``gain``."""
    best = np.ones_like(tilt)
    for angle, weight, held in line:
        square = (np.cos(angle) + np.sin(angle) * np.sqrt(tilt)) ** 2
        if np.isinf(weight):
            best = np.minimum(best, held / square)
            continue
        left = square - 2 * held * gain
        most = weight * held / np.where(left > 0, left, np.nan)
        best = np.fmin(best, most)
    return best


def _halved(low: FloatArray, high: FloatArray, whole: FloatArray) -> Interval:
    """Every box cut in two across its longest side."""
    if not low.size:
        return low, high
    side = np.argmax((high - low) / whole, axis=1)
    rows = np.arange(len(low))
    middle = (low[rows, side] + high[rows, side]) / 2
    upper_low, lower_high = low.copy(), high.copy()
    upper_low[rows, side] = lower_high[rows, side] = middle
    return np.vstack([low, upper_low]), np.vstack([lower_high, high])
