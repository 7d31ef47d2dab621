"""Proof that no layers with m levels add up to all of a network's coefficients.

With P_ℓ and G_ℓ the products of the first ℓ linear shares and norm gains, layer ℓ contributes
``A_ℓ = r₂ P²_{ℓ−1}/P_ℓ`` to α̂₃/α̂₁ = Σ A_ℓ and ``B_ℓ = r₂ G²_{ℓ−1}/2P_ℓ`` to α̂₂/α̂₁ = Σ B_ℓ; the β
add Σ ℓA_ℓ and Σ ℓB_ℓ, and B₁ = A₁/2 always. The contributions fix all ratios within a layer:
``r₂/r₁ = A_ℓ/P_{ℓ−1}`` and ``|g|/r₁ = K_ℓ/K_{ℓ−1}`` with K₀ = 1, K_ℓ = √(2B_{ℓ+1}/A_{ℓ+1}) and
K_L = ``|α̂₄|``/α̂₁. The bound ``(√r₁ cos θ + √r₂ sin θ)² ≤ reach · (2g + λ)`` is then one on r₁
alone: P₁, P₂, …, P_L are bounded from above one after the other, and P_L must not stay below α̂₁.
That leaves every r₁ a least value, and with it ``|g|/r₁`` at θ = 0: a bound on the K of layers that
contribute too little to have one. What the sums leave free is A₃ … A_L and B₄ … B_L, which are cut
into boxes until none is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .bounds import SAFETY, reach
from .quantizers import linear_share_bound

FloatArray = NDArray[np.float64]
# Lower and upper ends (boxes, L).
Interval = tuple[FloatArray, FloatArray]
# θ, λ and the reach there.
Line = tuple[float, float, float]

# Any angles in [0, π/2], weights and bins make a proof; these make it sharp enough.
_ANGLES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, np.pi / 2)
_TURNS = (-0.02, 0.0, 0.02)
_WEIGHTS = (*(1 + np.geomspace(1.0, 300.0, 7)), np.inf)
_BINS = 500
_MOST_BOXES = 50_000
_SMALLEST = 1e-6
# The A enter by themselves and through the K: sides of theirs count for more.
_SIDE_OF_A = 4.0


def room(shares: FloatArray, levels: Sequence[int]) -> float:
    """The most P_L may be over the α̂₁ asked of it, at the original's own contributions.

    ``shares`` (L, 3): the original's rows (c₁/√v, c₂/√v, c_s/2v), L ≥ 2, no c₁ or c₂ being 0.
    """
    a, b, ends = _contributions(shares)
    ratios = _ratios((a[None], a[None]), (b[None], b[None]), ends)
    return float(np.prod(_most_linear(a[None], *ratios, _lines(shares, levels))) / ends[0])


def refuted(shares: FloatArray, levels: Sequence[int]) -> bool:
    """Whether :func:`room` is proved to be less than 1 at all contributions with the same sums."""
    if room(shares, levels) >= 1 - SAFETY:
        return False
    a, b, ends = _contributions(shares)
    lines = _lines(shares, levels)
    along_a, along_b = _directions(len(levels))
    # A₂ ≥ 0 and B₂ ≥ 0 bound all the others.
    before = np.arange(len(levels))
    most = [before @ x / np.maximum(before, 1) for x in (a, b)]
    whole = np.append(most[0][2:], most[1][3:])
    side = whole / np.where(np.arange(len(whole)) < len(a) - 2, _SIDE_OF_A, 1.0)
    low, high = np.zeros((1, len(whole))), whole[None]
    own = np.append(a[2:], b[3:])
    while len(low):
        a_ends, b_ends = (_affine(low - own, high - own, *x) for x in ((along_a, a), (along_b, b)))
        possible = np.all(a_ends[1] >= 0, axis=1) & np.all(b_ends[1] >= 0, axis=1)
        (a_low, a_high, b_low, b_high) = (np.maximum(x[possible], 0) for x in (*a_ends, *b_ends))
        rooms = _room((a_low, a_high), (b_low, b_high), ends, lines)
        left = np.flatnonzero(possible)[rooms >= 1 - SAFETY]
        if len(left) and (not len(whole) or len(left) > _MOST_BOXES):
            return False
        if np.any(high[left] - low[left] < _SMALLEST * whole):
            return False
        low, high = _halved(low[left], high[left], side)
    return True


def _contributions(shares: FloatArray) -> tuple[FloatArray, FloatArray, tuple[float, float]]:
    r1, r2, g = shares[:, 0] ** 2, shares[:, 1] ** 2, np.abs(shares[:, 2])
    p, gain = np.cumprod(np.append(1.0, r1)), np.cumprod(np.append(1.0, g))
    a, b = r2 * p[:-1] ** 2 / p[1:], r2 * gain[:-1] ** 2 / (2 * p[1:])
    return a, b, (float(p[-1]), float(gain[-1]))


def _directions(depth: int) -> tuple[FloatArray, FloatArray]:
    """How A and B (2 × (free, L)) change with A₃ … A_L, B₄ … B_L at the same sums and A₁ = 2B₁."""
    a, b = np.zeros((2, max(2 * depth - 5, 0), depth))
    for row, ell in enumerate(range(3, depth + 1)):
        a[row, [0, 1, ell - 1]] = ell - 2, 1 - ell, 1
        b[row, :3] = (ell - 2) * np.array([0.5, -1.0, 0.5])
    for row, ell in enumerate(range(4, depth + 1), start=depth - 2):
        b[row, [1, 2, ell - 1]] = ell - 3, 2 - ell, 1
    return a, b


def _affine(low: FloatArray, high: FloatArray, slope: FloatArray, at_0: FloatArray) -> Interval:
    """The range of at_0 + z @ slope over the boxes low ≤ z ≤ high."""
    up, down = np.maximum(slope, 0), np.minimum(slope, 0)
    return at_0 + low @ up + high @ down, at_0 + high @ up + low @ down


def _lines(shares: FloatArray, levels: Sequence[int]) -> list[list[Line]]:
    """The bounds of each layer: at angles of a grid, and at those near the original's own."""
    own = np.arctan2(np.abs(shares[:, 1]), np.abs(shares[:, 0]))
    near = np.clip(own[:, None] + np.array(_TURNS), 0.0, np.pi / 2)
    return [
        [(0.0, np.inf, linear_share_bound(m) + SAFETY)]
        + [
            (float(angle), float(weight), float(reach(float(angle), float(weight), _BINS)[m - 1]))
            for angle in (*_ANGLES, *angles)
            for weight in _WEIGHTS
        ]
        for angles, m in zip(near, levels, strict=True)
    ]


def _room(
    a: Interval, b: Interval, ends: tuple[float, float], lines: Sequence[Sequence[Line]]
) -> FloatArray:
    """(boxes,) upper bounds on P_L/α̂₁."""
    alpha1 = ends[0]
    low, high = _ratios(a, b, ends)
    shares = _most_linear(a[0], low, high, lines)
    least = alpha1 * shares / np.prod(shares, axis=1, keepdims=True)
    gains = [_least_gain(line, least[:, layer]) for layer, line in enumerate(lines)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for layer, gain in enumerate(gains):
            low[:, layer + 1] = np.fmax(low[:, layer + 1], low[:, layer] * gain)
        for layer, gain in reversed(list(enumerate(gains))):
            high[:, layer] = np.fmin(high[:, layer], high[:, layer + 1] / gain)
    return np.prod(_most_linear(a[0], low, high, lines), axis=1) / alpha1


def _ratios(a: Interval, b: Interval, ends: tuple[float, float]) -> Interval:
    """(boxes, L + 1) ends of K₀ … K_L."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        high = np.nan_to_num(np.sqrt(2 * b[1] / a[0]), nan=np.inf, posinf=np.inf)
        low = np.nan_to_num(np.sqrt(2 * b[0] / a[1]), nan=0.0)
    low, high = (np.pad(k[:, 1:], ((0, 0), (1, 1)), constant_values=1.0) for k in (low, high))
    low[:, -1] = high[:, -1] = ends[1] / ends[0]
    return low, high


def _most_linear(
    a_low: FloatArray, k_low: FloatArray, k_high: FloatArray, lines: Sequence[Sequence[Line]]
) -> FloatArray:
    """(boxes, L) the largest r₁ of every layer, from the first on."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gains = np.nan_to_num(k_high[:, 1:] / k_low[:, :-1], nan=np.inf, posinf=np.inf)
    out = np.empty_like(a_low)
    product = np.ones(len(a_low))
    for layer, line in enumerate(lines):
        # The bound on P_ℓ rises with P_{ℓ−1}, so its own bound may stand in for it.
        root, gain = np.sqrt(a_low[:, layer] / product), gains[:, layer]
        best = np.ones_like(product)
        for angle, weight, held in line:
            square = (np.cos(angle) + np.sin(angle) * root) ** 2
            if np.isinf(weight):
                best = np.minimum(best, held / square)
                continue
            left = square - 2 * held * gain
            best = np.fmin(best, weight * held / np.where(left > 0, left, np.nan))
        out[:, layer] = best
        product = product * best
    return out


def _least_gain(line: Sequence[Line], share: FloatArray) -> FloatArray:
    """(boxes,) the least ``|g|/r₁`` of a layer with at least this r₁."""
    weight, held = np.array([row[1:] for row in line if row[0] == 0.0 and np.isfinite(row[1])]).T
    return np.maximum(np.max(1 / held - weight / share[:, None], axis=1) / 2, 0.0)


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
