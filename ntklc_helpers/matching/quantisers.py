"""The quantisers of least mean squared error, free (Lloyd, Max) and uniform: matched to nothing.

What one would take without a theory of kernels. For ξ ~ N(0, 1), levels l₁ < … < l_m are to make
``E min_j (σ(τξ) − l_j)²`` least: thresholds are then where σ is midway between two levels, and free
levels are the means of σ on their pieces. S. P. Lloyd, IEEE Trans. Inf. Theory 28 (1982); J. Max,
IRE Trans. Inf. Theory 6 (1960), both tables of which are in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from scipy.ndimage import maximum_filter
from scipy.optimize.elementwise import find_root
from scipy.special import ndtr

from .._checks import FloatArray
from ..theory.activations import Activation, AnyActivation, Quantized
from ..theory.gaussian import GaussianMoments, gaussian_panels
from ..theory.moments import gaussian_moments
from .bounds import binned, optimal_partitions
from .solve import best
from .staircases import (
    CODES,
    IntArray,
    crossings,
    demanded_shares,
    drop_slivers,
    one_value,
    panels_at,
    sampled,
    without_closed,
)

Tilt = tuple[float, float]

# Where the ends of a uniform grid are looked for first: at these quantiles of the activation.
_QUANTILES = ndtr(np.linspace(-6.0, 6.0, 97))
_STARTS = 2
_STEPS = 50
_KEPT = (1.0, 0.99, 0.9, 0.5, 0.0)
# A step that no longer shrinks is rounding where it is below the first, none below the second.
_SMALL, _NONE = 1e-6, 1e-14


def quantisers(
    activations: Sequence[AnyActivation],
    tau0: float,
    counts: Sequence[int],
    uniform: bool,
    tilts: Sequence[Tilt] | None = None,
) -> list[Quantized]:
    """Each layer's quantiser of least error at the scale that the quantised layers before it leave.

    ``counts``: numbers of levels. ``uniform``: levels are equally spaced. ``tilts``: of what is
    quantised; (s, t) takes (σ − m)/√v to (1 − s − t)(σ − m)/√v ± s ξ ± t (ξ² − 1)/√2, with the
    signs of σ's own linear and quadratic part.
    """
    found, tau = [], tau0
    for i, (activation, m) in enumerate(zip(activations, counts, strict=True)):
        g = gaussian_moments(activation, tau)
        target = activation
        if tilts is not None and any(tilts[i]):
            target = _tilted(activation, g, tilts[i])
            g = gaussian_moments(target, tau)
        found.append(quantiser(target, g, m, uniform))
        tau = float(np.sqrt(gaussian_moments(found[-1], tau).variance))
    return found


def _tilted(activation: AnyActivation, g: GaussianMoments, tilt: Tilt) -> Activation:
    linear, quadratic, _ = np.copysign(1.0, demanded_shares(g))
    (s, t), dev = tilt, g.variance**0.5
    first, second = float(linear) * s * dev, float(quadratic) * t * dev / 2**0.5

    def value(x: torch.Tensor) -> torch.Tensor:
        xi = x / g.tau
        return g.mean + (1 - s - t) * (activation(x) - g.mean) + first * xi + second * (xi**2 - 1)

    def derivative(x: torch.Tensor) -> torch.Tensor:
        return (1 - s - t) * activation.derivative(x) + (first + 2 * second * x / g.tau) / g.tau

    name = f"{activation.name}, tilted"
    return Activation(name, value, activation.breakpoints, derivative_function=derivative)


def quantiser(activation: AnyActivation, g: GaussianMoments, m: int, uniform: bool) -> Quantized:
    """The m-level quantiser of least error of an activation with moments ``g``.

    Fewer levels where it has fewer values, or m levels are more pieces than a layer takes.
    """
    xi, weight, value = sampled(activation, g)
    if np.ptp(value) == 0:
        raise one_value(activation, g.tau)
    rows = binned(value[:, None], weight[:, None])
    basis: FloatArray
    if uniform:
        starts, basis = _uniform_starts(rows, m), np.vander(np.arange(m), 2).astype(np.float64)
    else:
        m = min(m, rows.shape[1])
        # The best partition of the bins there is, so that no other start is needed.
        starts, basis = [optimal_partitions(rows, m)[1]], np.eye(m)
    law = _Law(activation, g, xi, value)
    cells = best([_least(law, start, basis) for start in starts], lambda cells: cells.error)
    x, pieces = without_closed(cells.x, cells.pieces)
    if len(pieces) > CODES:
        x, pieces = drop_slivers(x, pieces, len(pieces) if m > 2 else CODES)
    if len(pieces) > CODES:
        return quantiser(activation, g, max(2, m * CODES // len(pieces)), uniform)
    levels = g.mean + np.sqrt(g.variance) * cells.levels
    return Quantized(tuple(g.tau * x), tuple(levels[pieces]))


def _uniform_starts(rows: FloatArray, m: int) -> list[FloatArray]:
    """Equally spaced levels, from the codes of rounding between two quantiles, the best first.

    Codes alone count: the best levels of given codes are their regression. A pair of quantiles is a
    start where no pair beside it is better, and few such pairs are.
    """
    mass, first, _ = rows
    ends = np.unique(np.interp(_QUANTILES, np.cumsum(mass), first / mass))
    low, high = ends[:, None, None], ends[None, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        code = np.clip(np.round((first / mass - low) / ((high - low) / (m - 1))), 0, m - 1)
        mean = code @ mass
        slope = (code @ first) / (code**2 @ mass - mean**2)
        explained = np.nan_to_num(slope * (code @ first), nan=-np.inf)
    explained[np.tril_indices(len(ends))] = -np.inf
    peaks = explained == maximum_filter(explained, 3, mode="nearest")
    order = np.argsort(-explained[peaks], kind="stable")[:_STARTS]
    slope, mean = slope[peaks][order], mean[peaks][order]
    return [a * (np.arange(m) - b) for a, b in zip(slope, mean, strict=True) if a > 0]


@frozen(eq=False)
class _Cells:
    """Levels, the pieces of ξ that go to each, and what the mean squared error depends on.

    ``mass`` and ``moment`` (m,) of the activation on each level's pieces; ``density`` (m − 1,) of
    its values midway between levels.
    """

    levels: FloatArray
    x: FloatArray
    pieces: IntArray
    mass: FloatArray
    moment: FloatArray
    density: FloatArray
    error: float


@frozen(eq=False)
class _Law:
    """σ(τξ), standardised, and its values on nodes that are close enough to find all crossings."""

    activation: AnyActivation
    g: GaussianMoments
    xi: FloatArray
    value: FloatArray

    def at(self, xi: FloatArray) -> FloatArray:
        value = np.asarray(self.activation(self.g.tau * xi), np.float64)
        return (value - self.g.mean) / np.sqrt(self.g.variance)

    def cells(self, levels: FloatArray) -> _Cells:
        """The cells of these levels; thresholds to rounding, integrals exact between them."""
        cuts, m, tau = (levels[1:] + levels[:-1]) / 2, len(levels), self.g.tau
        i, c, pieces = crossings(self.value, cuts)
        between = self.xi[i], self.xi[i + 1]
        found = find_root(lambda x, cut: self.at(x) - cut, between, args=(cuts[c],))
        x = found.x
        edges = np.append(self.activation.breakpoints, tau * x)
        xi, weight = gaussian_panels(edges, tau, panels_at(tau))
        value, of = self.at(xi), pieces[np.searchsorted(x, xi)]
        slope = tau / np.sqrt(self.g.variance) * np.abs(self.activation.derivative(tau * x))
        # At a jump, where no value is the cut, there is no density.
        smooth = (np.abs(found.f_x) < _SMALL) & (slope > 0)
        density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) / np.where(smooth, slope, np.inf)
        return _Cells(
            levels=levels,
            x=x,
            pieces=pieces,
            mass=np.asarray(np.bincount(of, weight, m), np.float64),
            moment=np.asarray(np.bincount(of, weight * value, m), np.float64),
            density=np.asarray(np.bincount(c, density, m - 1), np.float64),
            error=float(weight @ (value - levels[of]) ** 2),
        )


def _least(law: _Law, levels: FloatArray, basis: FloatArray) -> _Cells:
    """From these levels to those of least error among ``levels + basis @ z``.

    With cells cut midway the error D has the gradient ``2 (p_j l_j − E[σ; cell j])`` in the levels,
    and the Hessian ``2 diag p − ½ Σ_j (l_{j+1} − l_j) f_j (e_j + e_{j+1})(e_j + e_{j+1})ᵀ``, p the
    cells' mass, f the density of σ at the cuts. With the sum a step is Newton's; without, it is
    Lloyd's, which never raises D. Of the sum as much is kept as lowers D.
    """
    cells, last = law.cells(levels), np.inf
    pairs = np.eye(len(levels))[1:] + np.eye(len(levels))[:-1]
    for _ in range(_STEPS):
        gradient = basis.T @ (cells.mass * cells.levels - cells.moment)
        bend = pairs.T @ (np.diff(cells.levels)[:, None] * cells.density[:, None] / 4 * pairs)
        for kept in _KEPT:
            hessian = basis.T @ (np.diag(cells.mass) - kept * bend) @ basis
            step = basis @ np.linalg.lstsq(hessian, gradient)[0]
            if np.all(np.diff(cells.levels - step) > 0):
                moved = law.cells(cells.levels - step)
                if moved.error < cells.error * (1 + 1e-12) + _NONE:
                    break
        size = float(np.max(np.abs(step)))
        if size < _NONE or (size < _SMALL and size >= last):
            break
        cells, last = moved, size
    return cells
