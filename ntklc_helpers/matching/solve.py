"""Fitting staircases to the shares of an activation, or to the coefficients of a whole network.

A staircase and a network of them are fitted alike: each has a ``depth``, ``unknowns``, is made
``at`` others (``ordered``: brought back to where they are defined), and has ``shares`` with their
Jacobian. Every solver here is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from attrs import evolve, frozen

from .._checks import FloatArray

Evaluated = tuple[FloatArray, FloatArray]
T = TypeVar("T")

SCREENING_STEPS = 25
_STEPS = 200


class Tolerance:
    """Every tolerance of the matching, and why."""

    # The norm of a fit's errors that counts as a root: what rounding leaves, a hundred times over.
    SOLVED = 1e-12
    # A coefficient's relative error that counts as none: a root, seen through many layers.
    EXACT = 1e-9
    # A coefficient below this part of its natural scale is 0: a relative error means nothing.
    ZERO = 1e-6
    # Shares and moments below these are rounding: nothing is to be bounded, or matched.
    NO_SHARE, NO_MOMENT = 1e-12, 1e-13
    # What proofs keep away by: far above rounding in the bounds, far below what they decide.
    SAFETY = 1e-9
    # Without a root, as many coefficients as can be are brought below this relative error;
    CLOSE = 1e-2
    # and errors of those that are kept weigh by its inverse more than errors of the rest.
    KEPT = 1e-3
    # A relative difference that counts when two fits are compared: rounding must decide nothing.
    FALL = 1e-10
    # A fit ends when a step takes less than this off the sum of squares; beside a weak pull, less.
    STALL, PULLED_STALL = 1e-8, 1e-9
    # Unknowns are rounded to these parts of the residual and of 1: see :func:`levenberg`.
    GRAIN, FLOOR = 2.0**-20, 2.0**-27
    # How weakly a largest factor is pulled up beside a residual that must vanish, and how far it
    # is then taken back: two roots meet there, and a last digit moves them by its square root.
    PULL, TAKEN_BACK = 1e-3, (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    # A start's piece of less probability goes to a neighbour: a fit would hardly feel it.
    SLIVER = 1e-6
    # Thresholds nearer than this have met in a fit: they are one to rounding.
    MET = 1e-13


class Fitted(Protocol):
    """A staircase, or a network of them, by what a fit may move."""

    @property
    def depth(self) -> int: ...
    @property
    def unknowns(self) -> FloatArray: ...
    def at(self, unknowns: FloatArray) -> Self: ...
    def ordered(self, unknowns: FloatArray) -> FloatArray: ...
    def shares(self) -> Evaluated: ...


S = TypeVar("S", bound=Fitted)


@frozen(eq=False)
class Demand:
    """What the shares of a staircase or a network are to be, and how what is missing counts.

    Errors against ``target`` (k,) are divided by ``scale`` and raised to ``power``; ``rows`` count.
    """

    target: FloatArray
    scale: FloatArray | float = 1.0
    rows: list[int] | slice = slice(None)
    power: int = 1

    def errors(self, of: Fitted, t: float | FloatArray = 1.0) -> Evaluated:
        """Those of ``of`` against t · target, and their Jacobian."""
        value, jacobian = of.shares()
        e = ((value - t * self.target) / self.scale)[self.rows]
        jacobian = (jacobian / np.reshape(self.scale, (-1, 1)))[self.rows]
        steep = np.abs(e) ** (self.power - 1)
        return e * steep, (self.power * steep)[:, None] * jacobian

    def worst(self, of: Fitted) -> float:
        return float(np.max(np.abs(self.errors(of)[0])))


def levenberg(
    residual: Callable[[FloatArray], Evaluated],
    unknowns: FloatArray,
    repair: Callable[[FloatArray], FloatArray],
    steps: int,
    stall: float = Tolerance.STALL,
    floor: float = 0.0,
) -> tuple[FloatArray, float]:
    """Least squares by minimum-norm Levenberg–Marquardt steps; (unknowns, norm of the residual).

    ``residual`` returns e (k,) and its Jacobian (k, n); ``repair`` brings a trial step back to
    where it is defined. Steps end when one takes less than ``stall`` of the sum of squares off.

    Where there are more unknowns than residuals, steps along directions that hardly matter magnify
    the last digits, which depend on the processor, a little more each time: with
    ``scipy.optimize.least_squares`` two machines end in different staircases. So every step ends on
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
        # A power of 2: unknowns moved by it move the residual by next to nothing of its size.
        least = max(Tolerance.GRAIN * float(np.linalg.norm(e)), floor)
        grain = 2.0 ** np.floor(np.log2(least / max(float(np.linalg.norm(jacobian)), least)))
        while not accepted and damping < 1e8:
            step = (size / (size**2 + damping) * (e @ left)) @ right
            trial = repair(np.round((unknowns - step) / grain) * grain)
            # A trial may lose all its variance: its residual is then NaN, and never less.
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                new_e, new_jacobian = residual(trial)
                accepted = bool(new_e @ new_e < (1 - Tolerance.FALL) * (e @ e))
            damping = damping / 10 if accepted else max(damping, 1e-12) * 4
        if not accepted:
            break
        stalled = e @ e - new_e @ new_e < stall * (e @ e)
        unknowns, e, jacobian = trial, new_e, new_jacobian
        damping = max(damping, 1e-15)
        if stalled:
            break
    return unknowns, float(np.sqrt(e @ e))


def best(candidates: Sequence[T], cost: Callable[[T], float]) -> T:
    """The first of the candidates than which none costs less by more than rounding."""
    found, lowest = candidates[0], cost(candidates[0])
    for candidate in candidates[1:]:
        value = cost(candidate)
        if value < lowest - Tolerance.FALL * abs(lowest):
            found, lowest = candidate, value
    return found


def fit(start: S, demand: Demand, steps: int | None = None) -> tuple[S, float]:
    """``start`` moved to the least squares of the errors; and their norm."""

    def residual(z: FloatArray) -> Evaluated:
        return demand.errors(start.at(z))

    steps = _most_steps(start) if steps is None else steps
    unknowns, norm = levenberg(residual, start.unknowns, start.ordered, steps)
    return start.at(unknowns), norm


def _most_steps(start: Fitted) -> int:
    """A step costs as much as there are layers: with many of them, fewer steps."""
    return max(_STEPS * 5 // max(start.depth, 5), SCREENING_STEPS)


def fit_evenly(start: S, demand: Demand) -> S:
    """``start`` moved for a demand that cannot be met: the largest error made small.

    Least sums of powers 4, 8, …, 64 of the errors, one from the other; the last is within 3% of
    the largest of six errors.
    """
    for power in (2, 4, 8, 16, 32):
        unit = demand.scale * demand.worst(start)
        start, _ = fit(start, evolve(demand, scale=unit, power=power))
    return start


def fit_up_to_scale(
    start: S, demand: Demand, t: float, powers: FloatArray | float = 1.0
) -> tuple[S, float, float]:
    """``start`` moved to t^powers · target, t ≤ 1 as large as found; (moved, t, residual).

    A weak pull on 1 − t beside the residual finds t to about the square of the pull; then t is
    taken back until Levenberg–Marquardt reaches the root.
    """

    def pulled(z: FloatArray) -> Evaluated:
        e, jacobian = demand.errors(start.at(z[:-1]), z[-1] ** powers)
        slope = (-powers * z[-1] ** (powers - 1) * demand.target / demand.scale)[demand.rows]
        pull = np.zeros(len(z))
        pull[-1] = -Tolerance.PULL
        columns = np.vstack([np.column_stack([jacobian, slope]), pull])
        return np.append(e, Tolerance.PULL * (1 - z[-1])), columns

    def repaired(z: FloatArray) -> FloatArray:
        return np.append(start.ordered(z[:-1]), max(z[-1], 0.0))

    z = np.append(start.unknowns, t)
    z, _ = levenberg(
        pulled, z, repaired, 2 * _most_steps(start), Tolerance.PULLED_STALL, Tolerance.FLOOR
    )
    most = min(float(z[-1]), 1.0)
    for less in (0.0, *Tolerance.TAKEN_BACK) if most == 1.0 else Tolerance.TAKEN_BACK:
        t = most * (1 - less)
        moved, norm = fit(start.at(z[:-1]), evolve(demand, target=t**powers * demand.target))
        if norm < Tolerance.SOLVED:
            break
    return moved, t, norm
