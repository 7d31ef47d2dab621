"""Which staircases to fit, from where, and to what: the search behind ``match``.

Every layer on its own if that is exact; else all layers together, every demand from every start
before a demand is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from .activations import AnyActivation, Quantized
from .fitting import (
    fit_layer,
    fit_network,
    fit_network_evenly,
    fit_network_up_to_scale,
    least,
    network_errors,
    network_shares,
    network_starts,
)
from .moments import GaussianMoments, gaussian_moments
from .published import sigma_q_solution, sigma_t_solutions
from .quantizers import SOLVED, Staircase, demanded_shares

FloatArray = NDArray[np.float64]
Layers = list[Staircase]

# Of (α̂₁, α̂₂, α̂₃, α̂₄, β̂₂, β̂₃): all; what enters a kernel; what enters the conjugate kernel.
_DEMANDS = ([0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2])
# Coefficients smaller than this part of their natural scale count as 0.
ZERO = 1e-6
CODES = 256
# Without a root, as many coefficients as can be are brought below this relative error.
_CLOSE = 1e-2
# Errors of what is kept weigh by its inverse more than errors of the rest.
_KEPT = 1e-3


def matched(
    acts: Sequence[AnyActivation],
    moments: Sequence[GaussianMoments],
    counts: Sequence[int],
    uniform: bool,
    ridge: bool,
    hopeless: bool,
) -> list[Quantized]:
    """Activations with ``counts`` levels in place of ``acts``, exact if a way is found.

    ``hopeless``: there is a proof that none can be, so that the search for it is left out.
    ``ridge``: without a way, keep the ratios of α₁, α₂, α₃, β₂, β₃ and let the variance grow.
    """
    layers, part, _ = _search(acts, moments, counts, uniform, ridge, hopeless)
    variances = [g.variance for g in moments]
    variances[-1] /= part
    return [
        stair.activation(g.tau, g.mean, v)
        for stair, g, v in zip(layers, moments, variances, strict=True)
    ]


def _search(
    acts: Sequence[AnyActivation],
    moments: Sequence[GaussianMoments],
    counts: Sequence[int],
    uniform: bool,
    ridge: bool,
    hopeless: bool,
) -> tuple[Layers, float, float]:
    """(layers, part, residual): ``part`` of α̂₁, α̂₂, α̂₃ is kept, with this residual."""
    fits = [fit_layer(a, g, m, uniform) for a, g, m in zip(acts, moments, counts, strict=True)]
    alone = [stair for stair, _ in fits]
    residual = max(residual for _, residual in fits)
    if residual < SOLVED:
        return alone, 1.0, residual
    target = network_shares([demanded_shares(g) for g in moments])
    scale = np.where(np.abs(target) < ZERO, 1.0, np.abs(target))
    others = () if hopeless else network_starts(acts, moments, counts, uniform)
    fitted = []
    for start in chain([alone], others):
        fitted.append(fit_network(start, target, scale, _DEMANDS[0]))
        if fitted[-1][1] < SOLVED:
            return fitted[-1][0], 1.0, fitted[-1][1]
    if not hopeless:
        root = _root(fitted, target, scale)
        if root is not None:
            return root, 1.0, 0.0
    if ridge:
        starts = [layers for layers, _ in fitted] + _sigma_t_chain(moments, uniform)
        solved = []
        if not uniform:
            # Levels on a grid are levels: free ones start from them too, and do no worse.
            few = [min(m, CODES) for m in counts]
            gridded, part, residual = _search(acts, moments, few, True, True, hopeless)
            starts.append([replace(stair, uniform=False) for stair in gridded])
            solved.append((starts[-1], part, residual))
        solved += [fit_network_up_to_scale(s, target, scale, _DEMANDS[1]) for s in starts]
        solved = [fit for fit in solved if fit[2] < SOLVED]
        if solved:
            return least(solved, lambda fit: -fit[1])
    nearest, residual = least(fitted, lambda fit: fit[1])
    return nearest if hopeless else _close([nearest, alone], target, scale), 1.0, residual


def _root(
    fitted: list[tuple[Layers, float]], target: FloatArray, scale: FloatArray
) -> Layers | None:
    """Layers that meet the second demand or else the third, and miss the rest by little."""

    def worst(layers: Layers) -> float:
        return float(np.max(np.abs(network_errors(layers, target, scale))))

    for rows in _DEMANDS[1:]:
        fitted = [fit_network(layers, target, scale, rows) for layers, _ in fitted]
        roots = [layers for layers, miss in fitted if miss < SOLVED]
        if not roots:
            continue
        weighted = scale.copy()
        weighted[rows] *= _KEPT
        for fit in (_fit_all, fit_network_evenly):
            # To the others' targets without leaving the roots, and back on to them.
            nearer = [fit(root, target, weighted, _DEMANDS[0]) for root in roots]
            back = [fit_network(layers, target, scale, rows) for layers in nearer]
            roots += [layers for layers, miss in back if miss < SOLVED]
            roots = [least(roots, worst)]
            if worst(roots[0]) < _CLOSE or len(rows) > 3:
                break
        return roots[0]
    return None


def _fit_all(layers: Layers, target: FloatArray, scale: FloatArray, rows: Sequence[int]) -> Layers:
    return fit_network(layers, target, scale, rows)[0]


def _close(starts: Sequence[Layers], target: FloatArray, scale: FloatArray) -> Layers:
    """No root: the largest of the errors as small as can be, of as many coefficients as can be."""
    for rows in _DEMANDS:

        def worst(layers: Layers, rows: Sequence[int] = rows) -> float:
            return float(np.max(np.abs(network_errors(layers, target, scale)[rows])))

        fits = [fit_network(layers, target, scale, rows) for layers in starts]
        # Never is the largest error less than the root mean square of the least squares.
        if rows != _DEMANDS[-1] and min(fits, key=itemgetter(1))[1] > _CLOSE * np.sqrt(len(rows)):
            continue
        even = [fit_network_evenly(layers, target, scale, rows) for layers, _ in fits]
        best = least(even, worst)
        if worst(best) < _CLOSE:
            break
    return best


def _sigma_t_chain(moments: Sequence[GaussianMoments], uniform: bool) -> list[Layers]:
    """The chain of σ_T, if it exists: it keeps the ratios, though at a large Δρ."""
    layers = []
    tau = moments[0].tau
    for g in moments:
        solution = next(iter(sigma_t_solutions(g, tau)), None)
        if solution is None:
            return []
        x = np.array(solution.thresholds) / tau
        levels = np.array([0.0, np.sign(solution.levels[0])])
        layers.append(Staircase(x, np.array([1, 0, 1]), levels, uniform))
        tau = float(np.sqrt(gaussian_moments(solution, tau).variance))
    return [layers]


def published(
    acts: Sequence[AnyActivation], moments: Sequence[GaussianMoments]
) -> tuple[list[Quantized], str]:
    """σ_T, …, σ_T, σ_Q, each at the scale the layers before it leave; and what is missing."""
    found: list[Quantized] = []
    missing: list[str] = []
    tau = moments[0].tau
    for layer, (activation, g) in enumerate(zip(acts, moments, strict=True), start=1):
        if layer < len(acts):
            name, m, step = "sigma_t", 2, next(iter(sigma_t_solutions(g, tau)), None)
        else:
            name, m, step = "sigma_q", 3, sigma_q_solution(activation, g, tau)
        if step is None:
            missing.append(f"no {name} with the d1², d2² and (σ²)'' of layer {layer}")
            step = fit_layer(activation, g, m, False)[0].activation(tau, g.mean, g.variance)
        found.append(step)
        tau = float(np.sqrt(gaussian_moments(step, tau).variance))
    return found, "; ".join(missing)
