"""Asymptotic equivalents of the conjugate and neural tangent kernels (NTK-LC, theorems 1 and 2).

For Gaussian-mixture data the kernel of a wide network is, up to an error that vanishes in
spectral norm, K̃ = α₁ XXᵀ + V A Vᵀ + ρ I: low rank plus a multiple of the identity. It is kept in
that form, as a scipy LinearOperator, and its spectrum is found without an n × n matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
from attrs import cmp_using, field, frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, eigh, eigvalsh
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dtrtri
from scipy.sparse.linalg import LinearOperator

from .._checks import array, number, one_of, positive, samples, whole
from ..data.mixture import GaussianMixture, Statistics
from .activations import AnyActivation, activation_list
from .moments import gaussian_moments

FloatArray = NDArray[np.float64]


@frozen
class LayerCoefficients:
    """The few scalars through which a network's first ℓ layers enter the equivalents.

    Attributes
    ----------
    alpha, beta : (4,) and (3,) arrays
        α₁ … α₄ of the conjugate kernel, β₁ … β₃ of the neural tangent kernel.
    tau, kappa : float
        τ_ℓ² and κ_ℓ² are the diagonals of the two, layers centred; κ_ℓ is ``inf`` after a jump.
    tau0 : float
        Scale of the network's input.
    """

    alpha: FloatArray = field(eq=cmp_using(np.array_equal))
    beta: FloatArray = field(eq=cmp_using(np.array_equal))
    tau: float
    kappa: float
    tau0: float


def propagate(
    activations: Sequence[AnyActivation | str], tau0: float = 1.0
) -> tuple[LayerCoefficients, ...]:
    """Coefficients of every layer of a network, layers centred by their means.

    Errors as for :func:`gaussian_moments`. With the moments d1, d2, q, v, s of σ_ℓ at scale
    τ_{ℓ−1} and starting from α = (1, 0, 0, 1), β = (1, 0, 0), κ² = τ₀²::

        α1 ← d1² α1    α2 ← d1² α2 + ¼ d2² α4²    α3 ← d1² α3 + ½ d2² α1²    α4 ← ½ q α4
        β1 ← α1 + d1² β1    β2 ← α2 + d1² β2    β3 ← α3 + d1² β3 + d2² α1_old β1_old
        τ² ← v    κ² ← v + s κ²

    Examples
    --------
    >>> last = nh.propagate(["linear", "linear"], tau0=0.5)[-1]
    >>> last.alpha.round(9).tolist(), last.beta.round(9).tolist(), round(last.tau, 9)
    ([1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0], 0.5)
    """
    tau = tau0 = positive("tau0", tau0)
    alpha, beta = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    kappa_squared, layers = tau0**2, []
    for activation in activation_list("activations", activations):
        g = gaussian_moments(activation, tau)
        d1_2, d2_2, (a1, a2, a3, a4) = g.d1**2, g.d2**2, alpha
        cross = np.array([0.0, 0.0, d2_2 * a1 * beta[0]])
        a2, a3 = d1_2 * a2 + d2_2 * a4**2 / 4, d1_2 * a3 + d2_2 * a1**2 / 2
        alpha = np.array([d1_2 * a1, a2, a3, g.square_d2 * a4 / 2])
        beta = alpha[:3] + d1_2 * beta + cross
        kappa_squared = g.variance + g.derivative_power * kappa_squared
        tau = float(np.sqrt(g.variance))
        layers.append(LayerCoefficients(alpha, beta, tau, float(np.sqrt(kappa_squared)), tau0))
    return tuple(layers)


def published_kappa_squared(
    activations: Sequence[AnyActivation | str],
    tau0: float = 1.0,
    slips: Collection[str] = ("start", "late", "squared"),
) -> float:
    """κ_L², as for :func:`propagate`, but for slips of the published script.

    It begins at τ₀, not τ₀², takes the moments of σ_ℓ at τ_ℓ, not τ_{ℓ−1}, and squares the result.

    Examples
    --------
    >>> [round(nh.theory.published_kappa_squared(["linear"], 2, s)) for s in ([], ["start"])]
    [8, 6]
    """
    for slip in slips:
        one_of("slips", slip, ("start", "late", "squared"))
    layers = activation_list("activations", activations)
    taus = [tau0, *(layer.tau for layer in propagate(layers, tau0))]
    kappa_squared = tau0 if "start" in slips else tau0**2
    for activation, tau in zip(layers, taus["late" in slips :], strict=False):
        g = gaussian_moments(activation, tau)
        kappa_squared = g.variance + g.derivative_power * kappa_squared
    return kappa_squared**2 if "squared" in slips else kappa_squared


class KernelEquivalent(LinearOperator):
    """The n × n matrix scale · XXᵀ + V A Vᵀ + shift · I, never formed.

    A scipy ``LinearOperator``, ``kernel @ v`` costing O(np): X is (n, p), V = [J/√p, ψ] (n, K + 1),
    A (K + 1, K + 1), ``scale`` α₁ or β₁, and ``shift`` ρ.

    Examples
    --------
    >>> zero = np.zeros((4, 1))
    >>> nh.KernelEquivalent(np.eye(4), zero, A=[[0]], scale=2, shift=1).eigenvalues().tolist()
    [3.0, 3.0, 3.0, 3.0]
    """

    def __init__(
        self, X: ArrayLike, V: ArrayLike, A: ArrayLike, scale: float, shift: float
    ) -> None:
        self.X, self.V, self.A = samples("X", X), array("V", V, 2), array("A", A, 2)
        self.scale, self.shift = number("scale", scale), number("shift", shift)
        n, k = self.V.shape
        if n != len(self.X) or self.A.shape != (k, k):
            raise ValueError(f"V and A must fit X, got shapes {self.V.shape} and {self.A.shape}")
        super().__init__(dtype=np.float64, shape=(n, n))

    def _matmat(self, v: FloatArray) -> FloatArray:
        low_rank = self.scale * (self.X @ (self.X.T @ v)) + self.V @ (self.A @ (self.V.T @ v))
        return low_rank + self.shift * v

    _matvec = _matmat

    def _adjoint(self) -> KernelEquivalent:
        return self

    def to_dense(self) -> FloatArray:
        """The (n, n) matrix itself."""
        dense = self.scale * (self.X @ self.X.T) + self.V @ self.A @ self.V.T
        dense.flat[:: len(dense) + 1] += self.shift
        return dense

    @cached_property
    def _factors(self) -> tuple[FloatArray, FloatArray]:
        """R S Rᵀ and the right inverse of R, where RᵀR = UᵀU and U S Uᵀ is the low-rank part.

        U = [X, V]. The non-zero eigenvalues of U S Uᵀ are those of R S Rᵀ, and an eigenvector q of
        the latter gives U R⁺ q. R is the Cholesky factor, or √D Wᵀ from UᵀU = W D Wᵀ where
        columns depend on each other.
        """
        # BLAS wants columns; X.T is already that for an array of rows.
        XtX, XtV = dsyrk(1.0, self.X.T, lower=1), self.X.T @ self.V
        G = np.block([[XtX, XtV], [XtV.T, self.V.T @ self.V]])
        R, failed = dpotrf(G.T, lower=0, clean=1)
        pivots = R.diagonal()
        if failed or pivots.min() < 1e-6 * pivots.max():
            squares, W = eigh(G, lower=True)
            kept = squares > squares[-1] * len(squares) * np.finfo(float).eps
            root, W = np.sqrt(squares[kept]), W[:, kept]
            R, inverse = root[:, None] * W.T, W / root
        else:
            inverse = dtrtri(R)[0]
        S = block_diag(self.scale * np.eye(len(XtX)), self.A)
        return R @ S @ R.T, inverse

    def eigenvalues(self) -> FloatArray:
        """All n eigenvalues, ascending; O(n p² + p³) time and O(p²) memory beyond X.

        Agrees with a dense eigensolver to 1e-12 of the largest eigenvalue.
        """
        n = self.shape[0]
        core = eigvalsh(self._factors[0])
        core = np.sort(core[np.argsort(np.abs(core))[::-1][:n]])
        return np.sort(np.concatenate([core, np.zeros(n - len(core))])) + self.shift

    def leading(self, k: int) -> tuple[FloatArray, FloatArray]:
        """The k eigenvalues furthest above the shift, descending, and their eigenvectors (n, k)."""
        core, inverse = self._factors
        rank, p = len(core), self.X.shape[1]
        values, Q = eigh(core, subset_by_index=[rank - whole("k", k, most=rank), rank - 1])
        B = inverse @ Q[:, ::-1]
        return values[::-1] + self.shift, self.X @ B[:p] + self.V @ B[p:]


def ck_equivalent(
    X: ArrayLike, statistics: Statistics, coefficients: LayerCoefficients
) -> KernelEquivalent:
    """Equivalent of the conjugate kernel on data X (n, p).

    Parameters
    ----------
    statistics : Statistics
        Of the same data: ``mixture.statistics(sample)`` or ``estimate_statistics(X, labels)``.
    coefficients : LayerCoefficients
        Of the layer wanted, ``propagate(activations, statistics.tau0)[-1]``.

    Returns
    -------
    KernelEquivalent

    Raises
    ------
    ValueError
        If X does not fit the statistics, or the coefficients were made for another τ₀.

    Notes
    -----
    K̃ = α₁XXᵀ + VAVᵀ + (τ_L² − τ₀²α₁)I with V = [J/√p, ψ] and
    A = [[α₂ttᵀ + α₃T, α₂t], [α₂tᵀ, α₂]] (NTK-LC, theorem 1). The coefficient of the identity makes
    the diagonal τ_L²: XXᵀ contributes τ₀² to it, VAVᵀ only O(1/p). Subtracting a further τ₀⁴α₃, as
    the published code does, would be right if the quadratic term were kept as (XXᵀ)∘(XXᵀ), whose
    diagonal is τ₀⁴; with VAVᵀ in its place it leaves an error τ₀⁴α₃ I that does not vanish.

    Examples
    --------
    >>> X = np.eye(6)
    >>> statistics = nh.estimate_statistics(X, labels=[0, 0, 0, 1, 1, 1])
    >>> nh.ck_equivalent(X, statistics, nh.propagate(["relu"], statistics.tau0)[-1]).shape
    (6, 6)
    """
    return _equivalent(X, statistics, coefficients, "ck")


def ntk_equivalent(
    X: ArrayLike, statistics: Statistics, coefficients: LayerCoefficients
) -> KernelEquivalent:
    """Equivalent of the neural tangent kernel: as :func:`ck_equivalent`, with β and κ.

    Refused too if an activation has a jump: κ² is infinite then.

    Examples
    --------
    >>> X = np.eye(6)
    >>> statistics = nh.estimate_statistics(X, labels=[0, 0, 0, 1, 1, 1])
    >>> nh.ntk_equivalent(X, statistics, nh.propagate(["relu"], statistics.tau0)[-1]).shape
    (6, 6)
    """
    return _equivalent(X, statistics, coefficients, "ntk")


def _equivalent(
    X: ArrayLike, statistics: Statistics, coefficients: LayerCoefficients, kernel: str
) -> KernelEquivalent:
    if not isinstance(statistics, Statistics):
        raise ValueError(f"statistics must be Statistics, got {type(statistics)}")
    scale, A, shift = structure(coefficients, kernel, statistics)
    X, fitting = samples("X", X), (len(statistics.psi), statistics.p)
    if X.shape != fitting:
        raise ValueError(f"X must have shape {fitting} to fit statistics, got {X.shape}")
    return KernelEquivalent(X, statistics.V, A, scale, shift)


def structure(
    coefficients: LayerCoefficients, kernel: str, data: Statistics | GaussianMixture
) -> tuple[float, FloatArray, float]:
    """α₁, A and ρ of the equivalent α₁XXᵀ + VAVᵀ + ρI for ``"ck"``, their like for ``"ntk"``."""
    if not isinstance(coefficients, LayerCoefficients):
        raise ValueError(f"coefficients must be LayerCoefficients, got {type(coefficients)}")
    if abs(coefficients.tau0 - data.tau0) > 1e-9 * data.tau0:
        raise ValueError(
            f"coefficients were made for tau0={coefficients.tau0:.6g}, not {data.tau0:.6g}; use "
            "propagate(activations, tau0) with the tau0 of the statistics or the mixture"
        )
    gain, diagonal = coefficients.alpha, coefficients.tau**2
    if one_of("kernel", kernel, ("ck", "ntk")) == "ntk":
        gain, diagonal = coefficients.beta, coefficients.kappa**2
    if not np.isfinite(diagonal):
        raise ValueError(
            "coefficients.kappa is infinite: an activation with a jump has E[σ'²] = ∞, so the "
            "diagonal of the neural tangent kernel does not exist"
        )
    t = np.append(data.t, 1.0)
    A = gain[1] * np.outer(t, t)
    A[:-1, :-1] += gain[2] * data.T
    return float(gain[0]), A, float(diagonal - data.tau0**2 * gain[0])
