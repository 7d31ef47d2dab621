"""How one layer of activations maps a kernel: E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for Gaussian (u, v).

Closed forms where one is known, otherwise the Hermite series of :mod:`ntklc_helpers.hermite`.
Each entry depends on three numbers only, so a kernel is worked through in small blocks, every
layer while the block is in cache; allocating temporaries costs more than the arithmetic, hence
``out=`` throughout the forms that large runs use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .activations import Activation, AnyActivation, Quantized
from .activations import activation as named
from .hermite import HermiteSeries

FloatArray = NDArray[np.float64]
# kernel(c, A, B, k, d, t): variances A (r, 1) and B (1, s), covariance c (r, s); writes
# E[σ(u)σ(v)] to k and E[σ'(u)σ'(v)] to d; may use t, and c itself, as scratch.
BlockKernel = Callable[..., None]
TINY = 1e-150


class Dual(Protocol):
    """One layer, prepared for the n input variances it will meet."""

    @property
    def mean(self) -> FloatArray: ...

    @property
    def square(self) -> FloatArray: ...

    @property
    def slope_square(self) -> FloatArray: ...

    def block(
        self,
        rows: slice,
        columns: slice,
        c: FloatArray,
        k: FloatArray,
        d: FloatArray,
        t: FloatArray,
        /,
    ) -> None: ...


@dataclass(frozen=True)
class ClosedForm:
    """A layer whose dual is known in closed form.

    Attributes
    ----------
    kernel : BlockKernel
    variance : (n,) array
        Var u_i, the diagonal of the layer's input kernel.
    mean, square, slope_square : (n,) arrays
        E σ(u_i), E σ(u_i)², E σ'(u_i)².
    """

    kernel: BlockKernel
    variance: FloatArray
    mean: FloatArray
    square: FloatArray
    slope_square: FloatArray

    def block(self, rows: slice, columns: slice, c: FloatArray, *out: FloatArray) -> None:
        """E[σσ], E[σ'σ'] of a block of covariances ``c``, into the first two of ``out``."""
        with np.errstate(divide="ignore"):
            self.kernel(c, self.variance[rows, None], self.variance[None, columns], *out)


def dual(activation: AnyActivation, variance: FloatArray) -> Dual:
    """The layer ``activation``, prepared for inputs of the given variances (n,)."""
    # A row of zeros is the limit of a small one, which no formula has to treat apart.
    variance = np.maximum(variance, TINY)
    form = _closed_form(activation)
    if form is None:
        return HermiteSeries.prepare(activation, variance)
    kernel, mean = form
    # The square of a float's root may miss it by a rounding, which at ρ = 1 would cost half the
    # digits; the root of a float's square is exact.
    exact = np.sqrt(variance)[None] ** 2
    c, square, slope, scratch = (exact.copy() for _ in range(4))
    with np.errstate(divide="ignore"):
        kernel(c, exact, exact, square, slope, scratch)
    return ClosedForm(
        kernel, variance, np.broadcast_to(mean(variance), variance.shape), square[0], slope[0]
    )


def _closed_form(
    activation: AnyActivation,
) -> tuple[BlockKernel, Callable[[FloatArray], FloatArray | float]] | None:
    """The block kernel and E σ(u) as a function of Var u, or None if not known."""
    if isinstance(activation, Quantized):
        if activation.thresholds == (0.0,):
            return _threshold(*activation.levels)
        return None
    params = dict(activation.params)
    if "slope" in params:
        return _leaky_relu(params["slope"])
    # An own function may carry any name: it is the function itself that identifies the form.
    for name, form in _FORMS.items():
        known = named(name)
        if isinstance(known, Activation) and activation.function is known.function:
            return form
    return None


def _arcsine(c: FloatArray, A: FloatArray, B: FloatArray, d: FloatArray, t: FloatArray) -> None:
    """ρ to d and √(AB) to t, for ρ = c/√(AB)."""
    np.multiply(np.sqrt(A), np.sqrt(B), out=t)
    np.divide(c, t, out=d)
    np.clip(d, -1, 1, out=d)


def _leaky_relu(
    slope: float,
) -> tuple[BlockKernel, Callable[[FloatArray], FloatArray | float]]:
    """σ(t) = (1+s)/2 t + (1−s)/2 |t|; the arc-cosine kernels of Cho and Saul (2009)."""
    linear, modulus = ((1 + slope) / 2) ** 2, ((1 - slope) / 2) ** 2 * 2 / np.pi

    def kernel(
        c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
    ) -> None:
        _arcsine(c, A, B, d, t)
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

    return kernel, lambda A: (1 - slope) / 2 * np.sqrt(2 * A / np.pi)


def _threshold(
    low: float, high: float
) -> tuple[BlockKernel, Callable[[FloatArray], FloatArray | float]]:
    """Two levels either side of 0, by P(u>0, v>0) = 1/4 + arcsin(ρ)/2π (Sheppard)."""
    middle, gain = (low + high) / 2, (high - low) ** 2 / (2 * np.pi)

    def kernel(
        c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
    ) -> None:
        _arcsine(c, A, B, d, t)
        np.arcsin(d, out=k)
        k *= gain
        k += middle**2
        np.multiply(d, d, out=d)
        np.subtract(1, d, out=d)
        np.sqrt(d, out=d)
        d *= t
        np.divide(gain, d, out=d)

    return kernel, lambda A: middle


def _erf(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    """(2/π) arcsin(2c / √((1+2A)(1+2B))) (Williams, 1997)."""
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


def _gelu(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    """tΦ(t): Gaussian integration by parts of E[uΦ(u) vΦ(v)], then ∂/∂c.

    With D = (1+A)(1+B) − c², κ = 1/(1+A) + 1/(1+B) − 1 and
    P = E[Φ(u)Φ(v)] = 1/4 + arcsin(c/√((1+A)(1+B)))/2π:
    E[σσ] = cP + (AB + κc²)/(2π√D).
    """
    product = (1 + A) * (1 + B)
    P = 0.25 + np.arcsin(c / np.sqrt(product)) / (2 * np.pi)
    D = product - c * c
    root = 2 * np.pi * np.sqrt(D)
    kappa = 1 / (1 + A) + 1 / (1 + B) - 1
    numerator = A * B + kappa * c * c
    k[...] = c * P + numerator / root
    d[...] = P + (c * (1 + 2 * kappa) + c * numerator / D) / root


def _sin(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    """e^(−(A+B)/2) sinh c, and cosh; written so that no exponential overflows."""
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


def _cos(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    """As sine, with value and derivative exchanged."""
    _sin(c, A, B, d, k, t)


def _gaussian(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    """((1+A)(1+B) − c²)^(−1/2): the determinant of a tilted Gaussian."""
    D = (1 + A) * (1 + B) - c * c
    k[...] = 1 / np.sqrt(D)
    d[...] = c * k / D


def _quadratic(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    k[...] = A * B + 2 * c * c
    d[...] = 4 * c


def _hermite3(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    """By Wick's theorem; both are polynomials in c."""
    mixed = 1.5 * (A - 1) * (B - 1)
    k[...] = c * (c * c + mixed)
    d[...] = 3 * c * c + mixed


def _linear(
    c: FloatArray, A: FloatArray, B: FloatArray, k: FloatArray, d: FloatArray, t: FloatArray
) -> None:
    k[...] = c
    d[...] = 1


_FORMS: dict[str, tuple[BlockKernel, Callable[[FloatArray], FloatArray | float]]] = {
    "relu": _leaky_relu(0.0),
    "abs": _leaky_relu(-1.0),
    "linear": (_linear, lambda A: 0.0),
    "erf": (_erf, lambda A: 0.0),
    "sin": (_sin, lambda A: 0.0),
    "cos": (_cos, lambda A: np.exp(-A / 2)),
    "gaussian": (_gaussian, lambda A: 1 / np.sqrt(1 + A)),
    "quadratic": (_quadratic, lambda A: A),
    "hermite3": (_hermite3, lambda A: 0.0),
    "gelu": (_gelu, lambda A: A / np.sqrt(2 * np.pi * (1 + A))),
}
