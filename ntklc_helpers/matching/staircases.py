"""Staircases of a Gaussian variable: their moments in closed form, and where to start fitting.

A staircase on ξ ~ N(0, 1) has thresholds x (T,), pieces 0 … T, and m levels; ``pieces[i]`` names
the level of piece i, so that a level may serve several pieces (σ_T has three pieces, two levels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from .._checks import FloatArray
from ..theory.activations import AnyActivation, Quantized
from ..theory.gaussian import GaussianMoments, cell_probabilities, gaussian_panels
from .solve import SCREENING_STEPS, Demand, Tolerance, best, fit

IntArray = NDArray[np.intp]

# int8 has as many codes, and a compressed layer takes as many pieces.
CODES = 256
# How far the start is tilted towards the degree-2 part of the activation, nearest first.
TILTS = (0.0, 0.1, 0.25, 0.5, 0.75)
# The start looks at the activation where ξ has all but 1e-14 of its mass.
_REACH = 8.0
_MOST_HALVINGS = 7
_LLOYD_STEPS = 60


@frozen(eq=False)
class Staircase:
    """A piecewise-constant function of ξ ~ N(0, 1): thresholds ``x``, increasing, and levels.

    ``pieces`` (T + 1,) names the level of each piece. Where ``uniform``, levels are integer codes
    that stay fixed: a fit then moves thresholds only.
    """

    x: FloatArray
    pieces: IntArray
    levels: FloatArray
    uniform: bool = False
    depth: ClassVar[int] = 1

    @property
    def unknowns(self) -> FloatArray:
        """What a fit may move: thresholds, then levels unless their grid is fixed."""
        return self.x.copy() if self.uniform else np.concatenate([self.x, self.levels])

    def at(self, unknowns: FloatArray) -> Staircase:
        """The staircase with other unknowns."""
        x, levels = unknowns[: len(self.x)], unknowns[len(self.x) :]
        return Staircase(x, self.pieces, self.levels if self.uniform else levels, self.uniform)

    def ordered(self, unknowns: FloatArray) -> FloatArray:
        """The unknowns with thresholds that crossed put together: a piece may shrink to nothing."""
        x, levels = unknowns[: len(self.x)], unknowns[len(self.x) :]
        rising, falling = np.maximum.accumulate(x), np.minimum.accumulate(x[::-1])[::-1]
        return np.concatenate([(rising + falling) / 2, levels])

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """(mean, c₁, c₂, c_s, v) and its Jacobian (5, unknowns).

        ``c₁ = E[ξσ]``, ``c₂ = E[(ξ² − 1)σ]/√2``, ``c_s = E[(ξ² − 1)(σ − Eσ)²]``, ``v = Var σ``.

        With a weight w = 1, ξ or (ξ² − 1)/√2, ``E[wσ] = Σ_i value_i E[w; piece i]``. Moving
        threshold j changes it by ``w φ(x_j) (value_j − value_{j+1})``; and E[wσ²] likewise.
        """
        x, value, root = self.x, self.levels[self.pieces], np.sqrt(2.0)
        at_x, edges = np.empty((3, len(x))), np.zeros((2, len(x) + 2))
        at_x[0] = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        at_x[1] = x * at_x[0]
        at_x[2] = (x * at_x[1] - at_x[0]) / root
        # −φ and −xφ/√2 are the integrals of ξφ and (ξ² − 1)φ/√2.
        edges[0, 1:-1], edges[1, 1:-1] = at_x[0], at_x[1] / root
        in_piece = np.vstack([cell_probabilities(x), edges[:, :-1] - edges[:, 1:]])
        drop, of_level = value[:-1] - value[1:], np.eye(len(self.levels))[self.pieces]
        mean, c1, c2 = in_piece @ value
        jacobian = np.empty((5, len(x) + len(self.levels)))
        jacobian[:3] = np.hstack([at_x * drop, in_piece @ of_level])
        # The same of σ², for the weights 1 and (ξ² − 1)/√2.
        at_x, in_piece = at_x[[0, 2]], in_piece[[0, 2]]
        power, tail = in_piece @ value**2
        d_power, d_tail = np.hstack(
            [at_x * (drop * (value[:-1] + value[1:])), (2 * in_piece * value) @ of_level]
        )
        out = np.array([mean, c1, c2, root * (tail - 2 * mean * c2), power - mean**2])
        jacobian[3] = root * (d_tail - 2 * c2 * jacobian[0] - 2 * mean * jacobian[2])
        jacobian[4] = d_power - 2 * mean * jacobian[0]
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
        x, pieces = without_closed(self.x, self.pieces)
        return Quantized(tuple(tau * x), tuple(levels[pieces]))


@frozen(eq=False)
class Layer:
    """What is asked for: m levels in place of an activation with moments ``g`` at its scale."""

    activation: AnyActivation
    g: GaussianMoments
    m: int
    uniform: bool = False


def demanded_shares(g: GaussianMoments, tau: float | None = None) -> FloatArray:
    """(c₁/√v, c₂/√v, c_s/(2v)) of σ(τξ) with d1, d2, (σ²)'' and v of ``g``: ±√r₁, ±√r₂ and g."""
    tau, root = g.tau if tau is None else tau, np.sqrt(g.variance)
    gain = tau**2 * g.square_d2 / (2 * g.variance)
    return np.array([tau * g.d1 / root, tau**2 * g.d2 / (np.sqrt(2) * root), gain])


def starts(layer: Layer, tilts: Sequence[float] = TILTS) -> Iterator[Staircase]:
    """Staircases with m levels to start a fit from, the nearest to the activation first.

    Each quantises ``(1 − s) σ + s P₂σ``: the activation tilted towards its own part of degree 2,
    the only part the equivalents see. A monotone activation is cut into m pieces first; then into
    the pieces that the m values of an optimal quantiser (Lloyd–Max) ask for. A piecewise-constant
    activation that has few enough levels comes first itself.
    """
    activation, g, m, uniform = layer.activation, layer.g, layer.m, layer.uniform
    if isinstance(activation, Quantized):
        levels, pieces = np.unique(activation.levels, return_inverse=True)
        few = len(levels) <= (min(m, 2) if uniform else m)
        if few and len(pieces) <= max(m, CODES):
            scaled = np.arange(len(levels)) * 1.0 if uniform else levels / np.sqrt(g.variance)
            levels = np.asarray(scaled, np.float64)
            yield Staircase(np.array(activation.thresholds) / g.tau, pieces, levels, uniform)
    xi, weight, value = sampled(activation, g)
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


def panels_at(tau: float) -> int:
    """Halvings of the panels for an activation of τξ; they change at no round τ, where a last digit
    would decide which start is taken."""
    return int(np.clip(round(np.log2(tau) + 2.2), 2, _MOST_HALVINGS))


def sampled(
    activation: AnyActivation, g: GaussianMoments
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Nodes ξ, weights, and the activation there less its mean, in units of its deviation."""
    xi, weight = gaussian_panels(activation.breakpoints, g.tau, panels_at(g.tau))
    inside = np.abs(xi) < _REACH
    xi, weight = xi[inside], weight[inside]
    value = np.asarray(activation(g.tau * xi), np.float64)
    return xi, weight, (value - g.mean) / np.sqrt(g.variance)


def one_value(activation: AnyActivation, tau: float) -> ValueError:
    """The error where there is nothing to quantise."""
    return ValueError(
        f"activation {activation.name!r} has one value where its input, of standard "
        f"deviation {tau:.3g}, has all but 1e-14 of its mass: no staircase is near it"
    )


def fit_layer(layer: Layer) -> tuple[Staircase, float]:
    """The m-level staircase with the shares of an activation, or the nearest; and the residual."""
    demand = Demand(demanded_shares(layer.g))
    fits = []
    for start in starts(layer):
        fits.append(fit(start, demand, SCREENING_STEPS))
        if fits[-1][1] < Tolerance.SOLVED:
            return fits[-1]
    if not fits:
        raise one_value(layer.activation, layer.g.tau)
    nearest, _ = best(fits, lambda found: found[1])
    return fit(nearest, demand)


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
    x, pieces = drop_slivers(x, pieces, max(m, CODES))
    used, pieces = np.unique(pieces, return_inverse=True)
    return Staircase(x, pieces, levels[used], uniform) if len(used) > 1 else None


def crossings(value: FloatArray, cuts: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
    """Where consecutive values have cuts between them: from which value on, which cut; and the cell
    of each piece."""
    cell = np.searchsorted(cuts, value)
    places, cut, pieces = [], [], [cell[0]]
    for i in np.flatnonzero(np.diff(cell)):
        a, b = cell[i], cell[i + 1]
        for c in range(a, b) if b > a else range(a - 1, b - 1, -1):
            places.append(i)
            cut.append(c)
            pieces.append(c + (b > a))
    return np.array(places, np.intp), np.array(cut, np.intp), np.array(pieces)


def _preimages(xi: FloatArray, value: FloatArray, cuts: FloatArray) -> tuple[FloatArray, IntArray]:
    """Where the value crosses the cuts, by linear interpolation, and the cell of each piece."""
    i, c, pieces = crossings(value, cuts)
    part = (cuts[c] - value[i]) / (value[i + 1] - value[i])
    return xi[i] + part * (xi[i + 1] - xi[i]), pieces


def drop_slivers(x: FloatArray, pieces: IntArray, most: int) -> tuple[FloatArray, IntArray]:
    """Merge pieces of next to no probability into a neighbour, and the least of too many."""
    while len(x) > 1:
        mass = cell_probabilities(x)
        i = int(np.argmin(mass))
        if mass[i] > Tolerance.SLIVER and len(mass) <= most:
            break
        x, pieces = np.delete(x, max(i - 1, 0)), np.delete(pieces, i)
        x, pieces = _merge_equal(x, pieces)
    return x, pieces


def without_closed(x: FloatArray, pieces: IntArray) -> tuple[FloatArray, IntArray]:
    """Thresholds and pieces without those pieces whose ends have met."""
    gone = np.flatnonzero(np.diff(x) < Tolerance.MET)
    return _merge_equal(np.delete(x, gone), np.delete(pieces, gone + 1))


def _merge_equal(x: FloatArray, pieces: IntArray) -> tuple[FloatArray, IntArray]:
    same = np.flatnonzero(np.diff(pieces) == 0)
    return np.delete(x, same), np.delete(pieces, same)
