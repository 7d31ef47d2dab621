"""Asymptotic equivalents of the conjugate and neural tangent kernels (NTK-LC, theorems 1 and 2).

For Gaussian-mixture data the kernel of a wide network is, up to an error that vanishes in
spectral norm, K̃ = α₁ XXᵀ + V A Vᵀ + ρ I: low rank plus a multiple of the identity. At finite size
the same form is kept with what had been sent to its limit: lengths, means, the diagonal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from .._checks import one_of, samples
from ..data.mixture import GaussianMixture, Statistics
from .angle import angle_series, polynomial_equivalent, unit_rows
from .coefficients import LayerCoefficients, diagonal_of
from .duals import FloatArray
from .operators import KernelEquivalent, low_rank_diagonal


def ck_equivalent(
    X: ArrayLike,
    statistics: Statistics | None,
    coefficients: LayerCoefficients,
    order: str = "limit",
) -> KernelEquivalent:
    """Equivalent of the conjugate kernel on data X (n, p).

    Parameters
    ----------
    statistics : Statistics or None
        Of the same data: ``mixture.statistics(sample)`` or ``estimate_statistics(X, labels)``.
        None, with ``order="finite"``, for an equivalent that needs no labels.
    coefficients : LayerCoefficients
        Of the layer wanted, ``propagate(activations, tau0)[-1]``, τ₀ that of the statistics.
    order : "limit" or "finite"
        The theorem's equivalent, or the one with the terms of finite size.

    Returns
    -------
    KernelEquivalent

    Raises
    ------
    ValueError
        If X does not fit the statistics, or the coefficients were made for another τ₀.

    Notes
    -----
    In the limit K̃ = α₁XXᵀ + VAVᵀ + (τ_L² − τ₀²α₁)I with V = [J/√p, ψ] and
    A = [[α₂ttᵀ + α₃T, α₂t], [α₂tᵀ, α₂]] (NTK-LC, theorem 1). The coefficient of the identity makes
    the diagonal τ_L²: XXᵀ contributes τ₀² to it, VAVᵀ only O(1/p). Subtracting a further τ₀⁴α₃, as
    the published code does, would be right if the quadratic term were kept as (XXᵀ)∘(XXᵀ), whose
    diagonal is τ₀⁴; with VAVᵀ in its place it leaves an error τ₀⁴α₃ I that does not vanish.

    At finite size K̃ = u₀u₀ᵀ + D₁XXᵀD₁ + α₃ J S Jᵀ/p off the diagonal, which is the exact kernel's.
    Here u₀ and D₁ depend on a sample's own length: to first order √α₂ (‖x_i‖² − τ₀²), of which
    t/√p + ψ is the limit, and √α₁. S holds the means too: S_ab = p E(x_iᵀx_j)². Without labels the
    quadratic and higher terms are kept as they are: see :func:`polynomial_equivalent`.

    Examples
    --------
    >>> X = np.eye(6)
    >>> statistics = nh.estimate_statistics(X, labels=[0, 0, 0, 1, 1, 1])
    >>> nh.ck_equivalent(X, statistics, nh.propagate(["relu"], statistics.tau0)[-1]).shape
    (6, 6)
    """
    return _equivalent(X, statistics, coefficients, "ck", order)


def ntk_equivalent(
    X: ArrayLike,
    statistics: Statistics | None,
    coefficients: LayerCoefficients,
    order: str = "limit",
) -> KernelEquivalent:
    """Equivalent of the neural tangent kernel: as :func:`ck_equivalent`, with β and κ.

    Refused too if an activation has a jump: κ² is infinite then. With coefficients of surrogate
    derivatives it is the equivalent, symmetric in the limit, of the kernel by which they train.

    Examples
    --------
    >>> X = np.eye(6)
    >>> statistics = nh.estimate_statistics(X, labels=[0, 0, 0, 1, 1, 1])
    >>> nh.ntk_equivalent(X, statistics, nh.propagate(["relu"], statistics.tau0)[-1]).shape
    (6, 6)
    """
    return _equivalent(X, statistics, coefficients, "ntk", order)


def _equivalent(
    X: ArrayLike,
    statistics: Statistics | None,
    coefficients: LayerCoefficients,
    kernel: str,
    order: str,
) -> KernelEquivalent:
    one_of("order", order, ("limit", "finite"))
    if statistics is None and order == "finite":
        diagonal_of(coefficients, kernel, order=order)
        layers, tau0 = coefficients.activations, coefficients.tau0
        return polynomial_equivalent(X, layers, kernel=kernel, tau0=tau0)
    if not isinstance(statistics, Statistics):
        least = "" if order == "finite" else ", and may be None for order='finite' alone"
        raise ValueError(f"statistics must be Statistics{least}, got {type(statistics)}")
    scale, A, shift = structure(coefficients, kernel, statistics, order)
    X, fitting = samples("X", X), (len(statistics.psi), statistics.p)
    if X.shape != fitting:
        raise ValueError(f"X must have shape {fitting} to fit statistics, got {X.shape}")
    if order == "limit":
        return KernelEquivalent(X, statistics.V, A, scale, shift)
    return _at_finite_size(X, statistics, coefficients, kernel)


def _at_finite_size(
    X: FloatArray, statistics: Statistics, coefficients: LayerCoefficients, kernel: str
) -> KernelEquivalent:
    unit, squared = unit_rows(X)
    series = angle_series(
        coefficients.activations, squared, 1, kernel=kernel, tau0=coefficients.tau0
    )
    linear, constant = series.linear_part(squared)
    V = np.hstack([constant, statistics.J / np.sqrt(statistics.p)])
    A = block_diag(1.0, coefficients.gain(kernel)[2] * statistics.squares)
    scaled, diagonal = unit * linear, series.basis(squared) @ series.diagonal
    return KernelEquivalent(scaled, V, A, 1.0, diagonal - low_rank_diagonal(scaled, V, A))


def structure(
    coefficients: LayerCoefficients,
    kernel: str,
    data: Statistics | GaussianMixture,
    order: str = "limit",
) -> tuple[float, FloatArray, float]:
    """α₁, A and ρ of the equivalent α₁XXᵀ + VAVᵀ + ρI for ``"ck"``, their like for ``"ntk"``."""
    diagonal = diagonal_of(coefficients, kernel, data.tau0, order)
    gain = coefficients.gain(kernel)
    t = np.append(data.t, 1.0)
    A = gain[1] * np.outer(t, t)
    A[:-1, :-1] += gain[2] * data.T
    return float(gain[0]), A, float(diagonal - data.tau0**2 * gain[0])
