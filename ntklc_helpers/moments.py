"""Generalised Gaussian moments of an activation at scale τ.

The numbers through which a wide network depends on its activations. Integration by parts moves
every derivative onto the Gaussian weight, so kinks and jumps are no obstacle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from .activations import AnyActivation, Quantized
from .validation import positive

FloatArray = NDArray[np.float64]

# Beyond 38 standard deviations the Gaussian density is not a normal float64 number.
_REACH = 38.0
_NODES = 20
_COARSEST, _FINEST = 6, 12
_CONVERGED = 1e-13


@dataclass(frozen=True)
class GaussianMoments:
    """Moments of σ(τξ), ξ ~ N(0, 1).

    Attributes
    ----------
    tau : float
        The scale τ.
    mean : float
        m = E σ.
    d1 : float
        E σ' = E[ξ σ]/τ.
    d2 : float
        E σ'' = E[(ξ² − 1) σ]/τ².
    square_d2 : float
        q = E[((σ − m)²)''] = E[(ξ² − 1)(σ − m)²]/τ².
    variance : float
        v = E(σ − m)².
    derivative_power : float
        s = E[σ'²]; ``inf`` for an activation with a jump.
    """

    tau: float
    mean: float
    d1: float
    d2: float
    square_d2: float
    variance: float
    derivative_power: float

    @property
    def linear_share(self) -> float:
        """r₁ = τ² d₁² / v: the part of the variance that is linear in ξ."""
        return self.tau**2 * self.d1**2 / self.variance

    @property
    def quadratic_share(self) -> float:
        """r₂ = τ⁴ d₂² / (2 v): the part of the variance that is quadratic in ξ."""
        return self.tau**4 * self.d2**2 / (2 * self.variance)

    @property
    def norm_gain(self) -> float:
        """g = τ² q / (2 v): relative change of the output's norm with the input's."""
        return self.tau**2 * self.square_d2 / (2 * self.variance)


def gaussian_moments(activation: AnyActivation, tau: float = 1.0) -> GaussianMoments:
    """Generalised Gaussian moments of ``activation`` at scale ``tau``.

    Closed form for :class:`~ntklc_helpers.activations.Quantized`; otherwise Gauss–Legendre
    quadrature on panels split at the breakpoints, the panels halved until nothing moves by more
    than 1e-13 of its natural scale.

    Parameters
    ----------
    activation : Activation or Quantized
    tau : float
        Standard deviation of the activation's input, positive.

    Raises
    ------
    ValueError
        If ``tau`` is not positive and finite, if a moment is infinite, or if quadrature does not
        converge because a breakpoint was not named.

    Notes
    -----
    ``d1``, ``d2``, ``square_d2`` and ``variance`` enter the recursions of
    :func:`~ntklc_helpers.equivalents.propagate`, ``derivative_power`` that of κ.
    """
    tau = positive("tau", tau)
    if isinstance(activation, Quantized):
        return _quantized_moments(activation, tau)
    return _smooth_moments(activation, tau)


def _quantized_moments(activation: Quantized, tau: float) -> GaussianMoments:
    x = np.asarray(activation.thresholds) / tau
    levels = np.asarray(activation.levels)
    mean = levels @ cell_probabilities(x)
    centred = levels - mean
    jumps, square_jumps = np.diff(centred), np.diff(centred**2)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return GaussianMoments(
        tau=tau,
        mean=float(mean),
        d1=float(jumps @ density) / tau,
        d2=float(jumps @ (x * density)) / tau**2,
        square_d2=float(square_jumps @ (x * density)) / tau**2,
        variance=float(centred**2 @ cell_probabilities(x)),
        derivative_power=float("inf") if activation.has_jump else 0.0,
    )


def cell_probabilities(x: FloatArray) -> FloatArray:
    """P(x_j < ξ ≤ x_{j+1}) of the m cells, each by the tail that loses no digits."""
    lower, upper = np.append(-np.inf, x), np.append(x, np.inf)
    return np.where(lower > 0, ndtr(-lower) - ndtr(-upper), ndtr(upper) - ndtr(lower))


def _smooth_moments(activation: AnyActivation, tau: float) -> GaussianMoments:
    # Features of a usual σ(t) have width about 1 in t = τξ: start with panels of that width.
    start = int(np.clip(np.ceil(np.log2(tau)), 0, _COARSEST))
    previous = _hermite_integrals(activation, tau, start)
    for halvings in range(start + 1, _FINEST + 1):
        current = _hermite_integrals(activation, tau, halvings)
        if np.all(np.abs(current - previous) <= _tolerance(current)):
            mean, c1, c2, square_c2, variance, power = (float(x) for x in current)
            return GaussianMoments(
                tau, mean, c1 / tau, c2 / tau**2, square_c2 / tau**2, variance,
                float("inf") if activation.has_jump else power,
            )  # fmt: skip
        previous = current
    raise ValueError(
        f"quadrature of activation {activation.name!r} at tau={tau} did not converge; "
        "name every kink and jump in `breakpoints`"
    )


def _tolerance(integrals: FloatArray) -> FloatArray:
    mean, spread, power = abs(integrals[0]), np.sqrt(integrals[4]), integrals[5]
    # σ − m carries the rounding of σ itself, however small its spread about m.
    shift = _CONVERGED * spread + 4 * np.finfo(float).eps * mean
    return np.array([shift, shift, shift, spread * shift, spread * shift, _CONVERGED * power])


def _hermite_integrals(activation: AnyActivation, tau: float, halvings: int) -> FloatArray:
    """E σ, E[ξσ], E[(ξ²−1)σ], E[(ξ²−1)σ²], E σ², all but the first of σ − m, and E[σ'²]."""
    xi, weight = gaussian_panels(activation.breakpoints, tau, halvings)
    value = np.asarray(activation(tau * xi))
    slope = np.asarray(activation.derivative(tau * xi))
    hermite2 = xi**2 - 1
    with np.errstate(over="ignore", invalid="ignore"):
        mean = weight @ value
        value = value - mean
        power = weight * value**2
        out = np.array(
            [mean, (weight * xi) @ value, (weight * hermite2) @ value]
            + [hermite2 @ power, power.sum(), weight @ slope**2]
        )
    tail = np.abs(xi) > _REACH - 1
    if not np.isfinite(out).all() or power[tail].sum() > 1e-14 * out[4]:
        raise ValueError(
            f"activation {activation.name!r} has no finite Gaussian moments at tau={tau}: it is "
            "undefined somewhere, or grows too fast"
        )
    # Rounding leaves a constant function with a variance of the order of its mean's last digit.
    if out[4] <= (1e-14 * mean) ** 2:
        raise ValueError(
            f"activation {activation.name!r} is constant at tau={tau}: it has variance 0"
        )
    return out


def gaussian_panels(
    breakpoints: ArrayLike, tau: float, halvings: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Nodes ξ and weights of a composite Gauss–Legendre rule for E f(ξ), ξ ~ N(0, 1).

    Panels of width 2^(−halvings) on [−38, 38], split at ``breakpoints / tau``; 20 nodes each.
    Exact to rounding for a function of τξ that is analytic between breakpoints.
    """
    kinks = np.asarray(breakpoints, dtype=np.float64) / tau
    kinks = kinks[np.abs(kinks) < _REACH]
    grid = np.arange(-_REACH, _REACH + 0.5**halvings / 2, 0.5**halvings)
    edges = np.union1d(grid, kinks)
    node, weight = _legendre(_NODES)
    half = np.diff(edges)[:, None] / 2
    xi = ((edges[1:] + edges[:-1])[:, None] / 2 + half * node).ravel()
    weights = (half * weight).ravel() * np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi)
    return xi, weights


@lru_cache(maxsize=4)
def _legendre(n: int) -> tuple[FloatArray, FloatArray]:
    return np.polynomial.legendre.leggauss(n)
