"""Generalised Gaussian moments of an activation at scale τ.

The numbers through which a wide network depends on its activations. Integration by parts moves
every derivative onto the Gaussian weight, so kinks and jumps are no obstacle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import ArrayLike

from .._checks import positive
from .activations import Activation, AnyActivation, Quantized
from .gaussian import REACH, FloatArray, GaussianMoments, cell_probabilities, gaussian_panels

_COARSEST, _FINEST = 6, 12
_CONVERGED = 1e-13
# Edges of no dyadic panel are near these: a kink that hides at one's edge shows in the other.
OFFSET = 0.382
# Two routes to one number agree to rounding if the derivative is right; others are far off.
_SAME = 1e-6


def gaussian_moments(activation: AnyActivation, tau: float = 1.0) -> GaussianMoments:
    """Generalised Gaussian moments of ``activation`` at scale ``tau``.

    Closed form for :class:`~ntklc_helpers.theory.activations.Quantized`; otherwise Gauss–Legendre
    quadrature on panels split at the breakpoints, the panels halved until nothing moves by more
    than 1e-13 of its natural scale.

    Parameters
    ----------
    activation : Activation or Quantized
    tau : float
        Standard deviation of the activation's input, positive.

    Returns
    -------
    GaussianMoments
        They enter the recursions of :func:`~ntklc_helpers.theory.coefficients.propagate`.

    Raises
    ------
    ValueError
        If ``tau`` is not positive and finite, a moment is infinite, the activation is constant,
        quadrature does not converge because a breakpoint was not named, or the derivative is not
        the function's.

    Examples
    --------
    >>> g = nh.gaussian_moments(nh.activation("relu"), tau=1.0)
    >>> round(g.mean, 4), round(g.d1, 4), round(g.linear_share, 4)
    (0.3989, 0.5, 0.7335)
    """
    tau = positive("tau", tau)
    if isinstance(activation, Quantized):
        g = _quantized_moments(activation, tau)
    elif not isinstance(activation, Activation):
        raise TypeError(f"activation must be made by nh.activation(...), got {activation!r}")
    else:
        g = _smooth_moments(activation, tau)
    # Rounding leaves a constant function with a variance of the order of its mean's last digit.
    if g.variance <= (1e-14 * g.mean) ** 2:
        raise ValueError(
            f"activation {activation.name!r} is constant at tau={tau}: it has variance 0"
        )
    return g


def layer_moments(
    activations: Iterable[AnyActivation], tau0: float, gains: Iterable[float] = repeat(1.0)
) -> Iterator[GaussianMoments]:
    """Moments of a network's layers, each at the scale that the centred ones before leave.

    ``gains`` are the standard deviations of the layers' weights. Errors as for
    :func:`gaussian_moments`, each when its layer is reached.

    >>> from ntklc_helpers.theory.moments import layer_moments
    >>> [g.tau for g in layer_moments([nh.activation("linear")] * 3, 0.5, [1, 2, 1])]
    [0.5, 1.0, 1.0]
    """
    scale = tau0
    for activation, gain in zip(activations, gains, strict=False):
        yield (g := gaussian_moments(activation, gain * scale))
        scale = float(np.sqrt(g.variance))


def surrogate_moments(
    activation: AnyActivation, surrogate: Quantized | None, tau: float
) -> tuple[float, float, float]:
    """E ς, E ς' and E[σ'ς] of a surrogate derivative ς, all at τξ; with none, ς is σ' itself.

    By parts like all others: E ς' is a sum over the surrogate's jumps, and E[σ'ς] one over the
    activation's, where it has any. Halfway through a jump of its own, ς counts with both sides.

    >>> from ntklc_helpers.theory.moments import surrogate_moments
    >>> window = nh.Quantized([-1, 1], [0, 0.5, 0])
    >>> np.round(surrogate_moments(nh.activation("sign"), window, 1.0), 3).tolist()
    [0.341, 0.0, 0.399]
    """
    if surrogate is None:
        g = gaussian_moments(activation, tau)
        return g.d1, g.d2, g.derivative_power
    # Not as for an activation, which must not be constant.
    g = _quantized_moments(surrogate, tau)
    power = float(activation_mass(activation, tau) @ both_sides(surrogate, activation.breakpoints))
    if not isinstance(activation, Quantized):
        xi, weight = gaussian_panels([*activation.breakpoints, *surrogate.thresholds], tau, 2)
        power += float(weight * activation.derivative(tau * xi) @ surrogate(tau * xi))
    return g.mean, g.d1, power


def activation_mass(activation: AnyActivation, tau: ArrayLike) -> FloatArray:
    """What each jump at θ_k weighs in E σ'(τξ): Δ_k φ(θ_k/τ)/τ, (…, K) for scales (…)."""
    scale = np.asarray(tau, np.float64)[..., None]
    x = np.asarray(activation.breakpoints) / scale
    return np.asarray(activation.jumps) * np.exp(-(x**2) / 2) / (np.sqrt(2 * np.pi) * scale)


def both_sides(steps: Quantized, at: Sequence[float]) -> FloatArray:
    """The staircase at some points, as the mean of what it is left and right of each."""
    points, levels = np.asarray(at, np.float64), np.asarray(steps.levels)
    sides = (np.searchsorted(steps.thresholds, points, side) for side in ("left", "right"))
    return np.asarray(sum(levels[side] for side in sides) / 2)


def centres(
    activations: Sequence[AnyActivation], squared: FloatArray, center: bool, tau0: float | None
) -> Iterator[float]:
    """m_1 … m_L, or zeros; τ₀ is by default that of inputs of squared lengths (n,)."""
    if not center:
        return iter([0.0] * len(activations))
    scale = positive("tau0", float(np.sqrt(squared.mean())) if tau0 is None else tau0)
    return (g.mean for g in layer_moments(activations, scale))


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


def _smooth_moments(activation: AnyActivation, tau: float) -> GaussianMoments:
    # Features of a usual σ(t) have width about 1 in t = τξ: start with panels of that width.
    start = int(np.clip(np.ceil(np.log2(tau)), 0, _COARSEST))
    for halvings in range(start, _FINEST):
        coarse = hermite_integrals(activation, tau, halvings, OFFSET)
        fine = hermite_integrals(activation, tau, halvings + 1)
        if np.all(np.abs(fine - coarse)[:6] <= _tolerance(fine)):
            break
    else:
        raise not_converged(f"quadrature of activation {activation.name!r} at tau={tau}")
    check_derivative(activation, tau, fine)
    mean, c1, c2, square_c2, variance, power, _ = fine.tolist()
    power = float("inf") if activation.has_jump else power
    return GaussianMoments(tau, mean, c1 / tau, c2 / tau**2, square_c2 / tau**2, variance, power)


def not_converged(what: str) -> ValueError:
    """The error where quadrature finds something between the breakpoints that is not smooth."""
    return ValueError(f"{what} did not converge; name every kink and jump in `breakpoints`")


def check_derivative(activation: AnyActivation, tau: float, integrals: FloatArray) -> None:
    """Stein: E[(ξ + ξ² − 1)σ] = τ E[(1 + ξ)σ'] + Σ J (1 + x) φ(x), over the jumps J at τx."""
    x = np.asarray(activation.breakpoints) / tau
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    by_jumps = np.asarray(activation.jumps) @ ((1 + x) * density)
    mean, c1, c2, _, variance, power, slope = integrals
    scale = np.sqrt(variance) + tau * np.sqrt(power)
    if abs(c1 + c2 - by_jumps - tau * slope) > _SAME * scale + _CONVERGED * abs(mean):
        raise ValueError(
            f"derivative of activation {activation.name!r} must be that of its function; at "
            f"tau={tau} it is not: name every jump in `breakpoints`, and detach nothing from torch"
        )


def _tolerance(integrals: FloatArray) -> FloatArray:
    mean, spread, power = abs(integrals[0]), np.sqrt(integrals[4]), integrals[5]
    # σ − m carries the rounding of σ itself, however small its spread about m.
    shift = _CONVERGED * spread + 4 * np.finfo(float).eps * mean
    return np.array([shift, shift, shift, spread * shift, spread * shift, _CONVERGED * power])


def hermite_integrals(
    activation: AnyActivation, tau: float, halvings: int, offset: float = 0.0
) -> FloatArray:
    """E σ; E[ξσ], E[(ξ²−1)σ], E[(ξ²−1)σ²], E σ² of σ − m; E σ'², E[(1+ξ)σ']."""
    xi, weight = gaussian_panels(activation.breakpoints, tau, halvings, offset)
    value, slope = activation(tau * xi), activation.derivative(tau * xi)
    hermite2 = xi**2 - 1
    with np.errstate(over="ignore", invalid="ignore"):
        mean = weight @ value
        value = value - mean
        power = weight * value**2
        out = np.array(
            [mean, (weight * xi) @ value, (weight * hermite2) @ value]
            + [hermite2 @ power, power.sum(), weight @ slope**2, weight * (1 + xi) @ slope]
        )
    tail = np.abs(xi) > REACH - 1
    if not np.isfinite(out).all() or power[tail].sum() > 1e-14 * out[4]:
        raise ValueError(
            f"activation {activation.name!r} has no finite Gaussian moments at tau={tau}: it is "
            "undefined somewhere, or grows too fast"
        )
    return out
