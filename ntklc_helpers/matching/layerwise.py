"""Which staircases to fit, from where, and to what: the strategy of ``match``.

Every layer on its own if that is exact; else all layers together, every demand from every start
before a demand is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter

import numpy as np
from attrs import evolve, frozen

from .._checks import FloatArray
from ..theory.activations import Quantized, activation
from ..theory.moments import gaussian_moments
from .bounds import linear_share_bound
from .solve import Demand, Evaluated, Tolerance, best, fit, fit_evenly, fit_up_to_scale
from .staircases import CODES, Layer, Staircase, demanded_shares, fit_layer, starts

# Of (α̂₁, α̂₂, α̂₃, α̂₄, β̂₂, β̂₃): all; what enters a kernel; what enters the conjugate kernel.
_ALL, _BOTH_KERNELS, _CONJUGATE_KERNEL = [0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5], [0, 1, 2]

_BEND = 0.02


@frozen(eq=False)
class Network:
    """The staircases of a network, one for each layer, as one vector of unknowns."""

    layers: tuple[Staircase, ...]

    @property
    def unknowns(self) -> FloatArray:
        return np.concatenate([stair.unknowns for stair in self.layers])

    @property
    def depth(self) -> int:
        return len(self.layers)

    def _parts(self, unknowns: FloatArray) -> Iterator[tuple[Staircase, FloatArray]]:
        ends = np.cumsum([len(stair.unknowns) for stair in self.layers])
        return zip(self.layers, np.split(unknowns, ends[:-1]), strict=True)

    def at(self, unknowns: FloatArray) -> Network:
        return Network(tuple(stair.at(part) for stair, part in self._parts(unknowns)))

    def ordered(self, unknowns: FloatArray) -> FloatArray:
        return np.concatenate([stair.ordered(part) for stair, part in self._parts(unknowns)])

    def on_grid(self, uniform: bool) -> Network:
        """The same, its levels held on their grid or free."""
        return Network(tuple(evolve(stair, uniform=uniform) for stair in self.layers))

    def shares(self) -> Evaluated:
        """Coefficients of :func:`network_shares` and their Jacobian (6, unknowns)."""
        parts = [stair.shares() for stair in self.layers]
        shares = np.stack([value for value, _ in parts])
        # Complex steps, all at once: the recursion is polynomial, so its derivative is exact.
        size = shares.size
        shifted = shares[:, :, None] + 1e-30j * np.eye(size).reshape(*shares.shape, size)
        inner = np.split(network_shares(shifted).imag / 1e-30, len(parts), axis=1)
        columns = [slope @ jacobian for slope, (_, jacobian) in zip(inner, parts, strict=True)]
        return network_shares(shares), np.hstack(columns)


def network_shares(shares: Sequence[FloatArray] | FloatArray) -> FloatArray:
    """Scale-free coefficients (α̂₁, α̂₂, α̂₃, α̂₄, β̂₂, β̂₃) of a network with these layers.

    ``shares`` (L, 3) or (L, 3, …): rows (c₁/√v, c₂/√v, c_s/2v). α̂₁ = α₁τ₀²/τ_L²,
    α̂₄ = α₄τ₀²/τ_L² and α̂₂ = α₂τ₀⁴/τ_L²; the others likewise.
    β₁ = (L + 1) α₁ always, so it is left out.
    """
    a1, a2, a3, a4, b2, b3 = 1.0, 0.0, 0.0, 1.0, 0.0, 0.0
    for depth, (u, w, g) in enumerate(shares, start=1):
        r1, r2 = u * u, w * w
        b3 = r1 * b3 + 2 * r2 * a1 * (depth * a1)
        a1, a2, a3, a4 = r1 * a1, r1 * a2 + r2 / 2 * a4 * a4, r1 * a3 + r2 * a1 * a1, g * a4
        b2 = a2 + r1 * b2
        b3 = a3 + b3
    return np.array([a1, a2, a3, a4, b2, b3])


# (staircases, t, residual): t of α̂₁, α̂₂, α̂₃ is kept, with this residual.
Found = tuple[Network, float, float]


def staircases_for(
    layers: Sequence[Layer], infeasible: bool, ridge: Sequence[Staircase] | None
) -> list[Quantized]:
    """Activations with the levels that ``layers`` ask for, exact if a way is found.

    ``infeasible``: there is a proof that none can be, so that the search for it is left out.
    ``ridge``: without a way, keep the ratios of α₁, α₂, α₃, β₂, β₃ and let the variance grow, from
    these starts among others; None to have the least errors instead.
    """
    network, t, _ = _search(layers, infeasible, ridge)
    variances = [layer.g.variance for layer in layers]
    variances[-1] /= t
    return [
        stair.activation(layer.g.tau, layer.g.mean, v)
        for stair, layer, v in zip(network.layers, layers, variances, strict=True)
    ]


def _search(layers: Sequence[Layer], infeasible: bool, ridge: Sequence[Staircase] | None) -> Found:
    fits = [fit_layer(layer) for layer in layers]
    alone = Network(tuple(stair for stair, _ in fits))
    residual = max(residual for _, residual in fits)
    if residual < Tolerance.SOLVED:
        return alone, 1.0, residual
    target = network_shares([demanded_shares(layer.g) for layer in layers])
    demand = Demand(target, np.where(np.abs(target) < Tolerance.ZERO, 1.0, np.abs(target)), _ALL)
    fitted = []
    for start in chain([alone], () if infeasible else _network_starts(layers)):
        fitted.append(fit(start, demand))
        if fitted[-1][1] < Tolerance.SOLVED:
            return fitted[-1][0], 1.0, fitted[-1][1]
    tried = [network for network, _ in fitted]
    if not infeasible:
        root = _root(tried, demand)
        if root is not None:
            return root, 1.0, 0.0
    if ridge is not None:
        solved = _up_to_scale(layers, infeasible, tried, ridge, demand)
        if solved:
            return best(solved, lambda found: -found[1])
    nearest, residual = best(fitted, itemgetter(1))
    return nearest if infeasible else _close([nearest, alone], demand), 1.0, residual


def _network_starts(layers: Sequence[Layer]) -> Iterator[Network]:
    """Staircases for all layers to start a joint fit from, where layers on their own do not do.

    First each as close to its activation's degree-2 part as m levels allow; then the nonlinearity
    in the first layer and the others as linear as they can be: the most α₃ that α₁ leaves room for.
    """
    tilted = [stair for layer in layers for stair in islice(starts(layer, (1.0,)), 1)]
    if len(tilted) < len(layers):
        return
    yield Network(tuple(tilted))
    target = network_shares([demanded_shares(layer.g) for layer in layers])
    if target[0] < 1e-9:
        return
    # r₂ does not change to first order where it is 0: a bend lets the others leave the line.
    bent = activation(lambda t: t + _BEND * t**2, name="bent")
    unit = gaussian_moments(bent, 1.0)
    others = [next(starts(Layer(bent, unit, x.m, x.uniform))) for x in layers[1:]]
    rest = np.prod([linear_share_bound(x.m) for x in layers[1:]])
    g = layers[0].g
    wanted = np.array([np.sqrt(target[0] / rest), np.sqrt(target[2] / rest), g.norm_gain])
    wanted *= [np.sign(g.d1), np.sign(g.d2) or 1.0, 1.0]
    yield Network((fit(tilted[0], Demand(wanted))[0], *others))


def _root(networks: Sequence[Network], demand: Demand) -> Network | None:
    """A network that meets the second demand or else the third, and misses the rest by little."""
    for rows in (_BOTH_KERNELS, _CONJUGATE_KERNEL):
        part = evolve(demand, rows=rows)
        fitted = [fit(network, part) for network in networks]
        networks = [network for network, _ in fitted]
        roots = [network for network, miss in fitted if miss < Tolerance.SOLVED]
        if not roots:
            continue
        scale = np.array(demand.scale)
        scale[rows] *= Tolerance.KEPT
        weighted = evolve(demand, scale=scale)
        for nearer in (lambda root, goal: fit(root, goal)[0], fit_evenly):
            # To the others' targets without leaving the roots, and back on to them.
            back = [fit(nearer(root, weighted), part) for root in roots]
            roots += [network for network, miss in back if miss < Tolerance.SOLVED]
            roots = [best(roots, demand.worst)]
            if demand.worst(roots[0]) < Tolerance.CLOSE or rows is _BOTH_KERNELS:
                break
        return roots[0]
    return None


def _up_to_scale(
    layers: Sequence[Layer],
    infeasible: bool,
    tried: Sequence[Network],
    ridge: Sequence[Staircase],
    demand: Demand,
) -> list[Found]:
    """Networks with the ratios of what enters the kernels, t as large as found from each start."""
    uniform, solved = layers[0].uniform, []
    networks = [*tried, Network(tuple(ridge)).on_grid(uniform)] if ridge else [*tried]
    if not uniform:
        # Levels on a grid are levels: free ones start from them too, and do no worse.
        gridded = [evolve(layer, uniform=True, m=min(layer.m, CODES)) for layer in layers]
        network, t, residual = _search(gridded, infeasible, ridge)
        networks.append(network.on_grid(False))
        solved.append((networks[-1], t, residual))
    part = evolve(demand, rows=_BOTH_KERNELS)
    wanted = (part.target / part.scale)[part.rows]
    for start in networks:
        now = (start.shares()[0] / part.scale)[part.rows]
        t = min(float(now @ wanted / (wanted @ wanted)), 1.0)
        solved.append(fit_up_to_scale(start, part, t))
    return [found for found in solved if found[2] < Tolerance.SOLVED]


def _close(starts: Sequence[Network], demand: Demand) -> Network:
    """No root: the largest of the errors as small as can be, of as many coefficients as can be."""
    for rows in (_ALL, _BOTH_KERNELS, _CONJUGATE_KERNEL):
        part = evolve(demand, rows=rows)
        fits = [fit(start, part) for start in starts]
        # Never is the largest error less than the root mean square of the least squares.
        least = min(residual for _, residual in fits)
        if rows is not _CONJUGATE_KERNEL and least > Tolerance.CLOSE * np.sqrt(len(rows)):
            continue
        found = best([fit_evenly(network, part) for network, _ in fits], part.worst)
        if part.worst(found) < Tolerance.CLOSE:
            break
    return found
