"""The published scheme: σ_T (two levels) in every layer but the last, σ_Q (three levels) there.

Its equations are solved here as far as they can be. The published script solves the last layer's
otherwise, and what it leaves is :func:`script_sigma_q`. σ_T must have the d1², d2² and (σ²)'' of
the original. On ξ ~ N(0, 1) its thresholds x₁ < x₂ then lie on an explicit curve, and one equation
in one unknown is left; see :func:`sigma_t_solutions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from operator import itemgetter

import numpy as np
from scipy.optimize import Bounds, brentq, minimize
from scipy.special import ndtr

from .._checks import FloatArray, positive
from ..theory.activations import AnyActivation, Quantized, sigma_q, sigma_t
from ..theory.gaussian import GaussianMoments, gaussian_panels
from ..theory.moments import gaussian_moments
from .solve import Demand, Tolerance, best, fit, fit_up_to_scale
from .staircases import Layer, Staircase, demanded_shares, fit_layer, without_closed

# u from thresholds that all but touch to an upper threshold nearly 40 standard deviations out.
_LOG_U = (-12.0, 5.8)
# The curve loses digits as κ², and its densities their exponents soon after.
_LARGEST_KAPPA = 30.0
_SIGMA_Q_PIECES = np.array([1, 0, 2, 0, 1])
_SIGMA_Q_STARTS = [(c, w) for w in (0.5, 0.8) for c in (0.0, -0.5, 0.5, -1.0, 1.0)]
# The script's thresholds from r₁, r₂ − r₁ and r₃ − r₂, and where these are looked for.
_SCRIPT_THRESHOLDS = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
_SCRIPT_PIECES = np.array([1, 0, 1, 0, 1])
_SCRIPT_GRID = (-4.0, 3.0, 29), (0.05, 3.05, 13), (0.0, 6.0, 13)
_SCRIPT_STARTS = 20


def sigma_t_solutions(g: GaussianMoments, tau: float | None = None) -> tuple[Quantized, ...]:
    """Every σ_T whose d1², d2² and (σ²)'' at scale ``tau`` are those of an activation.

    ``g`` holds the original's moments at its own scale. σ_T's input has scale ``tau``, the
    original's by default; in a compressed network the two differ. Raises ValueError if ``tau`` is
    not positive.

    Returns
    -------
    tuple of Quantized
        Two mirror images, first the one whose d1 and d2 have the original's signs where both can;
        one when d1 = 0 (it is its own mirror image); none when d2 = 0, when the original is
        matched by a single step (a threshold at infinity) only, or when τ|d2/d1| > 30: there
        float64 has too few digits.

    Notes
    -----
    With κ = ±τ|d2/d1|, u > 0 and h = ½(x₂ − x₁)::

        x₁ = κ + 2h/(e^{2u} − 1),  x₂ = x₁ + 2h,  h = u/c,  c = ½(κ + √(κ² + 4 u coth u))

    is the curve on which d2²/d1² is right. What is left, with p = Φ(x₂) − Φ(x₁), is
    κ(1 − 2p)/(φ(x₁) − φ(x₂)) = (σ²)''/d1². Along the curve its left side falls from +∞ to
    L = k(2Φ(k) − 1)/φ(k) for κ = k and rises from −∞ to L for κ = −k: exactly one solution up to
    mirror image, unless (σ²)''/d1² = L.

    Examples
    --------
    >>> g = nh.gaussian_moments(nh.activation("relu"), 1.0)
    >>> one, mirrored = nh.matching.sigma_t_solutions(g)
    >>> print(np.round(one.thresholds, 3), np.round(one.levels[0], 3))
    [1.    2.213] -2.409
    """
    tau = g.tau if tau is None else positive("tau", tau)
    scale = np.sqrt(g.variance)
    c1, c2 = g.tau * g.d1 / scale, g.tau**2 * g.d2 / scale
    if abs(c2) < Tolerance.NO_MOMENT:
        return ()
    if abs(c1) < Tolerance.NO_MOMENT:
        target = g.square_d2 / (tau**2 * g.d2**2)
        h = brentq(lambda h: _even_ratio(h) - target, 1e-6, 36.0, xtol=1e-15)
        height = tau**2 * g.d2 / (2 * h * _density(h))
        return (sigma_t(-tau * h, tau * h, float(height)),)
    k = tau * abs(g.d2 / g.d1)
    if k > _LARGEST_KAPPA:
        return ()
    target = g.square_d2 / g.d1**2
    limit = k * (2 * ndtr(k) - 1) / _density(k)
    kappa = k if target > limit else -k
    ends = [_curve(np.exp(t), kappa)[2] - target for t in _LOG_U]
    if ends[0] * ends[1] >= 0:
        return ()
    u = np.exp(brentq(lambda t: _curve(np.exp(t), kappa)[2] - target, *_LOG_U, xtol=1e-15))
    x1, x2, _ = _curve(u, kappa)
    # On the curve a = −1 gives d1 > 0 and d2 with the sign of κ; turn and mirror to the original's.
    flip = np.sign(g.d2) * np.sign(kappa)
    a = float(-flip * tau * abs(g.d1) / _first(u, x1))
    solutions = [sigma_t(tau * x1, tau * x2, a), sigma_t(-tau * x2, -tau * x1, a)]
    return tuple(solutions if flip == np.sign(g.d1) else solutions[::-1])


def _density(x: float) -> float:
    return float(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def _first(u: float, x1: float) -> float:
    """E[ξ; x₁ < ξ < x₂] = φ(x₁) − φ(x₂), by φ(x₂) = φ(x₁) e^{−2u}."""
    return -_density(x1) * np.expm1(-2 * u)


def _curve(u: float, kappa: float) -> tuple[float, float, float]:
    """(x₁, x₂) on the curve and the value there of κ(1 − 2p)/(φ(x₁) − φ(x₂))."""
    centre = (kappa + np.sqrt(kappa**2 + 4 * u / np.tanh(u))) / 2
    h = u / centre
    x1 = kappa + 2 * h / np.expm1(2 * u)
    x2 = x1 + 2 * h
    p = ndtr(-x1) - ndtr(-x2) if x1 > 0 else ndtr(x2) - ndtr(x1)
    return x1, x2, kappa * (1 - 2 * p) / _first(u, x1)


def _even_ratio(h: float) -> float:
    """(σ²)''/(τ d2)² of the even σ_T with thresholds ±h; rises from −∞ to ∞."""
    return (4 * ndtr(h) - 3) / (2 * h * _density(h))


def sigma_q_solution(
    activation: AnyActivation, g: GaussianMoments, tau: float | None = None
) -> Quantized | None:
    """A σ_Q whose d1², d2² and (σ²)'' at scale ``tau`` are those of an activation.

    Its variance is the activation's too if that can be, otherwise as small as found: four
    thresholds and two levels leave a choice where σ_T leaves none. None if nothing is found.
    Arguments and errors as for :func:`sigma_t_solutions`.

    Examples
    --------
    >>> relu = nh.activation("relu")
    >>> steps = nh.matching.sigma_q_solution(relu, nh.gaussian_moments(relu, 1.0))
    >>> len(steps.thresholds), len(set(steps.levels))
    (4, 3)
    """
    tau = g.tau if tau is None else positive("tau", tau)
    demand, stairs = Demand(demanded_shares(g, tau)), _sigma_q_starts(activation, g, tau)
    fits = (fit(stair, demand, 50) for stair in stairs)
    solved = _solved((stair, 1.0, residual) for stair, residual in fits)
    if not solved:
        # Both shares and the square's grow with t, for c_s is quadratic in σ.
        powers = np.array([1.0, 1.0, 2.0])
        solved = _solved(fit_up_to_scale(stair, demand, 0.5, powers) for stair in stairs)
    if not solved:
        return None
    stair, t = max(solved, key=itemgetter(1))
    size = np.sqrt(g.variance / stair.moments()[0][4]) / t
    zero, outer, inner = stair.levels * size
    r1, r2, r3, r4 = (tau * stair.x).tolist()
    return sigma_q(r1, r2, r3, r4, float(outer - zero), float(inner - zero))


def _solved(fits: Iterable[tuple[Staircase, float, float]]) -> list[tuple[Staircase, float]]:
    """(staircase, t) where a root was found and no piece has closed."""
    fits = (found for found in fits if found[2] < Tolerance.SOLVED)
    return [(stair, t) for stair, t, _ in fits if np.all(np.diff(stair.x) > 0)]


def _sigma_q_starts(activation: AnyActivation, g: GaussianMoments, tau: float) -> list[Staircase]:
    xi, weight = gaussian_panels(activation.breakpoints, g.tau, 1)
    polynomial = g.d1 * tau * xi + g.d2 * tau**2 * (xi**2 - 1) / 2
    stairs = []
    for solution in sigma_t_solutions(g, tau)[:1]:
        x1, x2 = np.array(solution.thresholds) / tau
        inner = x1 + (x2 - x1) * np.array([0.0, 1 / 3, 2 / 3, 1.0])
        stairs.append(Staircase(inner, _SIGMA_Q_PIECES, np.array([0.0, solution.levels[0], 0.0])))
    for centre, width in _SIGMA_Q_STARTS:
        x = centre + width * np.array([-1.5, -0.5, 0.5, 1.5])
        level = _SIGMA_Q_PIECES[np.searchsorted(x, xi)]
        means = np.bincount(level, weight * polynomial, 3) / np.bincount(level, weight, 3)
        stairs.append(Staircase(x, _SIGMA_Q_PIECES, means))
    return stairs


def script_sigma_q(g: GaussianMoments, tau: float, rewritten: bool = False) -> Quantized | None:
    """The last layer as the published script, ``solve_equation.py``, leaves it at its very best.

    It sets b₁ = b₂ = √((q/d2)² + 4v) and r₂ − r₁ = r₄ − r₃, with q = (σ²)'', and takes the three
    thresholds left with the least sum of squared residuals of d1², d2², q and v, however large.
    Where it restarts at random, a grid is searched here, and the best of it improved on. Its
    rewrite, ``new_MNIST/matching.py``, has τ² of the original's input for v in b₁, and √v for v
    among the residuals. ``g`` and ``tau`` as for :func:`sigma_t_solutions`. None where d2 = 0.

    For ReLU × 3 at τ₀ = 1 both are even steps, whose d1 is 0; r₂ = −r₁, and r₃ is out of reach.

    >>> from ntklc_helpers.matching.paper import script_sigma_q
    >>> len(script_sigma_q(nh.gaussian_moments(nh.activation("relu"), 1.0), 1.0).thresholds)
    4
    """
    if abs(g.d2) * tau**2 < Tolerance.NO_MOMENT * np.sqrt(g.variance):
        return None
    spread = np.sqrt(g.variance)
    levels = np.array([0.0, np.hypot(g.square_d2 / g.d2, 2 * (g.tau if rewritten else spread))])
    target = np.array([g.d1**2, g.d2**2, g.square_d2, spread if rewritten else g.variance])

    def stair(z: FloatArray) -> Staircase:
        return Staircase(_SCRIPT_THRESHOLDS @ z, _SCRIPT_PIECES, levels, uniform=True)

    def cost(z: FloatArray) -> tuple[float, FloatArray]:
        (_, c1, c2, cs, v), (_, j1, j2, js, jv) = stair(z).moments()
        d1, d2 = c1 / tau, np.sqrt(2) * c2 / tau**2
        if rewritten:
            v, jv = np.sqrt(v), jv / (2 * np.sqrt(v))
        left = np.array([d1**2, d2**2, cs / tau**2, v]) - target
        slope = [2 * d1 / tau * j1, 2 * d2 * np.sqrt(2) / tau**2 * j2, js / tau**2, jv]
        return float(left @ left), 2 * left @ np.array(slope) @ _SCRIPT_THRESHOLDS

    starts = [np.array(z) for z in product(*(np.linspace(*ends) for ends in _SCRIPT_GRID))]
    nearest = sorted(starts, key=lambda z: cost(z)[0])[:_SCRIPT_STARTS]
    exactly = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 500}
    box = Bounds([-6.0, 0.0, 0.0], [6.0, 12.0, 12.0])
    fits = [
        minimize(cost, z, method="L-BFGS-B", jac=True, bounds=box, options=exactly) for z in nearest
    ]
    found = stair(best(fits, lambda fit: fit.fun).x)
    x, pieces = without_closed(found.x, found.pieces)
    return Quantized(tuple(tau * x), tuple(levels[pieces]), name="sigma_q")


def sigma_t_network(moments: Sequence[GaussianMoments]) -> list[Staircase]:
    """σ_T in every layer, if there is one: it keeps the ratios, though at a large Δρ."""
    stairs, tau = [], moments[0].tau
    for g in moments:
        solution = next(iter(sigma_t_solutions(g, tau)), None)
        if solution is None:
            return []
        levels = np.array([0.0, np.sign(solution.levels[0])])
        stairs.append(Staircase(np.array(solution.thresholds) / tau, np.array([1, 0, 1]), levels))
        tau = float(np.sqrt(gaussian_moments(solution, tau).variance))
    return stairs


def paper_scheme(
    activations: Sequence[AnyActivation], moments: Sequence[GaussianMoments], script: bool
) -> tuple[list[Quantized], str]:
    """σ_T, …, σ_T, σ_Q, each at the scale the layers before it leave; and what is missing.

    ``script``: σ_Q as the published script leaves it.
    """
    found: list[Quantized] = []
    missing: list[str] = []
    tau = moments[0].tau
    for depth, (activation, g) in enumerate(zip(activations, moments, strict=True), start=1):
        if depth < len(activations):
            name, m, step = "sigma_t", 2, next(iter(sigma_t_solutions(g, tau)), None)
        else:
            step = script_sigma_q(g, tau) if script else sigma_q_solution(activation, g, tau)
            name, m = "sigma_q", 3
        if step is None:
            missing.append(f"no {name} with the d1², d2² and (σ²)'' of layer {depth}")
            step = fit_layer(Layer(activation, g, m))[0].activation(tau, g.mean, g.variance)
        found.append(step)
        tau = float(np.sqrt(gaussian_moments(step, tau).variance))
    return found, "; ".join(missing)
