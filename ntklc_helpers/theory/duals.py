"""Closed forms of how an activation maps a kernel: E[σ(u)σ(v)] and E[σ'(u)σ'(v)], (u, v) Gaussian.

Each entry depends on three numbers: cov(u, v) = c, Var u = A, Var v = B. The forms that large runs
use work in place, below the formula they compute: a kernel is worked through in blocks that fit a
cache, where allocating temporaries costs more than the arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Pair = tuple[FloatArray, FloatArray]
Buffers = tuple[FloatArray, FloatArray, FloatArray]

# A variance of zero is the limit of a small one, which no formula has to treat apart.
TINY = 1e-150


class ClosedForm(ABC):
    """An activation's dual: a function of covariance and variances, of any shape, elementwise.

    Examples
    --------
    >>> k, k_dot = nh.activation("relu").dual(0.5, 1.0, 1.0)
    >>> round(float(k), 6), round(float(k_dot), 6)
    (0.304499, 0.333333)
    """

    def __call__(self, covariance: ArrayLike, variance_1: ArrayLike, variance_2: ArrayLike) -> Pair:
        """E[σ(u)σ(v)] and E[σ'(u)σ'(v)], of the shape to which the three broadcast."""
        c, A, B = (np.asarray(x, np.float64) for x in (covariance, variance_1, variance_2))
        c = np.array(np.broadcast_to(c, np.broadcast_shapes(c.shape, A.shape, B.shape)))
        out = np.empty_like(c), np.empty_like(c), np.empty_like(c)
        return self.pair(c, np.maximum(A, TINY), np.maximum(B, TINY), out)

    def power(self, variance: FloatArray) -> Pair:
        """E σ(u)² and E σ'(u)²."""
        # The square of a float's root may miss it by a rounding, which at correlation 1 would
        # cost half the digits; the root of a float's square is exact.
        exact = np.sqrt(np.maximum(variance, TINY)) ** 2
        return self(exact, exact, exact)

    def mean(self, A: FloatArray) -> FloatArray:
        """E σ(u); 0 for an odd function."""
        return np.zeros_like(A)

    @abstractmethod
    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        """As a call, but ``c`` and ``out`` may be overwritten; the first two of ``out`` may hold
        the result, in this order, and the third does not.
        """


def _correlation(c: FloatArray, A: FloatArray, B: FloatArray, d: FloatArray, t: FloatArray) -> None:
    """ρ = c/√(AB) to d and √(AB) to t."""
    np.multiply(np.sqrt(A), np.sqrt(B), out=t)
    np.divide(c, t, out=d)
    np.clip(d, -1, 1, out=d)


class Linear(ClosedForm):
    """k = c, k̇ = 1."""

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        return c.copy(), np.ones_like(c)


@frozen
class LeakyRelu(ClosedForm):
    """σ(t) = t for t > 0, else s t; the arc-cosine kernels of Cho and Saul (2009).

    With ℓ = (1+s)²/4 and m = (1−s)²/2π:
    k = m (√(AB) √(1−ρ²) + c arcsin ρ) + ℓc and k̇ = m arcsin ρ + ℓ.
    """

    slope: float

    def mean(self, A: FloatArray) -> FloatArray:
        return (1 - self.slope) / 2 * np.sqrt(2 * A / np.pi)

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        linear, modulus = ((1 + self.slope) / 2) ** 2, ((1 - self.slope) / 2) ** 2 * 2 / np.pi
        k, d, t = out
        _correlation(c, A, B, d, t)
        np.multiply(d, d, out=k)
        np.subtract(1, k, out=k)
        np.sqrt(k, out=k)
        k *= t
        np.arcsin(d, out=d)
        np.multiply(c, d, out=t)
        k += t
        k *= modulus
        c *= linear
        k += c
        d *= modulus
        d += linear
        return k, d


@frozen
class Threshold(ClosedForm):
    """Two levels either side of 0, by P(u>0, v>0) = 1/4 + arcsin(ρ)/2π (Sheppard).

    With m the levels' mean and g = (high − low)²/2π:
    k = m² + g arcsin ρ and k̇ = g/(√(AB) √(1−ρ²)), which is infinite at ρ = ±1.
    """

    low: float
    high: float

    def mean(self, A: FloatArray) -> FloatArray:
        return np.full_like(A, (self.low + self.high) / 2)

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        middle, gain = (self.low + self.high) / 2, (self.high - self.low) ** 2 / (2 * np.pi)
        k, d, t = out
        _correlation(c, A, B, d, t)
        np.arcsin(d, out=k)
        k *= gain
        k += middle**2
        np.multiply(d, d, out=d)
        np.subtract(1, d, out=d)
        np.sqrt(d, out=d)
        d *= t
        with np.errstate(divide="ignore"):
            np.divide(gain, d, out=d)
        return k, d


class Erf(ClosedForm):
    """With D = (1+2A)(1+2B): k = (2/π) arcsin(2c/√D), k̇ = (4/π)/√(D − 4c²) (Williams, 1997)."""

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        k, d, t = out
        np.multiply(np.sqrt(1 + 2 * A), np.sqrt(1 + 2 * B), out=t)
        c *= 2
        np.divide(c, t, out=k)
        np.arcsin(k, out=k)
        k *= 2 / np.pi
        np.multiply(t, t, out=d)
        c *= c
        d -= c
        np.sqrt(d, out=d)
        np.divide(4 / np.pi, d, out=d)
        return k, d


class Gelu(ClosedForm):
    """tΦ(t): Gaussian integration by parts of E[uΦ(u) vΦ(v)], then ∂/∂c."""

    def mean(self, A: FloatArray) -> FloatArray:
        return A / np.sqrt(2 * np.pi * (1 + A))

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        product = (1 + A) * (1 + B)
        # E[Φ(u)Φ(v)]
        P = 0.25 + np.arcsin(c / np.sqrt(product)) / (2 * np.pi)
        D = product - c * c
        root = 2 * np.pi * np.sqrt(D)
        kappa = 1 / (1 + A) + 1 / (1 + B) - 1
        numerator = A * B + kappa * c * c
        return c * P + numerator / root, P + (c * (1 + 2 * kappa) + c * numerator / D) / root


class Sin(ClosedForm):
    """k = e^(−(A+B)/2) sinh c, k̇ = e^(−(A+B)/2) cosh c; so that no exponential overflows."""

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        k, d, t = out
        np.add(A / 2, B / 2, out=t)
        np.subtract(c, t, out=k)
        np.exp(k, out=k)
        c += t
        np.negative(c, out=c)
        np.exp(c, out=c)
        np.add(k, c, out=d)
        k -= c
        k /= 2
        d /= 2
        return k, d


class Cos(Sin):
    """k = e^(−(A+B)/2) cosh c, k̇ = e^(−(A+B)/2) sinh c."""

    def mean(self, A: FloatArray) -> FloatArray:
        return np.exp(-A / 2)

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        k, d, t = out
        super().pair(c, A, B, (d, k, t))
        return k, d


class Gaussian(ClosedForm):
    """k = ((1+A)(1+B) − c²)^(−1/2): the determinant of a tilted Gaussian."""

    def mean(self, A: FloatArray) -> FloatArray:
        return 1 / np.sqrt(1 + A)

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        D = (1 + A) * (1 + B) - c * c
        k = 1 / np.sqrt(D)
        return k, c * k / D


class Quadratic(ClosedForm):
    """σ(t) = t², by Wick's theorem."""

    def mean(self, A: FloatArray) -> FloatArray:
        return A

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        with np.errstate(over="ignore"):
            return A * B + 2 * c * c, 4 * c


class Hermite3(ClosedForm):
    """σ(t) = (t³ − 3t)/√6, by Wick's theorem."""

    def pair(self, c: FloatArray, A: FloatArray, B: FloatArray, out: Buffers) -> Pair:
        mixed = 1.5 * (A - 1) * (B - 1)
        return c * (c * c + mixed), 3 * c * c + mixed
