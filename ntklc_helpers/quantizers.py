"""Staircases of a Gaussian variable: their moments in closed form, and where to start fitting.

A staircase on ξ ~ N(0, 1) has thresholds x (T,), pieces 0 … T, and m levels; ``pieces[i]`` names
the level of piece i, so that a level may serve several pieces (σ_T has three pieces, two levels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded
from scipy.special import ndtri

from .activations import AnyActivation, Quantized
from .moments import GaussianMoments, cell_probabilities, gaussian_panels

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

SOLVED = 1e-12

# The start looks at the activation where ξ has all but 1e-14 of its mass.
_REACH = 8.0
_MOST_HALVINGS = 7
_LLOYD_STEPS = 60
_SMALLEST_PIECE = 1e-6
_NO_WIDTH = 1e-13
# How far the start is tilted towards the degree-2 part of the activation, nearest first.
TILTS = (0.0, 0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Staircase:
    """A piecewise-constant function of ξ ~ N(0, 1).

    Attributes
    ----------
    x : (T,) array
        Thresholds, increasing.
    pieces : (T + 1,) integer array
        Which level each piece takes.
    levels : (m,) array
    uniform : bool
        Whether the levels are integer codes that stay fixed: a fit then moves thresholds only.
    """

    x: FloatArray
    pieces: IntArray
    levels: FloatArray
    uniform: bool = False

    @property
    def values(self) -> FloatArray:
        """(T + 1,) value on each piece."""
        return self.levels[self.pieces]

    @property
    def unknowns(self) -> FloatArray:
        """What a fit may move: thresholds, then levels unless their grid is fixed."""
        return self.x.copy() if self.uniform else np.concatenate([self.x, self.levels])

    def at(self, unknowns: FloatArray) -> Staircase:
        """The staircase with other unknowns."""
        x, levels = np.split(unknowns, [len(self.x)])
        return replace(self, x=x, levels=self.levels if self.uniform else levels)

    def ordered(self, unknowns: FloatArray) -> FloatArray:
        """The unknowns with thresholds that crossed put together: a piece may shrink to nothing."""
        x, levels = np.split(unknowns, [len(self.x)])
        rising, falling = np.maximum.accumulate(x), np.minimum.accumulate(x[::-1])[::-1]
        return np.concatenate([(rising + falling) / 2, levels])

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """(mean, c₁, c₂, c_s, v) and its Jacobian (5, unknowns).

        ``c₁ = E[ξσ]``, ``c₂ = E[(ξ² − 1)σ]/√2``, ``c_s = E[(ξ² − 1)(σ − Eσ)²]``, ``v = Var σ``.
        """
        x, value, root = self.x, self.values, np.sqrt(2.0)
        # Rows: the weights w = 1, ξ, (ξ² − 1)/√2; w φ at the thresholds, E[w; piece].
        weight = np.empty((3, len(x)))
        weight[0] = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        weight[1] = x * weight[0]
        weight[2] = (x * weight[1] - weight[0]) / root
        edge = np.zeros((2, len(x) + 2))
        edge[0, 1:-1], edge[1, 1:-1] = weight[0], weight[1] / root
        part = np.vstack([cell_probabilities(x), edge[:, :-1] - edge[:, 1:]])
        mean, c1, c2 = part @ value
        power, tail = part[[0, 2]] @ value**2
        jacobian = np.empty((5, len(x) + len(self.levels)))
        by_level = np.eye(len(self.levels))[self.pieces]
        drop = value[:-1] - value[1:]
        jacobian[:3] = np.hstack([weight * drop, part @ by_level])
        square = np.hstack(
            [
                weight[[0, 2]] * (drop * (value[:-1] + value[1:])),
                (2 * part[[0, 2]] * value) @ by_level,
            ]
        )
        out = np.array([mean, c1, c2, root * (tail - 2 * mean * c2), power - mean**2])
        jacobian[3] = root * (square[1] - 2 * c2 * jacobian[0] - 2 * mean * jacobian[2])
        jacobian[4] = square[0] - 2 * mean * jacobian[0]
        return out, jacobian[:, : len(x)] if self.uniform else jacobian

    def shares(self) -> tuple[FloatArray, FloatArray]:
        """(c₁/√v, c₂/√v, c_s/(2v)), free of scale and mean, and its Jacobian (3, unknowns)."""
        (_, c1, c2, cs, v), (_, j1, j2, js, jv) = self.moments()
        root = np.sqrt(v)
        value = np.array([c1 / root, c2 / root, cs / (2 * v)])
        jacobian = np.stack([j1 / root, j2 / root, js / (2 * v)])
        return value, jacobian - np.outer(value * [0.5, 0.5, 1.0] / v, jv)

    def activation(self, tau: float, mean: float, variance: float) -> Quantized:
        """As an activation of t = τξ with this variance, and this mean where levels are free."""
        own_mean, _, _, _, own_variance = self.moments()[0]
        scale = np.sqrt(variance / own_variance)
        levels = self.levels * scale
        if not self.uniform:
            levels = levels + (mean - own_mean * scale)
        gone = np.flatnonzero(np.diff(self.x) < _NO_WIDTH)
        x, pieces = _merge_equal(np.delete(self.x, gone), np.delete(self.pieces, gone + 1))
        return Quantized(tuple(tau * x), tuple(levels[pieces]))


def demanded_shares(g: GaussianMoments) -> FloatArray:
    """(c₁/√v, c₂/√v, c_s/(2v)) of an activation with moments ``g``: ±√r₁, ±√r₂ and g."""
    root = np.sqrt(g.variance)
    return np.array([g.tau * g.d1 / root, g.tau**2 * g.d2 / (np.sqrt(2) * root), g.norm_gain])


def starts(
    activation: AnyActivation,
    g: GaussianMoments,
    m: int,
    uniform: bool = False,
    tilts: Sequence[float] = TILTS,
) -> Iterator[Staircase]:
    """Staircases with m levels to start a fit from, the nearest to the activation first.

    Each quantises ``(1 − s) σ + s P₂σ``: the activation tilted towards its own part of degree 2,
    the only part the equivalents see. A monotone activation is cut into m pieces first; then into
    the pieces that the m values of an optimal quantiser (Lloyd–Max) ask for. A piecewise-constant
    activation that has few enough levels comes first itself.
    """
    if isinstance(activation, Quantized):
        levels, pieces = np.unique(activation.levels, return_inverse=True)
        if len(levels) <= (min(m, 2) if uniform else m):
            scaled = np.arange(len(levels)) * 1.0 if uniform else levels / np.sqrt(g.variance)
            levels = np.asarray(scaled, np.float64)
            yield Staircase(np.array(activation.thresholds) / g.tau, pieces, levels, uniform)
    # Panels change at no round τ, where a last digit would decide which start is taken.
    halvings = int(np.clip(round(np.log2(g.tau) + 2.2), 2, _MOST_HALVINGS))
    xi, weight = gaussian_panels(activation.breakpoints, g.tau, halvings)
    inside = np.abs(xi) < _REACH
    xi, weight = xi[inside], weight[inside]
    # In units of the standard deviation: a fit moves thresholds and levels alike.
    value = (np.asarray(activation(g.tau * xi)) - g.mean) / np.sqrt(g.variance)
    c1, c2, _ = demanded_shares(g)
    polynomial = c1 * xi + c2 * (xi**2 - 1) / np.sqrt(2)
    slopes = np.diff(value)
    makers = [_folded] if uniform else [_folded, _cut]
    if not uniform and (np.all(slopes >= 0) or np.all(slopes <= 0)):
        makers = [_cut, _folded]
    for make in makers:
        for tilt in tilts:
            stair = make(xi, weight, (1 - tilt) * value + tilt * polynomial, m, uniform)
            if stair is not None:
                yield stair


def _companding(weight: FloatArray, step: FloatArray) -> FloatArray:
    """Cumulative cube root of density: equal shares of it make a near-optimal quantiser."""
    mass = (weight[1:] + weight[:-1]) / 2
    return np.append(0.0, np.cumsum(np.cbrt(mass * step**2)))


def _cut(
    xi: FloatArray, weight: FloatArray, value: FloatArray, m: int, uniform: bool
) -> Staircase | None:
    """m pieces in ξ, each at its own level."""
    total = _companding(weight, np.abs(np.diff(value)))
    if total[-1] == 0:
        return None
    x = np.interp(np.arange(1, m) / m * total[-1], total, xi)
    piece = np.searchsorted(x, xi)
    mass = np.bincount(piece, weight, m)
    if np.any(np.diff(x) <= 0) or np.any(mass <= 0):
        return None
    return Staircase(x, np.arange(m), np.bincount(piece, weight * value, m) / mass, uniform)


def _folded(
    xi: FloatArray, weight: FloatArray, value: FloatArray, m: int, uniform: bool
) -> Staircase | None:
    """m levels by Lloyd–Max quantisation of the value; pieces are what it maps to each level."""
    order = np.argsort(value, kind="stable")
    total = _companding(weight[order], np.diff(value[order]))
    levels = np.unique(np.interp((np.arange(m) + 0.5) / m * total[-1], total, value[order]))
    for _ in range(_LLOYD_STEPS):
        if len(levels) < 2:
            return None
        cell = np.searchsorted((levels[1:] + levels[:-1]) / 2, value)
        mass = np.bincount(cell, weight, len(levels))
        moment = np.bincount(cell, weight * value, len(levels))
        if uniform:
            code = np.arange(len(levels))
            slope, offset = np.polynomial.polynomial.polyfit(
                code, moment / np.maximum(mass, 1e-300), 1, w=np.sqrt(mass)
            )[::-1]
            levels = offset + slope * code
        else:
            levels = moment[mass > 0] / mass[mass > 0]
    x, pieces = _preimages(xi, value, (levels[1:] + levels[:-1]) / 2)
    if uniform:
        # Codes sit where the levels are, so that the centred staircase lies over the activation.
        first = np.clip(np.round(levels[0] / (levels[1] - levels[0])), -128, 128 - len(levels))
        levels = first + np.arange(len(levels))
    x, pieces = _drop_slivers(x, pieces)
    used, pieces = np.unique(pieces, return_inverse=True)
    return Staircase(x, pieces, levels[used], uniform) if len(used) > 1 else None


def _preimages(xi: FloatArray, value: FloatArray, cuts: FloatArray) -> tuple[FloatArray, IntArray]:
    """Where the value crosses the cuts, by linear interpolation, and the cell of each piece."""
    cell = np.searchsorted(cuts, value)
    x, pieces = [], [cell[0]]
    for i in np.flatnonzero(np.diff(cell)):
        up = cell[i + 1] > cell[i]
        crossed = range(cell[i], cell[i + 1]) if up else range(cell[i] - 1, cell[i + 1] - 1, -1)
        for c in crossed:
            part = (cuts[c] - value[i]) / (value[i + 1] - value[i])
            x.append(xi[i] + part * (xi[i + 1] - xi[i]))
            pieces.append(c + 1 if up else c)
    return np.array(x), np.array(pieces)


def _drop_slivers(x: FloatArray, pieces: IntArray) -> tuple[FloatArray, IntArray]:
    """Merge pieces of next to no probability into a neighbour."""
    while len(x) > 1:
        mass = cell_probabilities(x)
        i = int(np.argmin(mass))
        if mass[i] > _SMALLEST_PIECE:
            break
        x, pieces = np.delete(x, max(i - 1, 0)), np.delete(pieces, i)
        x, pieces = _merge_equal(x, pieces)
    return x, pieces


def _merge_equal(x: FloatArray, pieces: IntArray) -> tuple[FloatArray, IntArray]:
    same = np.flatnonzero(np.diff(pieces) == 0)
    return np.delete(x, same), np.delete(pieces, same)


@lru_cache(maxsize=1024)
def linear_share_bound(m: int) -> float:
    """The most a function of m levels can hold of its variance in the linear part: R(m).

    1 − D(m), D(m) the distortion of the optimal m-level quantiser of N(0, 1) (Lloyd, Max): 2/π,
    0.810, 0.883, …, 0.9905 at 16. Its fixed point is unique because the density is log-concave.
    Newton's method on the thresholds; accurate to 1e-13.
    """
    x = np.sqrt(3.0) * ndtri(np.arange(1, m) / m)
    for _ in range(50):
        density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        mass = cell_probabilities(x)
        centre = -np.diff(density, prepend=0.0, append=0.0) / mass
        # x_j is midway between the centroids of its two cells.
        residual = x - (centre[1:] + centre[:-1]) / 2
        left = density * (x - centre[:-1]) / mass[:-1]
        right = density * (centre[1:] - x) / mass[1:]
        bands = np.zeros((3, m - 1))
        bands[0, 1:] = -density[1:] * (x[1:] - centre[1:-1]) / mass[1:-1] / 2
        bands[1] = 1 - (left + right) / 2
        bands[2, :-1] = -density[:-1] * (centre[1:-1] - x[:-1]) / mass[1:-1] / 2
        step = solve_banded((1, 1), bands, residual)
        x = x - step
        if np.max(np.abs(step), initial=0.0) < 1e-13:
            break
    return float(mass @ centre**2)
