"""Limiting spectrum of the equivalent kernels: the density of the bulk and the outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bulk import Bulk, covariances
from .equivalents import LayerCoefficients, gains, low_rank_core
from .gmm import GaussianMixture
from .outliers import Pencil
from .validation import positive_integer

FloatArray = NDArray[np.float64]

_NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
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

    edges: FloatArray
    atom: float
    atom_mass: float
    series: FloatArray

    @property
    def x(self) -> FloatArray:
        """A grid over all intervals, dense near their edges, to plot the density on."""
        middle, half = self.edges.mean(axis=1), np.diff(self.edges)[:, 0] / 2
        angle = np.linspace(0, np.pi, 401)
        return (middle[:, None] - half[:, None] * np.cos(angle)).ravel()

    def pdf(self, x: ArrayLike) -> FloatArray:
        """Density of the continuous part at ``x``; its integral is 1 − ``atom_mass``."""
        x = np.asarray(x, dtype=np.float64)
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
        x = np.asarray(x, dtype=np.float64)
        out = np.where(x >= self.atom, self.atom_mass, 0.0)
        for (left, right), series in zip(self.edges, self.series, strict=True):
            theta = _angle(x, left, right)
            k = np.arange(1, len(series))
            out = out + theta * series[0] + np.sin(np.multiply.outer(theta, k)) @ (series[1:] / k)
        return out


def _angle(x: FloatArray, left: float, right: float) -> FloatArray:
    return np.arccos(np.clip((left + right - 2 * x) / (right - left), -1, 1))


@dataclass(frozen=True)
class Outlier:
    """A predicted isolated eigenvalue.

    Attributes
    ----------
    value : float
    alignment : (K,) array
        Squared cosine of its eigenvector with each class vector j_a/√n_a. For a multiple
        eigenvalue, of each vector of one orthonormal basis of the eigenspace.
    """

    value: float
    alignment: FloatArray


def limiting_spectrum(
    mixture: GaussianMixture, n: int, coefficients: LayerCoefficients, kernel: str = "ck"
) -> tuple[SpectralDensity, tuple[Outlier, ...]]:
    """Where the eigenvalues of a kernel's equivalent lie, for n samples of a mixture.

    Parameters
    ----------
    mixture : GaussianMixture
    n : int
        Number of samples.
    coefficients : LayerCoefficients
        Of the layer wanted, ``propagate(activations, tau0=mixture.tau0)[-1]``.
    kernel : str
        ``"ck"`` or ``"ntk"``.

    Returns
    -------
    density : SpectralDensity
        Of the bulk. A point mass stands for the directions that the data does not reach, and for
        the whole bulk if the kernel has no linear part (α₁ = 0, as for an even activation).
    outliers : tuple of Outlier
        Outside the bulk, largest first; a multiple eigenvalue appears as often as it occurs.

    Raises
    ------
    ValueError
        If ``n`` leaves a class with no sample, ``kernel`` is unknown, the coefficients were made
        for another τ₀, or the NTK's diagonal is infinite because an activation jumps.
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

    Takes a second or so at p = 1,000 where the covariances have common eigenvectors; otherwise
    each of some thousand evaluations inverts a p × p matrix, minutes at that size.
    """
    n = positive_integer("n", n)
    sizes = mixture.class_sizes(n)
    tau0 = mixture.tau0
    gain, diagonal = gains(coefficients, kernel, tau0)
    scale, shift = float(gain[0]), float(diagonal - tau0**2 * gain[0])
    ratios = sizes / mixture.p
    A, spread = low_rank_core(gain, mixture.t, mixture.T), 2 * mixture.T.diagonal()
    if scale * tau0**2 <= _NEGLIGIBLE * diagonal:
        density = SpectralDensity(np.empty((0, 2)), float(diagonal), 1.0, np.empty((0, 1)))
        return density, _outliers_without_bulk(A, ratios, spread, float(diagonal))
    L, singular, Rt = np.linalg.svd(mixture.means.T, full_matrices=False)
    rank = int((singular > 1e-12 * max(singular[0], 1.0)).sum())
    bulk = Bulk(covariances(mixture, L[:, :rank]), ratios)
    support = bulk.support()
    density = _density(bulk, support, scale, shift)
    R = Rt[:rank].T * singular[:rank]
    pencil = Pencil(bulk, _couplings(A / scale, R), spread)
    found = [
        Outlier(shift + scale * z, alignment / sizes * mixture.p)
        for left, right in _gaps(support, density.atom_mass)
        for z, alignment in pencil.roots(left, right)
    ]
    return density, tuple(sorted(found, key=lambda outlier: -outlier.value))


def _couplings(A: FloatArray, R: FloatArray) -> FloatArray:
    """Λ/α₁ in the basis [J/√p, ZL, ψ], from A/α₁ and the means' coordinates R (K, r)."""
    k, r = R.shape
    out = np.zeros((k + r + 1,) * 2)
    at = [*range(k), k + r]
    out[np.ix_(at, at)] = A
    out[:k, :k] += R @ R.T
    out[:k, k : k + r], out[k : k + r, :k] = R, R.T
    return out


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
    if atom_mass < 1e-5:
        atom_mass = 0.0
    series *= (1 - atom_mass) / masses.sum()
    return SpectralDensity(shift + scale * np.array(support), shift, atom_mass, series)


def _gaps(support: list[tuple[float, float]], atom_mass: float) -> list[tuple[float, float]]:
    """Open intervals between the parts of the spectrum of ZZᵀ, the outer two unbounded."""
    parts = [*support, (0.0, 0.0)] if support[0][0] > 0 else support
    parts = sorted(parts)
    lefts, rights = [-np.inf, *(b for _, b in parts)], [*(a for a, _ in parts), np.inf]
    return list(zip(lefts, rights, strict=True))


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
