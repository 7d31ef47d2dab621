"""What finite width adds to the spectrum of a kernel: the law of the bulk, and its outliers.

A layer of d neurons turns a kernel into a sample covariance of d draws, which spreads eigenvalues
as Marchenko and Pastur have it. Composed over layers, n/d_ℓ fixed, this is the law of Fan and Wang
(2020), for the tangent kernel too: a weighted sum of the conjugate kernels of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag
from scipy.optimize import brentq

from .._checks import array, same_length, samples, whole
from ..data.mixture import Statistics, class_means
from .angle import angle_series
from .coefficients import LayerCoefficients, diagonal_of, propagate
from .duals import FloatArray
from .moments import GaussianMoments, layer_moments

ComplexArray = NDArray[np.complex128]

# Relative to the mean eigenvalue: where the law is read off, and where the way down to it begins.
_HEIGHT, _FROM_ABOVE = 1e-3, 10.0
_SWEEPS, _CONVERGED = 5000, 1e-9


@frozen(eq=False)
class WidthLaw:
    """Limiting law of the eigenvalues of one random network's kernel, on given data.

    Attributes
    ----------
    values : (n,) array
        Eigenvalues of ZZᵀ, Z the data less their class means.
    identity, gain : (L,) arrays
        Layer ℓ's kernel, before its width counts, is identity_ℓ I + gain_ℓ · (layer ℓ − 1's).
    ratios : (L,) array
        n/d_ℓ.
    weights, shift : (L + 1,) array and float
        The kernel is Σ_ℓ weights_ℓ · (layer ℓ's conjugate kernel, ℓ = 0 the data's) + shift · I.
    """

    values: FloatArray
    identity: FloatArray
    gain: FloatArray
    ratios: FloatArray
    weights: FloatArray
    shift: float

    @property
    def mean(self) -> float:
        """Of the eigenvalues, which is that of the diagonal."""
        levels = [float(self.values.mean())]
        for a, b in zip(self.identity, self.gain, strict=True):
            levels.append(a + b * levels[-1])
        return float(self.shift + self.weights @ levels)

    def pdf(self, x: ArrayLike) -> FloatArray:
        """Density of the bulk at x (m,), smoothed over a thousandth of the mean.

        Errors as for :meth:`effective`.
        """
        return self.effective(array("x", x, 1))[0].imag / np.pi

    def effective(self, x: FloatArray) -> tuple[ComplexArray, ...]:
        """m, ζ, ξ (m,) and ω (L, m) at x: (K − x)⁻¹ is as (ζ I + ξ ZZᵀ)⁻¹, of mean trace m.

        ω_ℓ is the share that what is new in layer ℓ has there. Each solves
        1/ω_ℓ = 1/ξ_ℓ + (n/d_ℓ) T_ℓ with T_ℓ the mean trace of layer ℓ's kernel before its width
        counts, times the resolvent; by damped iteration, followed down from far above the axis.
        Raises RuntimeError if that has not converged after 5,000 steps.
        """
        omega = np.ones((len(self.gain), len(x)), np.complex128)
        for height in np.geomspace(_FROM_ABOVE, _HEIGHT, 9) * self.mean:
            omega = self._converge(x + 1j * height, omega)
        return *self._sweep(x + 1j * height, omega)[:3], omega

    def _converge(self, z: ComplexArray, omega: ComplexArray) -> ComplexArray:
        omega, left = omega.copy(), np.arange(len(z))
        for _ in range(_SWEEPS):
            old = omega[:, left]
            new = self._sweep(z[left], old)[-1]
            omega[:, left] = (old + new) / 2
            left = left[(np.abs(new - old) > _CONVERGED * np.abs(new)).any(axis=0)]
            if not left.size:
                return omega
        raise RuntimeError("the law at finite width did not converge")

    def _sweep(self, z: ComplexArray, omega: ComplexArray) -> tuple[ComplexArray, ...]:
        xi = self.weights[:, None] + np.vstack([self.gain[:, None] * omega, np.zeros_like(z)])
        zeta = self.shift - z + self.identity @ omega
        resolvent = 1 / (zeta + np.multiply.outer(self.values, xi[0]))
        m, theta = resolvent.mean(axis=0), self.values @ resolvent / len(self.values)
        new = np.empty_like(omega)
        for layer, ratio in enumerate(self.ratios):
            total = self.identity[layer] * m + self.gain[layer] * theta
            new[layer] = 1 / (1 / xi[layer + 1] + ratio * total)
            theta = new[layer] * total / xi[layer + 1]
        return m, zeta, xi[0], new


def width_law(
    X: ArrayLike,
    statistics: Statistics,
    coefficients: LayerCoefficients,
    widths: Sequence[int],
    kernel: str = "ck",
) -> WidthLaw:
    """The law of the bulk of a network's own kernel, its widths (d_1 … d_L) of the order of n.

    Parameters
    ----------
    X, statistics, coefficients
        As for :func:`ck_equivalent`; the layers are those of the coefficients.
    widths : sequence of int
    kernel : "ck" or "ntk"
        As :func:`empirical_ck` and :func:`empirical_ntk` compute them.

    Returns
    -------
    WidthLaw

    Raises
    ------
    ValueError
        As :func:`ck_equivalent`, and if there is not one width a layer.

    Notes
    -----
    Fan and Wang (2020), theorems 3.4 and 3.7, with layers' scales kept. Wide layers give back
    the equivalent's bulk; what is of low rank has no part in it: see :func:`width_outliers`.

    Examples
    --------
    >>> mixture = nh.GaussianMixture.preset("iid", p=50)
    >>> sample = mixture.sample(n=100)
    >>> coefficients = nh.propagate(["relu"])[-1]
    >>> law = nh.theory.width_law(sample.X, mixture.statistics(sample), coefficients, [100])
    >>> law.pdf([0.1, 5.0]).round(1).tolist()
    [1.9, 0.0]
    """
    X, moments, ratios = _checked(X, statistics, coefficients, widths, kernel)
    Z = X - statistics.J @ class_means(X, statistics.J)
    values = np.linalg.eigvalsh(Z.T @ Z if len(X) > X.shape[1] else Z @ Z.T)
    return _law(np.maximum(values, 0), len(X), moments, ratios, kernel)


def _law(
    squares: FloatArray, n: int, moments: Sequence[GaussianMoments], ratios: FloatArray, kernel: str
) -> WidthLaw:
    """The law for data with these squared singular values, up to n of them."""
    gain = np.array([g.d1**2 for g in moments])
    scales = np.array([g.tau**2 for g in moments])
    weights, shift, power = np.ones(len(gain) + 1), 0.0, 1.0
    if kernel == "ck":
        weights[:-1] = 0
    else:
        for layer in reversed(range(len(gain))):
            weights[layer] = weights[layer + 1] * gain[layer]
            power *= moments[layer].derivative_power
            shift += (power - weights[layer]) * scales[layer]
    values = np.pad(squares, (0, n - len(squares)))
    identity = np.array([g.variance for g in moments]) - gain * scales
    return WidthLaw(values, identity, gain, ratios, weights, float(shift))


def width_outliers(
    X: ArrayLike, statistics: Statistics, coefficients: LayerCoefficients, widths: Sequence[int]
) -> FloatArray:
    """Isolated eigenvalues, descending, above the bulk of a network's own conjugate kernel.

    Arguments and errors as for :func:`width_law`.

    Returns
    -------
    (r,) float64 array
        r may be 0.

    Raises
    ------
    RuntimeError
        As :meth:`WidthLaw.effective`.

    Notes
    -----
    With ω, ζ and ξ of :meth:`WidthLaw.effective`, λ is one where ζI + ξXXᵀ + Σ_ℓ ω_ℓ V A_ℓ Vᵀ is
    singular, A_ℓ being what layer ℓ adds to A. The random part of a hidden kernel's entries,
    τ⁴/d in the square, acts there as one more class mean common to all (and grows with n/d).

    Examples
    --------
    >>> mixture = nh.GaussianMixture.preset("means", p=100)
    >>> sample = mixture.sample(n=200)
    >>> coefficients, given = nh.propagate(["relu"])[-1], mixture.statistics(sample)
    >>> nh.theory.width_outliers(sample.X, given, coefficients, [10**6]).round(1).tolist()
    [5.6, 5.1]
    """
    X, moments, ratios = _checked(X, statistics, coefficients, widths, "ck")
    means = class_means(X, statistics.J)
    U, Lambda = _low_rank(X, means, statistics, coefficients)
    news = _new_terms(statistics, coefficients, moments, widths)
    E, singular, _ = np.linalg.svd(X - statistics.J @ means, full_matrices=False)
    values, UE, square = singular**2, U.T @ E, U.T @ U
    law = _law(values, len(X), moments, ratios, "ck")

    def crossing(x: float) -> FloatArray:
        _, zeta, xi, omega = (part[..., 0].real for part in law.effective(np.array([x])))
        inside = (UE / (zeta + xi * values)) @ UE.T + (square - UE @ UE.T) / zeta
        coupling = xi * Lambda
        coupling[-len(news[0]) :, -len(news[0]) :] += np.tensordot(omega, news, 1)
        one = np.eye(len(U.T))
        return np.asarray(np.linalg.eigvalsh(np.block([[coupling, one], [one, -inside]])))

    top = 4 * law.mean * len(X)
    edge = _edge(law, top)
    low, high = crossing(edge), crossing(top)
    rows = np.flatnonzero((low > 0) & (high < 0))
    found = [brentq(lambda x, i=i: crossing(x)[i], edge, top, rtol=1e-6) for i in rows]
    return np.sort(np.array(found))[::-1]


def _edge(law: WidthLaw, top: float) -> float:
    """A point just above the bulk."""
    grid = np.geomspace(law.mean, top, 200)
    inside = np.flatnonzero(law.pdf(grid) * law.mean > 0.01)
    return float(grid[min(inside.max(initial=0) + 2, len(grid) - 1)])


def _low_rank(
    X: FloatArray, means: FloatArray, statistics: Statistics, coefficients: LayerCoefficients
) -> tuple[FloatArray, FloatArray]:
    """U = [J, ZMᵀ, J/√p, u] and Λ with XXᵀ = ZZᵀ + UΛUᵀ, M the class means (K, p)."""
    k, J = len(means), statistics.J
    squared = np.einsum("ij,ij->i", X, X)
    series = angle_series(coefficients.activations, squared, 1, tau0=coefficients.tau0)
    constant = series.linear_part(squared)[1]
    slope = np.sqrt(coefficients.alpha[1])
    length = constant / slope if slope > 0 else squared[:, None] - statistics.tau0**2
    U = np.hstack([J, (X - J @ means) @ means.T, J / np.sqrt(statistics.p), length])
    Lambda = np.zeros((3 * k + 1, 3 * k + 1))
    Lambda[:k, :k], Lambda[:k, k : 2 * k] = means @ means.T, np.eye(k)
    Lambda[k : 2 * k, :k] = np.eye(k)
    return U, Lambda


def _new_terms(
    statistics: Statistics,
    coefficients: LayerCoefficients,
    moments: Sequence[GaussianMoments],
    widths: Sequence[int],
) -> FloatArray:
    """A_ℓ (L, K + 1, K + 1): what each layer adds beside [J/√p, u]."""
    layers = propagate(coefficients.activations, coefficients.tau0)
    before = [(1.0, 1.0), *((layer.alpha[0], layer.alpha[3]) for layer in layers)]
    random, found = 0.0, []
    for g, width, (linear, length) in zip(moments, widths, before, strict=False):
        squares = linear**2 * statistics.squares + statistics.p * random
        found.append(g.d2**2 * block_diag(squares / 2, length**2 / 4))
        random = g.variance**2 / width + g.d1**4 * random
    return np.array(found)


def _checked(
    X: ArrayLike,
    statistics: Statistics,
    coefficients: LayerCoefficients,
    widths: Sequence[int],
    kernel: str,
) -> tuple[FloatArray, tuple[GaussianMoments, ...], FloatArray]:
    if not isinstance(statistics, Statistics):
        raise ValueError(f"statistics must be Statistics, got {type(statistics)}")
    X = samples("X", X, statistics.p)
    same_length("X", list(X), "the rows of statistics", len(statistics.psi))
    diagonal_of(coefficients, kernel, statistics.tau0)
    moments = tuple(layer_moments(coefficients.activations, coefficients.tau0))
    same_length("widths", list(widths), "the layers of coefficients", len(moments))
    return X, moments, len(X) / np.array([whole("widths", width) for width in widths])
