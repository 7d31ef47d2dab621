"""Dual of any activation by its Hermite series, with quadrature where the series is too slow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebpts1, chebvander
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from .activations import AnyActivation
from .moments import gaussian_panels

FloatArray = NDArray[np.float64]

TOLERANCE = 1e-13
# A smooth activation needs few terms at any correlation; another gains little beyond the last.
_DEGREES = (63, 127, 255, 511, 1023)
_MAX_HALVINGS = 7
# h_k φ decays as exp(−ξ²/4), so nothing beyond 16 standard deviations reaches the last digit.
_REACH = 16.0
_ROUNDING = 1e-15
_INNER_REACH = 9.0


@dataclass(frozen=True)
class HermiteSeries:
    """A layer by σ(aξ) = Σ_k c_k(a) h_k(ξ), h_k the normalised Hermite polynomials.

    Mehler's formula gives E[σ(u)σ(v)] = Σ_k c_k(a) c_k(b) ρ^k for inputs of scales a, b and
    correlation ρ, and its derivative in the covariance is E[σ'(u)σ'(v)].

    The degree follows each block's largest ``|ρ|``. By Parseval and Cauchy–Schwarz the terms
    dropped amount to at most 1e-13 √(E σ'(u)² E σ'(v)²) of E[σ'σ'] and ``|cov|`` times that of
    E[σσ]; for an activation with a jump, to 1e-13 √(E σ(u)² E σ(v)²) of E[σσ] and of ∂/∂ρ E[σσ].
    An activation that is not smooth needs too many terms for ``|ρ|`` near 1: entries with ``|ρ|``
    above ``reach`` come from two-dimensional quadrature, split at the breakpoints.

    Attributes
    ----------
    activation : Activation or Quantized
    halvings : int
        Panel width of the quadrature, 2^(−halvings) standard deviations.
    scale : (n,) array
    coefficients : (degree + 1, n) array
    log_tail : (degree + 2,) array
        Logarithm of the share of E σ'² (E σ² with a jump) in the terms from k on.
    reach : float
        Largest ``|ρ|`` at which the series is used.
    mean, square, slope_square : (n,) arrays
        E σ(u_i), E σ(u_i)², E σ'(u_i)².
    """

    activation: AnyActivation
    halvings: int
    scale: FloatArray
    coefficients: FloatArray
    log_tail: FloatArray
    reach: float
    mean: FloatArray
    square: FloatArray
    slope_square: FloatArray

    @classmethod
    def prepare(cls, activation: AnyActivation, variance: FloatArray) -> HermiteSeries:
        """The series for inputs of variances (n,)."""
        scale = np.sqrt(variance)
        extremes = np.array([scale.min(), scale.max()])
        for degree in _DEGREES:
            halvings, expansion = _resolve(activation, extremes, degree)
            tail = _tails(activation, expansion, extremes).max(axis=0)
            enough = np.flatnonzero(tail <= TOLERANCE)
            if len(enough):
                degree = int(enough[0])
                break
        table = _expand_all(activation, scale, degree, halvings)
        log_tail = np.log(tail[: degree + 2])
        slack = np.log(degree + 1) if activation.has_jump else 0.0
        reach = min(1.0, float(np.exp((np.log(TOLERANCE) - slack - log_tail[-1]) / degree)))
        infinite = np.full_like(scale, np.inf)
        return cls(
            activation, halvings, scale, np.ascontiguousarray(table[:, :-2].T), log_tail, reach,
            table[:, 0], table[:, -2], infinite if activation.has_jump else table[:, -1],
        )  # fmt: skip

    def block(
        self,
        rows: slice,
        columns: slice,
        c: FloatArray,
        k: FloatArray,
        d: FloatArray,
        t: FloatArray,
    ) -> None:
        """E[σσ] to ``k`` and E[σ'σ'] to ``d`` for covariances ``c``; ``t`` is scratch."""
        a, b = self.scale[rows, None], self.scale[None, columns]
        rho = np.clip(c / (a * b), -1, 1)
        far = np.abs(rho) > self.reach
        largest = float(np.abs(rho[~far]).max(initial=0.0))
        self._sum(rows, columns, self._terms(largest), rho, k, d, t)
        np.multiply(a, b, out=t)
        d /= t
        for i, j in np.argwhere(far):
            k[i, j], d[i, j] = pair_expectation(
                self.activation, float(a[i, 0]), float(b[0, j]), float(rho[i, j]), self.halvings
            )

    def _terms(self, rho: float) -> int:
        """How many terms suffice up to correlation ``rho``."""
        terms = np.arange(len(self.log_tail))
        remainder = self.log_tail + (terms - 1) * np.log(max(rho, 1e-300))
        if self.activation.has_jump:
            remainder += np.log(np.maximum(terms, 1))
        enough = np.flatnonzero(remainder <= np.log(TOLERANCE))
        return int(enough[0]) if len(enough) else len(self.coefficients)

    def _sum(
        self,
        rows: slice,
        columns: slice,
        terms: int,
        rho: FloatArray,
        p: FloatArray,
        q: FloatArray,
        t: FloatArray,
    ) -> None:
        """Σ c_k c_k ρ^k to ``p`` and its derivative in ρ to ``q``, by Horner's rule."""
        used = self.coefficients[:terms]
        peak = np.abs(used).max(axis=1)
        present = peak > 1e-15 * peak.max()
        parity = 0 if not present[1::2].any() else 1 if not present[::2].any() else None
        x = rho if parity is None else rho * rho
        p[...] = q[...] = 0
        for c in used[::-1] if parity is None else used[parity::2][::-1]:
            q *= x
            q += p
            p *= x
            np.multiply(c[rows, None], c[None, columns], out=t)
            p += t
        if parity == 0:
            q *= rho
            q *= 2
        elif parity == 1:
            q *= x
            q *= 2
            q += p
            p *= rho


def _expand(
    activation: AnyActivation, scales: FloatArray, degree: int, halvings: int
) -> FloatArray:
    """c_0 … c_degree, E σ², E σ'² of σ(aξ), one row for each of the scales a.

    Without a jump, c_k = a E[σ'(aξ) h_{k−1}] / √k, which keeps its digits as a goes to 0.
    """
    kinks = np.asarray(activation.breakpoints, dtype=np.float64) / scales[:, None]
    xi, weight = gaussian_panels(kinks.ravel(), 1.0, halvings)
    near = np.abs(xi) < _REACH
    xi, weight = xi[near], weight[near]
    t = scales[:, None] * xi
    value, slope = activation(t), activation.derivative(t)
    out = np.empty((degree + 3, len(scales)))
    out[0], out[-2], out[-1] = value @ weight, value**2 @ weight, slope**2 @ weight
    jump = activation.has_jump
    weighted = weight * (value if jump else slope)
    first = 0 if jump else 1
    h, before, product = np.ones_like(xi), np.zeros_like(xi), np.empty_like(xi)
    for k in range(degree + 1 - first):
        np.dot(weighted, h, out=out[k + first])
        np.multiply(xi, h, out=product)
        before *= -np.sqrt(k)
        before += product
        before /= np.sqrt(k + 1)
        h, before = before, h
    if not jump:
        out[1:-2] *= scales / np.sqrt(np.arange(1, degree + 1))[:, None]
    return out.T


def _resolve(activation: AnyActivation, scales: FloatArray, degree: int) -> tuple[int, FloatArray]:
    """The panel width at which the expansion no longer changes, and the expansion."""
    # Twenty nodes a panel resolve features of a quarter of its width.
    start = max(1, int(np.ceil(np.log2(scales.max()))) - 2)
    previous = _expand(activation, scales, degree, start)
    for halvings in range(start + 1, start + _MAX_HALVINGS):
        current = _expand(activation, scales, degree, halvings)
        change = np.abs(current - previous)
        power = current[:, -2:-1]
        if (change[:, :-2] <= TOLERANCE * np.sqrt(power)).all() and (
            change[:, -2:-1] <= TOLERANCE * power
        ).all():
            return halvings - 1, previous
        previous = current
    raise ValueError(
        f"the Hermite series of activation {activation.name!r} at scale {scales.max():.3g} did "
        "not converge; name every kink and jump in `breakpoints`"
    )


def _tails(activation: AnyActivation, expansion: FloatArray, scales: FloatArray) -> FloatArray:
    """Share of E σ'² (E σ² with a jump) in the terms from k on, k = 0 … degree + 1, each scale."""
    power, total = expansion[:, :-2] ** 2, expansion[:, -2]
    if not activation.has_jump:
        power, total = power * np.arange(power.shape[1]), scales**2 * expansion[:, -1]
    left = total[:, None] - np.insert(np.cumsum(power, axis=1), 0, 0.0, axis=1)
    # A constant has a total of 0, and leaves nothing.
    share = left / np.where(total > 0, total, 1.0)[:, None]
    return np.maximum(share, _ROUNDING)


def _expand_all(
    activation: AnyActivation, scale: FloatArray, degree: int, halvings: int
) -> FloatArray:
    """The expansion at every scale, (n, degree + 3).

    The coefficients are smooth functions of the scale: they are interpolated between Chebyshev
    points in its logarithm, doubled until the interpolant has converged. Scales far below the
    largest are done one by one, as are few or scattered ones.
    """
    unique, inverse = np.unique(scale, return_inverse=True)
    out = np.empty((len(unique), degree + 3))
    first = int(np.searchsorted(unique, unique[-1] / 100))
    direct = len(unique)
    points = 16
    while 2 * points < len(unique) - first:
        interpolated = _interpolate(activation, unique[first:], degree, halvings, points)
        if interpolated is not None:
            out[first:] = interpolated
            direct = first
            break
        points *= 2
    for i in range(0, direct, points):
        some = unique[i : min(i + points, direct)]
        out[i : i + len(some)] = _expand(activation, some, degree, halvings)
    return out[inverse]


def _interpolate(
    activation: AnyActivation, scale: FloatArray, degree: int, halvings: int, points: int
) -> FloatArray | None:
    """The expansion at increasing ``scale`` from that at ``points`` scales; None if too few."""
    log_scale = np.log(scale)
    middle, half = (log_scale[-1] + log_scale[0]) / 2, (log_scale[-1] - log_scale[0]) / 2
    nodes = chebpts1(points)
    values = _expand(activation, np.exp(middle + half * nodes), degree, halvings)
    series = np.linalg.solve(chebvander(nodes, points - 1), values)
    size = np.sqrt(np.abs(values[:, -2]).max())
    size = np.append(np.full(degree + 1, size), [size**2, np.abs(values[:, -1]).max()])
    if (np.abs(series[-2:]) > TOLERANCE / 10 * size).any():
        return None
    return chebvander((log_scale - middle) / half, points - 1) @ series


def pair_expectation(
    activation: AnyActivation, a: float, b: float, rho: float, halvings: int = 1
) -> tuple[float, float]:
    """E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for (u, v) of scales a, b and correlation ρ, by quadrature.

    Gauss–Legendre over u and, given u, over v: both split at the breakpoints, and the outer one
    also where a breakpoint of v passes through the inner Gaussian, whose width is √(1−ρ²). At a
    jump the derivative is a point mass. Error about 1e-13 of E σ² and E σ'².
    """
    breakpoints = np.asarray(activation.breakpoints, dtype=np.float64)
    jumps = np.asarray(activation.jumps, dtype=np.float64)
    width = max(np.sqrt((1 - rho) * (1 + rho)), 1e-300)
    layers = breakpoints[:, None] / b + width * np.linspace(-9, 9, 5)
    xi, weight = gaussian_panels(np.append(layers / rho, breakpoints / a), 1.0, halvings)
    near = np.abs(xi) < _INNER_REACH + 1
    xi, weight = xi[near], weight[near]
    k_given, d_given = _given(activation, jumps, b, rho * xi, width, halvings)
    value = weight * activation(a * xi) @ k_given
    slope = weight * activation.derivative(a * xi) @ d_given
    if activation.has_jump:
        at = breakpoints / a
        mass = jumps * np.exp(-(at**2) / 2) / (np.sqrt(2 * np.pi) * a)
        slope += mass @ _given(activation, jumps, b, rho * at, width, halvings)[1]
    return float(value), float(slope)


def _given(
    activation: AnyActivation,
    jumps: FloatArray,
    b: float,
    mean: FloatArray,
    width: float,
    halvings: int,
) -> tuple[FloatArray, FloatArray]:
    """E σ(b y) and E σ'(b y) for y ~ N(mean, width²), one for each entry of ``mean``."""
    kinks = ((np.asarray(activation.breakpoints) / b - mean[:, None]) / width).clip(-40, 40)
    panels = max(6, int(np.ceil(2 * _INNER_REACH * width * 2**halvings)))
    grid = np.linspace(-_INNER_REACH, _INNER_REACH, panels + 1)
    edges = np.concatenate(
        [np.broadcast_to(grid, (len(mean), len(grid))), kinks.clip(-_INNER_REACH, _INNER_REACH)],
        axis=1,
    )
    edges.sort(axis=1)
    node, gauss = leggauss(20)
    half = np.diff(edges)[..., None] / 2
    w = (edges[:, 1:] + edges[:, :-1])[..., None] / 2 + half * node
    weight = half * gauss * np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
    y = b * (mean[:, None, None] + width * w)
    value = (weight * activation(y)).sum(axis=(1, 2))
    slope = (weight * activation.derivative(y)).sum(axis=(1, 2))
    density = np.exp(-(kinks**2) / 2) / (np.sqrt(2 * np.pi) * width * b)
    return value, slope + density @ jumps if len(jumps) else slope
