"""Limiting spectrum of the equivalent kernels: the density of the bulk and the outliers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from attrs import cmp_using, field, frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, eigh
from scipy.optimize import brentq

from .._checks import array, number, one_of, whole
from ..data.mixture import GaussianMixture
from .angle import angle_series
from .coefficients import LayerCoefficients
from .equivalents import structure
from .resolvent import Bulk, ComplexArray, covariances

FloatArray = NDArray[np.float64]

_NEGLIGIBLE = 1e-12


@frozen
class SpectralDensity:
    """A density on a few intervals, and a point mass.

    Attributes
    ----------
    edges : (m, 2) array
        The intervals, ascending; m may be 0.
    atom, atom_mass : float
        Place and size of the point mass; the size may be 0.
    series : (m, N) array
        Density times dx/dθ on x = middle − half-width · cos θ, as a cosine series in θ.
    """

    edges: FloatArray = field(eq=cmp_using(np.array_equal))
    atom: float
    atom_mass: float
    series: FloatArray = field(eq=cmp_using(np.array_equal))

    @property
    def x(self) -> FloatArray:
        """A grid over all intervals, dense near their edges, to plot the density on."""
        middle, half = self.edges.mean(axis=1), np.diff(self.edges)[:, 0] / 2
        angle = np.linspace(0, np.pi, 401)
        return (middle[:, None] - half[:, None] * np.cos(angle)).ravel()

    def pdf(self, x: ArrayLike) -> FloatArray:
        """Density of the continuous part at ``x``; its integral is 1 − ``atom_mass``."""
        x = array("x", x, np.ndim(x))
        out = np.zeros(x.shape)
        for (left, right), series in zip(self.edges, self.series, strict=True):
            angle = _angle(x, left, right)
            inside = (angle > 0) & (angle < np.pi)
            theta = angle[inside]
            mass = np.cos(np.multiply.outer(theta, np.arange(len(series)))) @ series
            out[inside] = np.maximum(mass, 0) / ((right - left) / 2 * np.sin(theta))
        return out

    def cdf(self, x: ArrayLike) -> FloatArray:
        """Share of the eigenvalues that are at most ``x``."""
        x = array("x", x, np.ndim(x))
        out = np.where(x >= self.atom, self.atom_mass, 0.0)
        for (left, right), series in zip(self.edges, self.series, strict=True):
            theta = _angle(x, left, right)
            k = np.arange(1, len(series))
            out = out + theta * series[0] + np.sin(np.multiply.outer(theta, k)) @ (series[1:] / k)
        return out

    def kolmogorov(self, eigenvalues: ArrayLike) -> float:
        """Largest distance between this distribution function and that of some eigenvalues."""
        values = np.sort(array("eigenvalues", eigenvalues, 1))
        # Eigenvalues at the point mass carry rounding errors of either sign.
        values[np.abs(values - self.atom) < 1e-9 * self.atom] = self.atom
        values, counts = np.unique(values, return_counts=True)
        steps, at = np.cumsum(counts) / counts.sum(), self.cdf(values)
        before = at - np.where(values == self.atom, self.atom_mass, 0.0)
        below = np.append(0.0, steps[:-1])
        return float(max(np.abs(at - steps).max(), np.abs(before - below).max()))

    def isolated(self, values: ArrayLike, margin: float = 0.05) -> FloatArray:
        """Those of the values above bulk and point mass by a relative ``margin``, descending."""
        values = np.sort(array("values", values, 1))[::-1]
        edge = max([self.atom, *self.edges.ravel()])
        return values[values > (1 + number("margin", margin)) * edge]


def _angle(x: FloatArray, left: float, right: float) -> FloatArray:
    return np.arccos(np.clip((left + right - 2 * x) / (right - left), -1, 1))


@frozen
class Outlier:
    """A predicted isolated eigenvalue.

    ``alignment`` (K,) are the squared cosines of its eigenvector with each class vector j_a/√n_a;
    for a multiple eigenvalue, of each vector of one orthonormal basis of the eigenspace.
    """

    value: float
    alignment: FloatArray = field(eq=cmp_using(np.array_equal))


def limiting_spectrum(
    mixture: GaussianMixture,
    n: int,
    coefficients: LayerCoefficients,
    kernel: str = "ck",
    order: str = "limit",
) -> tuple[SpectralDensity, tuple[Outlier, ...]]:
    """Where the eigenvalues of a kernel's equivalent lie, for n samples of a mixture.

    ``coefficients`` are those of the layer wanted, ``propagate(activations, mixture.tau0)[-1]``;
    ``kernel`` is ``"ck"`` or ``"ntk"``; ``order="finite"`` takes in what lengths and means still
    do at the mixture's own dimension.

    Returns
    -------
    density : SpectralDensity
        Of the bulk. A point mass stands for the directions that the data do not reach, and for
        the whole bulk if the kernel has no linear part (α₁ = 0, as for an even activation).
    outliers : tuple of Outlier
        Outside the bulk, largest first; a multiple eigenvalue appears as often as it occurs.

    Raises
    ------
    ValueError
        If ``n`` leaves a class with no sample, or as :func:`ntk_equivalent`.
    RuntimeError
        If the solver found intervals that do not carry the whole mass.

    Notes
    -----
    K̃ = α₁ZZᵀ + UΛUᵀ + ρI with U = [J/√p, ZL, ψ], where the means are M = LRᵀ with orthonormal L.
    The bulk is that of ZZᵀ, scaled and shifted. With Q = (ZZᵀ − z)⁻¹, z = (λ − ρ)/α₁ and W the
    limit of UᵀQU, outliers solve det(I + ΛW/α₁) = 0. The symmetric matrix [[Λ/α₁, I], [I, −W]]
    has that determinant but for its sign, and is non-increasing in z outside the support: its
    eigenvalues cross 0 downwards, once each, so no root is missed. At a null vector (x, y) the
    residue of the resolvent gives ``|uᵀj_a|² = p x_a² / (yᵀW'y)``.

    At finite size ψ gives way to the deviation of u₀ (see :func:`ck_equivalent`) from its mean in
    the class, t to those means, T to p E(x_iᵀx_j)², and α₁ to that at the mean length; that
    ‖x_i‖² varies with μ_aᵀz_i makes it depend on Zᵀμ_a, and W gets an entry between the two. Of
    order p^(−1/2) or less is left out: that the coefficients of single samples differ elsewhere.

    Takes a second at p = 1,000 where the covariances have common eigenvectors; otherwise each of
    some thousand evaluations inverts a p × p matrix, minutes at that size.

    Examples
    --------
    >>> mixture = nh.GaussianMixture(means=[[2, 0, 0, 0]], covariances=[np.eye(4)])
    >>> density, outliers = nh.limiting_spectrum(mixture, 8, nh.propagate(["linear"])[-1])
    >>> density.edges.round(3).tolist(), [round(outlier.value, 3) for outlier in outliers]
    ([[0.172, 5.828]], [11.25])
    """
    if not isinstance(mixture, GaussianMixture):
        raise ValueError(f"mixture must be a GaussianMixture, got {type(mixture)}")
    sizes = mixture.class_sizes(whole("n", n))
    one_of("order", order, ("limit", "finite"))
    scale, A, shift = structure(coefficients, kernel, mixture, order)
    ratios, spread = sizes / mixture.p, 2 * mixture.T.diagonal()
    slope = np.zeros(len(ratios))
    if order == "finite":
        scale, A, shift, spread, slope = _finite_structure(coefficients, kernel, mixture)
    if scale * mixture.tau0**2 <= _NEGLIGIBLE * shift:
        density = SpectralDensity(np.empty((0, 2)), shift, 1.0, np.empty((0, 1)))
        return density, _outliers_without_bulk(A, ratios, spread, shift)
    pencil = _pencil(mixture, ratios, A / scale, spread, slope)
    bulk = pencil.bulk
    support = bulk.support()
    density = _density(bulk, support, scale, shift)
    # Open intervals between the parts of the spectrum of ZZᵀ, of which 0 is one.
    zero = [0.0, 0.0] if support[0][0] > 0 else []
    gaps = np.sort([-np.inf, *zero, *np.ravel(support), np.inf]).reshape(-1, 2)
    found = [
        Outlier(shift + scale * z, alignment / sizes * mixture.p)
        for left, right in gaps
        for z, alignment in pencil.roots(left, right)
    ]
    return density, tuple(sorted(found, key=lambda outlier: -outlier.value))


def class_resolvent(
    mixture: GaussianMixture, n: int, coefficients: LayerCoefficients, kernel: str
) -> tuple[Callable[[complex], ComplexArray], tuple[float, float]]:
    """A function of λ, Im λ > 0, that gives the limits of j_aᵀ(K̃ − λ)⁻¹j_b (K, K) for the vectors
    of n samples' classes; and the least and the largest value in the limiting spectrum of K̃.

    Errors as for :func:`limiting_spectrum`. Notation as there: by Woodbury's formula
    (K̃ − λ)⁻¹ = (Q − QU(I + ΛW/α₁)⁻¹(Λ/α₁)UᵀQ)/α₁, so that Uᵀ(K̃ − λ)⁻¹U = (I + WΛ/α₁)⁻¹W/α₁.

    >>> from ntklc_helpers.theory.spectrum import class_resolvent
    >>> mixture = nh.GaussianMixture.preset("means", p=50, n_classes=2)
    >>> layer = nh.propagate(["erf"], mixture.tau0)[-1]
    >>> form, ends = class_resolvent(mixture, 100, layer, "ntk")
    >>> form(1e6j).shape, ends[0] > 0
    ((2, 2), True)
    """
    density, outliers = limiting_spectrum(mixture, n, coefficients, kernel)
    atom = [density.atom] if density.atom_mass > 0 else []
    seen = [*density.edges.ravel(), *atom, *(one.value for one in outliers)]
    scale, A, shift = structure(coefficients, kernel, mixture)
    ratios, spread = mixture.class_sizes(n) / mixture.p, 2 * mixture.T.diagonal()
    k = len(ratios)
    if not len(density.edges):
        # No bulk: UᵀU alone counts, whose limit is W but for a factor.
        V, couplings = np.diag(np.append(ratios, ratios @ spread)), A

        def flat(z: complex) -> ComplexArray:
            W = V / (shift - z)
            return mixture.p * np.linalg.solve(np.eye(k + 1) + W @ couplings, W)[:k, :k]

        return flat, (min(seen), max(seen))
    pencil = _pencil(mixture, ratios, A / scale, spread, np.zeros(k))
    identity = np.eye(len(pencil.couplings))
    start = [np.full(k, 1j * pencil.bulk.norm / pencil.bulk.top)]

    def form(z: complex) -> ComplexArray:
        at = (z - shift) / scale
        start[0] = pencil.bulk.above(at, start[0])
        W = pencil.forms(at, start[0], np.zeros(k))[0]
        return mixture.p / scale * np.linalg.solve(identity + W @ pencil.couplings, W)[:k, :k]

    return form, (min(seen), max(seen))


def _pencil(
    mixture: GaussianMixture,
    ratios: FloatArray,
    A: FloatArray,
    spread: FloatArray,
    slope: FloatArray,
) -> _Pencil:
    """What couples the outliers to the bulk; A relative to α₁."""
    L, singular, Rt = np.linalg.svd(mixture.means.T, full_matrices=False)
    rank = int((singular > 1e-12 * max(singular[0], 1.0)).sum())
    along = np.einsum("aij,aj,a->ia", mixture.covariances, mixture.means, 2 * slope)
    directions = np.hstack([L[:, :rank], along / np.sqrt(mixture.p)])
    R, k = Rt[:rank].T * singular[:rank], len(ratios)
    couplings = [
        [A[:k, :k] + R @ R.T, R, A[:k, k:]],
        [R.T, np.zeros((rank, rank + 1))],
        [A[k:, :k], np.zeros((1, rank)), A[k:, k:]],
    ]
    return _Pencil(Bulk(covariances(mixture, directions), ratios), np.block(couplings), spread)


def _finite_structure(
    coefficients: LayerCoefficients, kernel: str, mixture: GaussianMixture
) -> tuple[float, FloatArray, float, FloatArray, FloatArray]:
    """α_1, A, ρ, p times the variance of u_0 in each class (K,), and its slope in ‖x‖² (K,)."""
    M, C, p, k = mixture.means, mixture.covariances, mixture.p, mixture.n_classes
    lengths = (np.trace(C, axis1=1, axis2=2) + np.sum(M**2, axis=1)) / p
    along = np.einsum("ai,aij,aj->a", M, C, M)
    deviation = np.sqrt(2 * mixture.T.diagonal() * p + 4 * along) / p
    middle = float(mixture.proportions @ lengths)
    at = np.array([middle, *(lengths - deviation), *(lengths + deviation)])
    tau0 = coefficients.tau0
    series = angle_series(coefficients.activations, at, 1, kernel=kernel, tau0=tau0)
    linear, constant = (part[:, 0] for part in series.linear_part(at))
    scale, (below, above) = float(linear[0] ** 2 / middle), constant[1:].reshape(2, k)
    mean, half = (above + below) / 2, (above - below) / 2
    A = np.ones((k + 1, k + 1))
    A[:k, :k] = p * np.outer(mean, mean) + coefficients.gain(kernel)[2] * mixture.squares
    A[:k, k] = A[k, :k] = np.sqrt(p) * mean
    diagonal = (series.basis(lengths) @ series.diagonal) - mean**2 - half**2 - scale * lengths
    return scale, A, float(mixture.proportions @ diagonal), p * half**2, half / deviation


def _density(
    bulk: Bulk, support: list[tuple[float, float]], scale: float, shift: float
) -> SpectralDensity:
    series = np.array([bulk.mass(left, right) for left, right in support])
    masses = np.pi * series[:, 0]
    atom_mass, bound = 1 - float(masses.sum()), bulk.mass_below()
    if abs(atom_mass - bound) > 5e-3:
        raise RuntimeError(
            f"the intervals found carry a mass of {masses.sum():.4f}, and the atom at 0 one of at "
            f"most {bound:.4f}: an interval was missed"
        )
    atom_mass = 0.0 if atom_mass < 1e-5 else atom_mass
    series *= (1 - atom_mass) / masses.sum()
    return SpectralDensity(shift + scale * np.array(support), shift, atom_mass, series)


class _Pencil:
    """The matrix [[Λ/α₁, I], [I, −W(z)]] of the outliers, along the real axis."""

    def __init__(self, bulk: Bulk, couplings: FloatArray, spread: FloatArray) -> None:
        self.bulk, self.couplings, self.spread = bulk, couplings, spread
        # δ at the points visited, to start from at the next.
        self.visited: dict[float, FloatArray] = {}

    def delta(self, z: float) -> FloatArray:
        if z not in self.visited:
            near = min(self.visited, key=lambda other: abs(other - z), default=None)
            there = None if near is None else self.bulk.outside(z, self.visited[near])
            if there is None:
                there = self.bulk.outside(z, self.bulk.descend(z).real)
            if there is None:
                raise RuntimeError(f"no real solution at z={z}, outside the support")
            self.visited[z] = there[0]
        return self.visited[z]

    def limit(self, z: float) -> tuple[FloatArray, FloatArray]:
        """W(z) and W'(z)."""
        bulk, delta = self.bulk, self.delta(z)
        _, psi, forcing = bulk.linearise(delta, z)
        slope = np.linalg.solve(np.eye(len(delta)) - psi, forcing)
        return self.forms(z, delta, slope)

    def forms(
        self, z: complex, delta: ComplexArray, slope: ComplexArray
    ) -> tuple[ComplexArray, ComplexArray]:
        """W and its derivative, where δ is ``delta`` and δ' ``slope``."""
        bulk = self.bulk
        g = -1 / (z * (1 + delta))
        dg = g * (-1 / z - slope / (1 + delta))
        x = bulk.ratios / (1 + delta)
        F, dF = bulk.covariances.forms(x, z, -x * slope / (1 + delta))
        r, weight, k = bulk.ratios, bulk.ratios * self.spread, len(delta)
        rank = len(F) - k
        (F, along), (dF, d_along) = ((f[:rank, :rank], f[:rank, rank:]) for f in (F, dF))
        W = block_diag(np.diag(r * g), np.eye(rank) + z * F, weight @ g)
        dW = block_diag(np.diag(r * dg), F + z * dF, weight @ dg)
        W[k:-1, -1] = W[-1, k:-1] = -z * along @ (r * g)
        dW[k:-1, -1] = dW[-1, k:-1] = -(along + z * d_along) @ (r * g) - z * along @ (r * dg)
        return W, dW

    def matrix(self, z: float) -> FloatArray:
        W, identity = self.limit(z)[0], np.eye(len(self.couplings))
        return np.block([[self.couplings, identity], [identity, -W]])

    def eigenvalues(self, z: float) -> FloatArray:
        return np.asarray(np.linalg.eigvalsh(self.matrix(z)), np.float64)

    def roots(self, left: float, right: float) -> list[tuple[float, FloatArray]]:
        """Roots in an interval outside the support, each with ``|uᵀj_a|²/p``."""
        a, b = self._ends(left, right)
        if a >= b:
            return []
        crossing = np.flatnonzero((self.eigenvalues(a) > 0) & (self.eigenvalues(b) < 0))
        top = self.bulk.top
        find = partial(brentq, a=a, b=b, xtol=1e-12 * top)
        places = np.sort([find(lambda z, i=i: self.eigenvalues(z)[i]) for i in crossing])
        groups = np.split(places, np.flatnonzero(np.diff(places) > 1e-9 * top) + 1)
        return [root for group in groups if len(group) for root in self._at(group)]

    def _ends(self, left: float, right: float) -> tuple[float, float]:
        """The interval, kept clear of the support and cut where no root can follow."""
        top, k = self.bulk.top, len(self.couplings)
        a, b = left + 1e-6 * top, right - 1e-6 * top
        for sign in (-1, 1):
            if np.isinf((left, right)[sign > 0]):
                end = sign * 2 * top
                # W vanishes at infinity, where as many eigenvalues are positive as negative.
                while (self.eigenvalues(end) > 0).sum() != k:
                    end *= 2
                a, b = (end, b) if sign < 0 else (a, end)
        return a, b

    def _at(self, places: FloatArray) -> list[tuple[float, FloatArray]]:
        """The roots at an eigenvalue as multiple as it was found."""
        z, m = float(np.mean(places)), len(places)
        values, vectors = eigh(self.matrix(z))
        x, y = np.split(vectors[:, np.argsort(np.abs(values))[:m]], 2)
        size, basis = eigh(y.T @ self.limit(z)[1] @ y)
        x = x @ basis / np.sqrt(size)
        return [(z, x[: len(self.bulk.ratios), i] ** 2) for i in range(m)]


def _outliers_without_bulk(
    A: FloatArray, ratios: FloatArray, spread: FloatArray, shift: float
) -> tuple[Outlier, ...]:
    """Eigenvalues of VAVᵀ + shift I, with VᵀV at its limit diag(n_a/p, Σ_a n_a Var ψ)."""
    root = np.sqrt(np.append(ratios, ratios @ spread))
    values, vectors = np.linalg.eigh(root[:, None] * A * root)
    return tuple(
        Outlier(shift + value, vectors[:-1, i] ** 2)
        for i, value in reversed(list(enumerate(values)))
        if abs(value) > _NEGLIGIBLE * abs(values).max()
    )
