"""Dual of any activation by its Hermite series, with quadrature where the series is too slow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import product

import numpy as np
import torch
from attrs import frozen
from numpy.polynomial.chebyshev import chebpts1, chebvander
from scipy.special import ndtr, owens_t

from .activations import AnyActivation, Quantized
from .duals import TINY, Buffers, FloatArray, Pair
from .gaussian import gauss_rule, gaussian_panels
from .moments import OFFSET, activation_mass, check_derivative, hermite_integrals, not_converged

TOLERANCE = 1e-13
# A smooth activation needs few terms at any correlation; another gains little beyond the last.
_DEGREES = (63, 127, 255, 511, 1023)
_MAX_HALVINGS = 7
# h_k φ decays as exp(−ξ²/4), so nothing beyond 16 standard deviations reaches the last digit.
_REACH = 16.0
_ROUNDING = 1e-15
_INNER_REACH = 9.0
# The expansion is interpolated for more scales than that, from so many points on, and down to that
# part of the largest.
_FEW, _POINTS, _SPAN = 64, (16, 32, 64, 128, 256, 512, 1024), 100.0
# Of staircases, with as many jumps of as many scales at once as a cache holds, it is as fast.
_STEPS = 2**15
# Rows of a kernel with surrogates that are worked on at once.
_ROWS_AT_ONCE = 64
# Panels and terms needed grow with the scale: half a minute at 1000, and out of hand beyond.
_LARGEST_SCALE = 256.0


@frozen(eq=False, slots=False)
class HermiteSeries:
    """A layer by σ(aξ) = Σ_k c_k(a) h_k(ξ), h_k the normalised Hermite polynomials.

    Mehler's formula gives E[σ(u)σ(v)] = Σ_k c_k(a) c_k(b) ρ^k for inputs of scales a, b and
    correlation ρ, and its derivative in the covariance is E[σ'(u)σ'(v)].

    The degree follows each block's largest ``|ρ|``. By Parseval and Cauchy–Schwarz the terms
    dropped amount to at most 1e-13 √(E σ'(u)² E σ'(v)²) of E[σ'σ'] and ``|cov|`` times that of
    E[σσ]; for an activation with a jump, to 1e-13 √(E σ(u)² E σ(v)²) of E[σσ] and of ∂/∂ρ E[σσ].
    An activation that is not smooth needs too many terms for ``|ρ|`` near 1: entries with ``|ρ|``
    above ``reach`` come from two-dimensional quadrature, split at the breakpoints; a staircase's
    from the bivariate normal distribution.

    Attributes
    ----------
    activation : Activation or Quantized
    halvings : int
        Panel width of the quadrature, 2^(−halvings) standard deviations.
    log_tail : (degree + 2,) array
        Logarithm of the share of E σ'² (E σ² with a jump) in the terms from k on.
    reach : float
        Largest ``|ρ|`` at which the series is used.
    parity : int or None
        0 for an even activation, 1 for an odd one: the other terms vanish.
    scales : pair of float
        The least and the largest that it is for.

    Examples
    --------
    >>> from ntklc_helpers.theory.hermite import HermiteSeries
    >>> tanh = HermiteSeries.over(nh.activation("tanh"), np.array([1.0]))
    >>> inputs, square, _ = tanh.at(np.array([1.0]))
    >>> k, _ = tanh.pair(np.array([0.5]), inputs, inputs, np.empty((3, 1)))
    >>> square.round(4), k.round(4)
    (array([0.3943]), array([0.1863]))
    """

    activation: AnyActivation
    halvings: int
    log_tail: FloatArray
    reach: float
    parity: int | None
    scales: tuple[float, float]

    @classmethod
    def over(cls, activation: AnyActivation, scale: FloatArray) -> HermiteSeries:
        """The series for inputs of any scale between the extremes of ``scale`` (n,).

        Raises ValueError for a scale above 256, an activation that grows too fast, or a breakpoint
        that was not named.
        """
        extremes = _extremes(activation, scale)
        # Of a jump no degree is enough.
        for degree in _DEGREES[-1:] if activation.has_jump else _DEGREES:
            halvings, expansion = _resolve(activation, extremes, degree)
            tail = _tails(activation, expansion, extremes).max(axis=0)
            enough = np.flatnonzero(tail <= TOLERANCE)
            if len(enough):
                # Of a constant nothing is left to begin with.
                degree = max(1, int(enough[0]))
                break
        largest = float(extremes[1])
        check_derivative(activation, largest, hermite_integrals(activation, largest, halvings))
        log_tail = np.log(tail[: degree + 2])
        slack = np.log(degree + 1) if activation.has_jump else 0.0
        reach = min(1.0, float(np.exp((np.log(TOLERANCE) - slack - log_tail[-1]) / degree)))
        peak = np.abs(expansion[:, : degree + 1]).max(axis=0)
        present = peak > _ROUNDING * peak.max()
        parity = 0 if not present[1::2].any() else 1 if not present[::2].any() else None
        return cls(activation, halvings, log_tail, reach, parity, tuple(extremes.tolist()))

    def at(self, scale: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of inputs of scales (n,): c_0 … c_degree and the scale (degree + 2, n), which
        :meth:`pair` needs to know; E σ² and E σ'² (n,), the latter infinite with a jump.
        """
        unique, inverse = np.unique(scale, return_inverse=True)
        parts, steps = [], isinstance(self.activation, Quantized)
        at_once = max(1, _STEPS // len(self.activation.breakpoints)) if steps else _FEW
        first = int(np.searchsorted(unique, self._lowest))
        if len(unique) - first > _FEW and not steps and self._interpolant is not None:
            place = np.log(unique[first:] / self._lowest) / np.log(self.scales[1] / self._lowest)
            parts = [chebvander(2 * place - 1, len(self._interpolant) - 1) @ self._interpolant]
            unique = unique[:first]
        some = (unique[i : i + at_once] for i in range(0, len(unique), at_once))
        table = np.concatenate([self._expanded(scales) for scales in some] + parts)[inverse]
        inputs = np.ascontiguousarray(np.vstack([table[:, :-2].T, scale]))
        jump = self.activation.has_jump
        return inputs, table[:, -2], np.full_like(scale, np.inf) if jump else table[:, -1]

    def _expanded(self, scales: FloatArray) -> FloatArray:
        return _expand(self.activation, scales, len(self.log_tail) - 2, self.halvings)

    @property
    def _lowest(self) -> float:
        """The least scale between which and the largest the expansion is interpolated."""
        return max(self.scales[0], self.scales[1] / _SPAN)

    @cached_property
    def _interpolant(self) -> FloatArray | None:
        """The expansion in Chebyshev polynomials of the scale's logarithm; None if too many.

        The coefficients are smooth functions of the scale: points are doubled until the interpolant
        has converged.
        """
        low, high = np.log([self._lowest, self.scales[1]])
        for points in _POINTS:
            values = self._expanded(np.exp(low + (high - low) * (1 + chebpts1(points)) / 2))
            series = chebyshev_coefficients(points) @ values
            size = np.sqrt(np.abs(values[:, -2]).max())
            sizes = np.full(values.shape[1], size)
            sizes[-2:] = size**2, np.abs(values[:, -1]).max()
            if (np.abs(series[-2:]) <= TOLERANCE / 10 * sizes).all():
                return np.asarray(series)
        return None

    def pair(self, c: FloatArray, left: FloatArray, right: FloatArray, out: Buffers) -> Pair:
        """E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for covariances ``c``, in the first two of ``out``.

        ``left`` and ``right`` are what :meth:`at` gives of the inputs u and v: coefficients
        and scale along the first axis, the others broadcast to the shape of ``c``.
        """
        k, d, t = out
        a, b = left[-1], right[-1]
        rho = np.clip(c / (a * b), -1, 1)
        far = np.abs(rho) > self.reach
        terms = self._terms(float(np.abs(rho[~far]).max(initial=0.0)))
        _mehler(left[:terms], right[:terms], rho, self.parity, out)
        np.multiply(a, b, out=t)
        d /= t
        a, b = np.broadcast_to(a, rho.shape), np.broadcast_to(b, rho.shape)
        if isinstance(self.activation, Quantized):
            k[far], d[far] = staircase_pair(self.activation, a[far], b[far], rho[far])
            return k, d
        for at in zip(*np.nonzero(far), strict=True):
            k[at], d[at] = pair_expectation(
                self.activation, float(a[at]), float(b[at]), float(rho[at]), self.halvings
            )
        return k, d

    def _terms(self, rho: float) -> int:
        """How many terms suffice up to correlation ``rho``."""
        terms = np.arange(len(self.log_tail))
        remainder = self.log_tail + (terms - 1) * np.log(max(rho, 1e-300))
        if self.activation.has_jump:
            remainder += np.log(np.maximum(terms, 1))
        enough = np.flatnonzero(remainder <= np.log(TOLERANCE))
        return max(1, int(enough[0])) if len(enough) else len(self.log_tail) - 1


def _mehler(
    left: FloatArray, right: FloatArray, rho: FloatArray, parity: int | None, out: Buffers
) -> None:
    """p = Σ_k left_k right_k ρ^k and q = ∂p/∂ρ, the first two of ``out``, by Horner's rule.

    Of an even or odd function it is p(ρ) = ρ^parity s(ρ²), and terms that vanish are skipped.
    """
    p, q, product = out
    step, x = (1, rho) if parity is None else (2, rho * rho)
    p[...] = q[...] = 0
    for k in reversed(range(parity or 0, len(left), step)):
        q *= x
        q += p
        p *= x
        np.multiply(left[k], right[k], out=product)
        p += product
    if parity == 0:
        q *= rho
        q *= 2
    elif parity == 1:
        q *= x
        q *= 2
        q += p
        p *= rho


def coefficients(
    activation: AnyActivation, scale: FloatArray, degree: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """c_0 … c_degree (degree + 1, n) of σ(aξ) at scales a (n,), E σ² and E σ'² (n,).

    Errors as for :meth:`HermiteSeries.over`.

    Examples
    --------
    >>> from ntklc_helpers.theory.hermite import coefficients
    >>> c, _, _ = coefficients(nh.activation("quadratic"), np.array([1.0]), 2)
    >>> np.abs(c).round(4).ravel().tolist()
    [1.0, 0.0, 1.4142]
    """
    extremes = _extremes(activation, scale)
    halvings, _ = _resolve(activation, extremes, degree)
    largest = float(extremes[1])
    check_derivative(activation, largest, hermite_integrals(activation, largest, halvings))
    table = _expand(activation, scale, degree, halvings).T
    slope_square = np.full_like(scale, np.inf) if activation.has_jump else table[-1]
    return table[:-2], table[-2], slope_square


def _extremes(activation: AnyActivation, scale: FloatArray) -> FloatArray:
    extremes = np.array([scale.min(), scale.max()])
    if not extremes[1] <= _LARGEST_SCALE:
        raise ValueError(
            f"activation {activation.name!r} has inputs of standard deviation {extremes[1]:.3g}, "
            f"and its kernel is found up to {_LARGEST_SCALE:g}: bring X to rows of norm about 1"
        )
    return extremes


def _expand(
    activation: AnyActivation, scales: FloatArray, degree: int, halvings: int, offset: float = 0
) -> FloatArray:
    """c_0 … c_degree, E σ², E σ'² of σ(aξ), one row for each of the scales a.

    Without a jump, c_k = a E[σ'(aξ) h_{k−1}] / √k, which keeps its digits as a goes to 0.
    """
    if isinstance(activation, Quantized):
        return _expand_steps(activation, scales, degree)
    kinks = np.asarray(activation.breakpoints, dtype=np.float64) / scales[:, None]
    xi, weight = gaussian_panels([*kinks.ravel(), -_REACH, _REACH], 1.0, halvings, offset)
    near = np.abs(xi) < _REACH
    xi, weight = xi[near], weight[near]
    t = scales[:, None] * xi
    value, slope = activation(t), activation.derivative(t)
    out = np.empty((degree + 3, len(scales)))
    with np.errstate(over="ignore"):
        out[0], out[-2], out[-1] = value @ weight, value**2 @ weight, slope**2 @ weight
    first = 0 if activation.has_jump else 1
    weighted = weight * (slope if first else value)
    h, before, product = np.ones_like(xi), np.zeros_like(xi), np.empty_like(xi)
    for k in range(degree + 1 - first):
        np.dot(weighted, h, out=out[k + first])
        np.multiply(xi, h, out=product)
        before *= -np.sqrt(k)
        before += product
        before /= np.sqrt(k + 1)
        h, before = before, h
    if first:
        out[1:-2] *= scales / np.sqrt(np.arange(1, degree + 1))[:, None]
    return out.T


def _expand_steps(steps: Quantized, scales: FloatArray, degree: int) -> FloatArray:
    """:func:`_expand` without quadrature: c_k = Σ_j Δ_j φ(x_j) h_{k−1}(x_j) / √k, Δ_j the jump at
    x_j standard deviations.
    """
    x, jumps = np.asarray(steps.thresholds) / scales[:, None], np.asarray(steps.jumps)
    below = np.pad(ndtr(x), ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    share, levels = np.diff(below, axis=1), np.asarray(steps.levels)
    out = np.empty((degree + 3, len(scales)))
    out[0], out[-2], out[-1] = share @ levels, share @ levels**2, 0.0
    # Multiplied by φ from the start, nothing overflows.
    h, before = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), np.zeros_like(x)
    for k in range(degree):
        out[k + 1] = h @ jumps / np.sqrt(k + 1)
        h, before = (x * h - np.sqrt(k) * before) / np.sqrt(k + 1), h
    return out.T


def _resolve(activation: AnyActivation, scales: FloatArray, degree: int) -> tuple[int, FloatArray]:
    """The panel width at which the expansion no longer changes, and the expansion."""
    if isinstance(activation, Quantized):
        return 0, _expand_steps(activation, scales, degree)
    # Twenty nodes a panel resolve features of a quarter of its width.
    start = max(1, int(np.ceil(np.log2(scales.max()))) - 2)
    for halvings in range(start, start + _MAX_HALVINGS - 1):
        coarse = _expand(activation, scales, degree, halvings)
        fine = _expand(activation, scales, degree, halvings + 1, OFFSET)
        with np.errstate(invalid="ignore"):
            change = np.abs(fine - coarse)
        power = fine[:, -2:-1]
        if (change[:, :-2] <= TOLERANCE * np.sqrt(power)).all() and (
            change[:, -2:-1] <= TOLERANCE * power
        ).all():
            return halvings, coarse
    largest = float(scales.max())
    # Where moments are infinite nothing converges, and that is the better reason.
    hermite_integrals(activation, largest, halvings)
    raise not_converged(f"Hermite series of activation {activation.name!r} at scale {largest:.3g}")


def _tails(activation: AnyActivation, expansion: FloatArray, scales: FloatArray) -> FloatArray:
    """Share of E σ'² (E σ² with a jump) in the terms from k on, k = 0 … degree + 1, each scale."""
    power, total = expansion[:, :-2] ** 2, expansion[:, -2]
    if not activation.has_jump:
        power, total = power * np.arange(power.shape[1]), scales**2 * expansion[:, -1]
    left = total[:, None] - np.insert(np.cumsum(power, axis=1), 0, 0.0, axis=1)
    # A constant has a total of 0, and leaves nothing.
    share = left / np.where(total > 0, total, 1.0)[:, None]
    return np.maximum(share, _ROUNDING)


@cache
def chebyshev_coefficients(points: int) -> FloatArray:
    """What turns values at so many Chebyshev points into coefficients of the polynomial there."""
    # At these points the polynomials are orthogonal, of norm² m/2 but for the first, of m.
    norms = np.full(points, points / 2)
    norms[0] *= 2
    return np.asarray(chebvander(chebpts1(points), points - 1).T / norms[:, None], np.float64)


def staircase_pair(
    steps: Quantized, a: FloatArray, b: FloatArray, rho: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """E[σ(u)σ(v)] of a staircase and its derivative in the covariance, for pairs (u, v) with scales
    a, b and correlations ρ, all (n,); it is infinite where ``|ρ|`` is 1 and both jump at once.

    A staircase is its first level and a jump Δ_i above each threshold θ_i, so that P(u > θ_i,
    v > θ_j) is all there is to know: by T of D. B. Owen, Ann. Math. Statist. 27 (1956), eq. 2.1.

    Examples
    --------
    >>> from ntklc_helpers.theory.hermite import staircase_pair
    >>> half = np.array([0.5])
    >>> staircase_pair(nh.activation("step"), 2 * half, 2 * half, half)[0] * 3
    array([1.])
    """
    first, jump, at = steps.levels[0], np.array(steps.jumps), np.array(steps.thresholds)
    width = np.sqrt((1 - rho) * (1 + rho))
    # A correlation is known to no more than that.
    known = np.maximum(width, 1e-8)
    beyond = [ndtr(-at / scale[:, None]) @ jump for scale in (a, b)]
    k, mass = first**2 + first * (beyond[0] + beyond[1]), np.zeros_like(rho)
    # Next to 0 instead of at it, where T's second argument would be 0/0.
    nodes = np.where(at == 0, TINY, at)
    for (i, above), (j, right) in product(enumerate(jump), enumerate(jump)):
        x, y = nodes[i] / a, nodes[j] / b
        both = (ndtr(-x) + ndtr(-y) - (nodes[i] * nodes[j] < 0)) / 2
        both -= owens_t(x, (y / x - rho) / known) + owens_t(y, (x / y - rho) / known)
        density = np.exp(-(((y - rho * x) / known) ** 2 + x**2) / 2) / (2 * np.pi)
        k += above * right * both
        mass += above * right * density / (a * b)
    with np.errstate(divide="ignore"):
        return k, np.divide(mass, width, out=np.zeros_like(rho), where=mass != 0)


def crossing(
    activation: Quantized,
    surrogate: Quantized,
    covariance: FloatArray,
    A: FloatArray,
    B: FloatArray,
) -> FloatArray:
    """E[σ'(u)ς(v)] (n, m) for covariances (n, m) of u and v, of variances A (n,) and B (m,).

    Where u and v are one variable up to a factor, ς counts with its value at the jump of σ, and
    within rounding of a jump of its own with something between its two sides.

    >>> from ntklc_helpers.theory.hermite import crossing
    >>> window, one = nh.Quantized([-1, 1], [0, 1, 0]), np.ones(1)
    >>> crossing(nh.activation("sign"), window, np.array([[0.0]]), one, one).round(4)
    array([[0.5447]])
    """
    a, b = np.sqrt(A), np.sqrt(B)
    mass, levels = activation_mass(activation, a), np.asarray(surrogate.levels)
    thresholds, jumps = np.asarray(surrogate.thresholds), np.asarray(surrogate.jumps)
    out = np.empty_like(covariance)

    def fill(start: int) -> None:
        some = slice(start, start + _ROWS_AT_ONCE)
        rho = np.clip(covariance[some] / np.outer(a[some], b), -1, 1)
        # A correlation is known to no more than that.
        width = np.maximum(np.sqrt((1 - rho) * (1 + rho)), 1e-8)
        total, lean, reach = np.zeros_like(rho), rho / width, 1 / width
        for theta, weight in zip(activation.thresholds, mass[some].T, strict=True):
            mean, seen = lean * (theta / a[some, None]), np.full_like(rho, levels[0])
            for threshold, jump in zip(thresholds, jumps, strict=True):
                if jump:
                    seen += jump * ndtr(mean - reach * (threshold / b))
            total += weight[:, None] * seen
        out[some] = total

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(0, len(out), _ROWS_AT_ONCE)))
    return out


def pair_expectation(
    activation: AnyActivation, a: float, b: float, rho: float, halvings: int = 1
) -> tuple[float, float]:
    """E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for (u, v) of scales a, b and correlation ρ, by quadrature.

    Gauss–Legendre over u and, given u, over v: both split at the breakpoints, and the outer one
    also where a breakpoint of v passes through the inner Gaussian, whose width is √(1−ρ²). At a
    jump the derivative is a point mass. Error about 1e-13 of E σ² and E σ'².
    """
    breakpoints = np.asarray(activation.breakpoints, dtype=np.float64)
    width = max(np.sqrt((1 - rho) * (1 + rho)), 1e-300)
    layers = breakpoints[:, None] / b + width * np.linspace(-9, 9, 5)
    xi, weight = gaussian_panels(np.append(layers / rho, breakpoints / a), 1.0, halvings)
    near = np.abs(xi) < _INNER_REACH + 1
    xi, weight = xi[near], weight[near]
    k_given, d_given = _given(activation, b, rho * xi, width, halvings)
    value = weight * activation(a * xi) @ k_given
    slope = weight * activation.derivative(a * xi) @ d_given
    if activation.has_jump:
        at = breakpoints / a
        mass = activation.jumps * np.exp(-(at**2) / 2) / (np.sqrt(2 * np.pi) * a)
        slope += mass @ _given(activation, b, rho * at, width, halvings)[1]
    return float(value), float(slope)


def _given(
    activation: AnyActivation, b: float, mean: FloatArray, width: float, halvings: int
) -> tuple[FloatArray, FloatArray]:
    """E σ(b y) and E σ'(b y) for y ~ N(mean, width²), one for each entry of ``mean``."""
    kinks = ((np.asarray(activation.breakpoints) / b - mean[:, None]) / width).clip(-40, 40)
    panels = max(6, int(np.ceil(2 * _INNER_REACH * width * 2**halvings)))
    grid = np.linspace(-_INNER_REACH, _INNER_REACH, panels + 1)
    every = np.broadcast_to(grid, (len(mean), len(grid)))
    edges = np.hstack([every, kinks.clip(-_INNER_REACH, _INNER_REACH)])
    edges.sort(axis=1)
    w, weight = gauss_rule(edges)
    y = b * (mean[:, None, None] + width * w)
    value = (weight * activation(y)).sum(axis=(1, 2))
    slope = (weight * activation.derivative(y)).sum(axis=(1, 2))
    density = np.exp(-(kinks**2) / 2) / (np.sqrt(2 * np.pi) * width * b)
    return value, slope + density @ np.asarray(activation.jumps)
