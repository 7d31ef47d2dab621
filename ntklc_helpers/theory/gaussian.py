"""Integrals over ξ ~ N(0, 1): probabilities of cells, quadrature, the moments of a function."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import ndtr

from .._checks import FloatArray

# Beyond 38 standard deviations the Gaussian density is not a normal float64 number.
REACH = 38.0
_NODES = leggauss(20)


@frozen(slots=False)
class GaussianMoments:
    """Moments of σ(τξ), ξ ~ N(0, 1).

    Attributes
    ----------
    tau, mean : float
        The scale τ, and m = E σ.
    d1, d2 : float
        E σ' = E[ξ σ]/τ and E σ'' = E[(ξ² − 1) σ]/τ².
    square_d2, variance : float
        q = E[((σ − m)²)''] = E[(ξ² − 1)(σ − m)²]/τ² and v = E(σ − m)².
    derivative_power : float
        s = E[σ'²]; ``inf`` for an activation with a jump.

    Examples
    --------
    >>> round(np.pi * nh.gaussian_moments(nh.activation("sign")).linear_share, 9)
    2.0
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


def cell_probabilities(x: FloatArray) -> FloatArray:
    """P(x_j < ξ ≤ x_{j+1}) of the m cells, each by the tail that loses no digits."""
    lower, upper = np.append(-np.inf, x), np.append(x, np.inf)
    return np.where(lower > 0, ndtr(-lower) - ndtr(-upper), ndtr(upper) - ndtr(lower))


def gaussian_panels(
    breakpoints: ArrayLike, tau: float, halvings: int = 0, offset: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Nodes ξ and weights of a composite Gauss–Legendre rule for E f(ξ), ξ ~ N(0, 1).

    Panels of width 2^(−halvings) on [−38, 38], moved by the share ``offset`` of it and split at
    ``breakpoints / tau``; 20 nodes each. Exact to rounding for a function of τξ that is analytic
    between breakpoints.
    """
    width = 0.5**halvings
    kinks = np.asarray(breakpoints, dtype=np.float64) / tau
    kinks = kinks[np.abs(kinks) < REACH]
    grid = np.arange(-REACH, REACH + width / 2, width) + offset * width
    xi, weight = gauss_rule(np.union1d(grid, kinks))
    return xi.ravel(), weight.ravel()


def gauss_rule(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights (…, m, 20) under the standard Gaussian, between edges (…, m + 1)."""
    node, weight = _NODES
    half = np.diff(edges)[..., None] / 2
    x = (edges[..., 1:] + edges[..., :-1])[..., None] / 2 + half * node
    return x, half * weight * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
