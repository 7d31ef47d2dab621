"""Fitting staircases to the shares of an activation, or of a whole network.

Every solver here is deterministic: a fixed list of starts and minimum-norm Levenberg–Marquardt
steps, which turn into Newton's method as the residual goes to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .activations import AnyActivation, activation
from .moments import GaussianMoments, gaussian_moments
from .quantizers import SOLVED, Staircase, demanded_shares, linear_share_bound, starts

FloatArray = NDArray[np.float64]
Evaluated = tuple[FloatArray, FloatArray]
Residual = Callable[[FloatArray], Evaluated]
Repair = Callable[[FloatArray], FloatArray]
T = TypeVar("T")

_SCREENING_STEPS = 25
_STEPS = 200
_PULL = 1e-3
_BEND = 0.02
# A relative difference that counts when two fits are compared: rounding must decide nothing.
_FALL = 1e-10
# Unknowns are rounded to these parts of the residual and of 1: see :func:`levenberg`.
_GRAIN = 2.0**-20
_FLOOR = 2.0**-27
_SHORT = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def levenberg(
    residual: Residual,
    unknowns: FloatArray,
    repair: Repair,
    steps: int,
    stall: float = 1e-8,
    floor: float = 0.0,
) -> tuple[FloatArray, float]:
    """Least squares by minimum-norm Levenberg–Marquardt steps; (unknowns, norm of the residual).

    ``residual`` returns e (k,) and its Jacobian (k, n); ``repair`` brings a trial step back to
    where it is defined. Steps end when one takes less than ``stall`` of the sum of squares off.

    Where there are more unknowns than residuals, steps along directions that hardly matter magnify
    the last digits, which depend on the processor, a little more each time. So every step ends on
    a grid 2⁻²⁰ of the residual wide, ``floor`` at least (both in units of the residual): last
    digits are dropped before they can grow.
    """
    e, jacobian = residual(unknowns)
    damping = 1e-3
    for _ in range(steps):
        if e @ e < 1e-31:
            break
        accepted = False
        # Not by J Jᵀ, whose small eigenvalues are rounding where J loses rank.
        left, size, right = np.linalg.svd(jacobian, full_matrices=False)
        grain = _grain(e, jacobian, floor)
        while not accepted and damping < 1e8:
            step = (size / (size**2 + damping) * (e @ left)) @ right
            trial = repair(np.round((unknowns - step) / grain) * grain)
            # A trial may lose all its variance: its residual is then NaN, and never less.
            with np.errstate(divide="ignore", invalid="ignore"):
                new_e, new_jacobian = residual(trial)
            accepted = bool(new_e @ new_e < (1 - _FALL) * (e @ e))
            damping = damping / 10 if accepted else max(damping, 1e-12) * 4
        if not accepted:
            break
        stalled = e @ e - new_e @ new_e < stall * (e @ e)
        unknowns, e, jacobian = trial, new_e, new_jacobian
        damping = max(damping, 1e-15)
        if stalled:
            break
    return unknowns, float(np.sqrt(e @ e))


def _grain(e: FloatArray, jacobian: FloatArray, floor: float) -> float:
    """A power of 2: unknowns moved by it move the residual by next to nothing of its size."""
    size = max(_GRAIN * float(np.linalg.norm(e)), floor)
    return float(2.0 ** np.floor(np.log2(size / max(float(np.linalg.norm(jacobian)), size))))


def least(candidates: Sequence[T], cost: Callable[[T], float]) -> T:
    """The first of the candidates than which none is better by more than rounding."""
    best, lowest = candidates[0], cost(candidates[0])
    for candidate in candidates[1:]:
        value = cost(candidate)
        if value < lowest - _FALL * abs(lowest):
            best, lowest = candidate, value
    return best


def fit_shares(stair: Staircase, target: FloatArray, steps: int) -> tuple[Staircase, float]:
    """The staircase moved until its shares are ``target`` (3,); and the residual."""

    def residual(unknowns: FloatArray) -> Evaluated:
        value, jacobian = stair.at(unknowns).shares()
        return value - target, jacobian

    unknowns, norm = levenberg(residual, stair.unknowns, stair.ordered, steps)
    return stair.at(unknowns), norm


def fit_up_to_scale(stair: Staircase, target: FloatArray) -> tuple[Staircase, float, float]:
    """The staircase with d1, d2, (σ²)'' as demanded and the least variance found.

    Returns (staircase, t, residual). Its shares are (t, t, t²) times ``target``, t ≤ 1 as large as
    found: the variance is 1/t² of that which ``target`` stands for.
    """
    powers = np.array([1.0, 1.0, 2.0])

    def residual(unknowns: FloatArray) -> Evaluated:
        value, jacobian = stair.at(unknowns[:-1]).shares()
        t = unknowns[-1]
        return value - t**powers * target, np.column_stack(
            [jacobian, -powers * t ** (powers - 1) * target]
        )

    unknowns, t, norm = _largest_part(residual, stair.unknowns, 0.5, stair.ordered)
    return stair.at(unknowns), t, norm


def _largest_part(
    residual: Residual, unknowns: FloatArray, t: float, repair: Repair
) -> tuple[FloatArray, float, float]:
    """The largest t ≤ 1 at which ``residual([unknowns, t])`` has a root; (unknowns, t, residual).

    A weak pull on 1 − t beside the residual finds t to about the square of the pull; then t is
    taken back until Levenberg–Marquardt reaches the root.
    """

    def pulled(z: FloatArray) -> Evaluated:
        e, jacobian = residual(z)
        pull = np.zeros(len(z))
        pull[-1] = -_PULL
        return np.append(e, _PULL * (1 - z[-1])), np.vstack([jacobian, pull])

    def repaired(z: FloatArray) -> FloatArray:
        return np.append(repair(z[:-1]), max(z[-1], 0.0))

    z, _ = levenberg(pulled, np.append(unknowns, t), repaired, 2 * _STEPS, stall=1e-9, floor=_FLOOR)
    most = min(float(z[-1]), 1.0)
    # Two roots meet at the largest t, where a last digit of t moves them by its square root.
    for short in (0.0, *_SHORT) if most == 1.0 else _SHORT:
        t = most * (1 - short)

        def at_t(inner: FloatArray, t: float = t) -> Evaluated:
            e, jacobian = residual(np.append(inner, t))
            return e, jacobian[:, :-1]

        out, norm = levenberg(at_t, z[:-1], repair, _STEPS)
        if norm < SOLVED:
            break
    return out, t, norm


def fit_layer(
    original: AnyActivation, g: GaussianMoments, m: int, uniform: bool = False
) -> tuple[Staircase, float]:
    """The m-level staircase with the shares of ``original``, or the nearest; and the residual."""
    target = demanded_shares(g)
    fits = []
    for start in starts(original, g, m, uniform):
        fits.append(fit_shares(start, target, _SCREENING_STEPS))
        if fits[-1][1] < SOLVED:
            return fits[-1]
    nearest, _ = least(fits, lambda fit: fit[1])
    return fit_shares(nearest, target, _STEPS)


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


def network_starts(
    activations: Sequence[AnyActivation],
    moments: Sequence[GaussianMoments],
    levels: Sequence[int],
    uniform: bool,
) -> Iterator[list[Staircase]]:
    """Staircases for all layers to start a joint fit from, where layers on their own do not do.

    First each as close to its activation's degree-2 part as m levels allow; then the nonlinearity
    in the first layer and the others as linear as they can be: the most α₃ that α₁ leaves room for.
    """
    layers = list(zip(activations, moments, levels, strict=True))
    yield [next(starts(a, g, m, uniform, (1.0,))) for a, g, m in layers]
    target = network_shares([demanded_shares(g) for g in moments])
    if target[0] < 1e-9:
        return
    # r₂ does not change to first order where it is 0: a bend lets the others leave the line.
    bent = activation(lambda t: t + _BEND * t**2, name="bent")
    unit = gaussian_moments(bent, 1.0)
    others = [next(starts(bent, unit, m, uniform)) for m in levels[1:]]
    rest = np.prod([linear_share_bound(m) for m in levels[1:]])
    a, g, m = layers[0]
    wanted = np.array([np.sqrt(target[0] / rest), np.sqrt(target[2] / rest), g.norm_gain])
    wanted *= [np.sign(g.d1), np.sign(g.d2) or 1.0, 1.0]
    first = next(starts(a, g, m, uniform, (1.0,)))
    yield [fit_shares(first, wanted, _STEPS)[0], *others]


def fit_network(
    stairs: Sequence[Staircase], target: FloatArray, scale: FloatArray, rows: Sequence[int]
) -> tuple[list[Staircase], float]:
    """All layers moved together to the least relative errors of the network's coefficients.

    ``target`` and ``scale`` (6,): the coefficients of :func:`network_shares` wanted, and what their
    errors are divided by; ``rows`` which of them count.
    """
    network = _Network(stairs)

    def residual(unknowns: FloatArray) -> Evaluated:
        value, jacobian = network.shares(unknowns)
        return ((value - target) / scale)[rows], (jacobian / scale[:, None])[rows]

    unknowns, norm = levenberg(residual, network.unknowns, network.ordered, _STEPS)
    return network.layers(unknowns), norm


def network_errors(
    stairs: Sequence[Staircase], target: FloatArray, scale: FloatArray
) -> FloatArray:
    """(6,) errors of the network's coefficients in units of ``scale``."""
    return (network_shares([stair.shares()[0] for stair in stairs]) - target) / scale


def fit_network_evenly(
    stairs: Sequence[Staircase], target: FloatArray, scale: FloatArray, rows: Sequence[int]
) -> list[Staircase]:
    """As :func:`fit_network` for a demand that cannot be met: the largest error made small.

    Least sums of powers 4, 8, …, 64 of the errors, one from the other; the last is within 3% of
    the largest of six errors.
    """
    stairs = list(stairs)
    for power in (2, 4, 8, 16, 32):
        network = _Network(stairs)
        unit = scale * np.max(np.abs(network_errors(stairs, target, scale)[rows]))

        def residual(
            unknowns: FloatArray,
            network: _Network = network,
            unit: FloatArray = unit,
            q: int = power,
        ) -> Evaluated:
            value, jacobian = network.shares(unknowns)
            e = ((value - target) / unit)[rows]
            steep = np.abs(e) ** (q - 1)
            return e * steep, (q * steep)[:, None] * (jacobian / unit[:, None])[rows]

        unknowns, _ = levenberg(residual, network.unknowns, network.ordered, _STEPS)
        stairs = network.layers(unknowns)
    return stairs


def fit_network_up_to_scale(
    stairs: Sequence[Staircase], target: FloatArray, scale: FloatArray, rows: Sequence[int]
) -> tuple[list[Staircase], float, float]:
    """As :func:`fit_network` for t · ``target``, t ≤ 1 as large as found; (layers, t, residual)."""
    network = _Network(stairs)

    def residual(z: FloatArray) -> Evaluated:
        value, jacobian = network.shares(z[:-1])
        columns = np.column_stack([jacobian, -target]) / scale[:, None]
        return ((value - z[-1] * target) / scale)[rows], columns[rows]

    now = (network.shares(network.unknowns)[0] / scale)[rows]
    wanted = (target / scale)[rows]
    t = min(float(now @ wanted / (wanted @ wanted)), 1.0)
    unknowns, t, norm = _largest_part(residual, network.unknowns, t, network.ordered)
    return network.layers(unknowns), t, norm


class _Network:
    """Staircases, one for each layer, as one vector of unknowns."""

    def __init__(self, stairs: Sequence[Staircase]) -> None:
        self._stairs = stairs
        self._cuts = np.cumsum([len(s.unknowns) for s in stairs])[:-1]
        self.unknowns = np.concatenate([s.unknowns for s in stairs])

    def layers(self, unknowns: FloatArray) -> list[Staircase]:
        parts = np.split(unknowns, self._cuts)
        return [s.at(part) for s, part in zip(self._stairs, parts, strict=True)]

    def ordered(self, unknowns: FloatArray) -> FloatArray:
        parts = np.split(unknowns, self._cuts)
        return np.concatenate(
            [s.ordered(part) for s, part in zip(self._stairs, parts, strict=True)]
        )

    def shares(self, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coefficients of :func:`network_shares` and their Jacobian (6, unknowns)."""
        parts = [s.shares() for s in self.layers(unknowns)]
        shares = np.stack([value for value, _ in parts])
        value = network_shares(shares)
        # Complex steps, all at once: the recursion is polynomial, so its derivative is exact.
        size = shares.size
        shifted = shares[:, :, None] + 1e-30j * np.eye(size).reshape(*shares.shape, size)
        inner = np.split(network_shares(shifted).imag / 1e-30, len(parts), axis=1)
        columns = [slope @ jacobian for slope, (_, jacobian) in zip(inner, parts, strict=True)]
        return value, np.hstack(columns)
