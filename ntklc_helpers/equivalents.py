"""Asymptotic equivalents of the conjugate and neural tangent kernels (NTK-LC, theorems 1 and 2).

For Gaussian-mixture data the kernel of a wide network is, up to an error that vanishes in
spectral norm, K̃ = α₁ XXᵀ + V A Vᵀ + ρ I: low rank plus a multiple of the identity. It is kept in
that form, as a scipy LinearOperator, and its spectrum is found without an n × n matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, eigh, eigvalsh
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dtrtri
from scipy.sparse.linalg import LinearOperator

from .activations import AnyActivation
from .gmm import Statistics
from .moments import gaussian_moments
from .validation import positive, positive_integer, sample_matrix

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LayerCoefficients:
    """The few scalars through which a network's first ℓ layers enter the equivalents.

    Attributes
    ----------
    alpha : (4,) array
        α₁ … α₄ of the conjugate kernel.
    beta : (3,) array
        β₁ … β₃ of the neural tangent kernel.
    tau : float
        τ_ℓ: τ_ℓ² is the diagonal of the centred conjugate kernel.
    kappa : float
        κ_ℓ: κ_ℓ² is the diagonal of the neural tangent kernel; ``inf`` once a layer's activation
        jumps.
    tau0 : float
        Scale of the network's input.
    """

    alpha: FloatArray
    beta: FloatArray
    tau: float
    kappa: float
    tau0: float


def propagate(
    activations: Sequence[AnyActivation], tau0: float = 1.0
) -> tuple[LayerCoefficients, ...]:
    """Coefficients of every layer of a network, layers centred by their means.

    Parameters
    ----------
    activations : sequence of Activation or Quantized
        σ₁ … σ_L.
    tau0 : float
        Scale τ₀ of the input, positive.

    Returns
    -------
    tuple of LayerCoefficients
        One for each layer.

    Raises
    ------
    ValueError
        If there is no activation, ``tau0`` is not positive, or a moment does not exist.

    Notes
    -----
    With the moments d1, d2, q, v, s of σ_ℓ at scale τ_{ℓ−1} and starting from α = (1, 0, 0, 1),
    β = (1, 0, 0), κ² = τ₀²::

        α1 ← d1² α1    α2 ← d1² α2 + ¼ d2² α4²    α3 ← d1² α3 + ½ d2² α1²    α4 ← ½ q α4
        β1 ← α1 + d1² β1    β2 ← α2 + d1² β2    β3 ← α3 + d1² β3 + d2² α1_old β1_old
        τ² ← v    κ² ← v + s κ²
    """
    if not len(activations):
        raise ValueError("activations must name at least one layer")
    tau0 = positive("tau0", tau0)
    alpha, beta = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    tau, kappa_squared = tau0, tau0**2
    layers = []
    for activation in activations:
        g = gaussian_moments(activation, tau)
        d1_2, d2_2 = g.d1**2, g.d2**2
        new_alpha = np.array(
            [
                d1_2 * alpha[0],
                d1_2 * alpha[1] + d2_2 * alpha[3] ** 2 / 4,
                d1_2 * alpha[2] + d2_2 * alpha[0] ** 2 / 2,
                g.square_d2 * alpha[3] / 2,
            ]
        )
        beta = new_alpha[:3] + d1_2 * beta + np.array([0.0, 0.0, d2_2 * alpha[0] * beta[0]])
        alpha = new_alpha
        kappa_squared = g.variance + g.derivative_power * kappa_squared
        tau = float(np.sqrt(g.variance))
        layers.append(LayerCoefficients(alpha, beta, tau, float(np.sqrt(kappa_squared)), tau0))
    return tuple(layers)


class KernelEquivalent(LinearOperator):
    """The n × n matrix scale · XXᵀ + V A Vᵀ + shift · I, never formed.

    A matrix-vector product costs O(np). Use it as any scipy ``LinearOperator``: ``kernel @ v``.

    Attributes
    ----------
    X : (n, p) array
    V : (n, K + 1) array
        [J/√p, ψ].
    A : (K + 1, K + 1) array
    scale : float
        Coefficient of XXᵀ: α₁ or β₁.
    shift : float
        Coefficient ρ of the identity.
    """

    def __init__(
        self, X: FloatArray, V: FloatArray, A: FloatArray, scale: float, shift: float
    ) -> None:
        super().__init__(dtype=np.float64, shape=(len(X), len(X)))
        self.X, self.V, self.A, self.scale, self.shift = X, V, A, scale, shift

    def _matmat(self, v: FloatArray) -> FloatArray:
        low_rank = self.scale * (self.X @ (self.X.T @ v)) + self.V @ (self.A @ (self.V.T @ v))
        return low_rank + self.shift * v

    def _matvec(self, v: FloatArray) -> FloatArray:
        return self._matmat(v)

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
        XtX = dsyrk(1.0, self.X.T, lower=1)
        XtV = self.X.T @ self.V
        p = len(XtX)
        G = np.zeros((p + XtV.shape[1],) * 2)
        G[:p, :p], G[p:, :p], G[p:, p:] = XtX, XtV.T, self.V.T @ self.V
        R, failed = dpotrf(G.T, lower=0, clean=1)
        pivots = R.diagonal()
        if failed or pivots.min() < 1e-6 * pivots.max():
            squares, W = eigh(G, lower=True)
            rounding = squares[-1] * len(squares) * np.finfo(float).eps
            keep = squares > rounding
            root = np.sqrt(squares[keep])
            R, inverse = root[:, None] * W[:, keep].T, W[:, keep] / root
        else:
            inverse = dtrtri(R)[0]
        S = block_diag(self.scale * np.eye(p), self.A)
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
        k, rank = positive_integer("k", k), len(core)
        if k > rank:
            raise ValueError(f"k must be at most the rank {rank}, got {k}")
        values, Q = eigh(core, subset_by_index=[rank - k, rank - 1])
        B = inverse @ Q[:, ::-1]
        p = self.X.shape[1]
        return values[::-1] + self.shift, self.X @ B[:p] + self.V @ B[p:]


def ck_equivalent(
    X: ArrayLike, statistics: Statistics, coefficients: LayerCoefficients
) -> KernelEquivalent:
    """Equivalent of the conjugate kernel of a network with these coefficients on data X.

    Parameters
    ----------
    X : (n, p) array
    statistics : Statistics
        Of the same data: ``mixture.statistics(sample)`` or ``estimate_statistics(X, labels)``.
    coefficients : LayerCoefficients
        Of the layer wanted, ``propagate(activations, tau0)[-1]``.

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
    """
    return _equivalent(X, statistics, coefficients, "ck")


def ntk_equivalent(
    X: ArrayLike, statistics: Statistics, coefficients: LayerCoefficients
) -> KernelEquivalent:
    """Equivalent of the neural tangent kernel: as :func:`ck_equivalent`, with β and κ.

    Raises
    ------
    ValueError
        As :func:`ck_equivalent`; also if an activation has a jump, for then the kernel's diagonal
        κ² is infinite.
    """
    return _equivalent(X, statistics, coefficients, "ntk")


def gains(coefficients: LayerCoefficients, kernel: str, tau0: float) -> tuple[FloatArray, float]:
    """α₁ … α₃ and τ² for the kernel ``"ck"``, β₁ … β₃ and κ² for ``"ntk"``, at the data's τ₀."""
    if abs(coefficients.tau0 - tau0) > 1e-9 * tau0:
        raise ValueError(
            f"coefficients were made for tau0={coefficients.tau0:.6g}, the data has {tau0:.6g}; "
            "use propagate(activations, tau0) with the tau0 of the statistics or the mixture"
        )
    if kernel == "ck":
        return coefficients.alpha[:3], coefficients.tau**2
    if kernel != "ntk":
        raise ValueError(f"kernel must be 'ck' or 'ntk', got {kernel!r}")
    if not np.isfinite(coefficients.kappa):
        raise ValueError(
            "coefficients.kappa is infinite: an activation with a jump has E[σ'²] = ∞, so the "
            "diagonal of the neural tangent kernel does not exist"
        )
    return coefficients.beta, coefficients.kappa**2


def _equivalent(
    X: ArrayLike,
    statistics: Statistics,
    coefficients: LayerCoefficients,
    kernel: str,
) -> KernelEquivalent:
    tau0 = statistics.tau0
    gain, diagonal = gains(coefficients, kernel, tau0)
    X = sample_matrix("X", X)
    if X.shape != (len(statistics.psi), statistics.p):
        raise ValueError(
            f"X must have shape {(len(statistics.psi), statistics.p)} to fit statistics, "
            f"got {X.shape}"
        )
    A = low_rank_core(gain, statistics.t, statistics.T)
    shift = diagonal - tau0**2 * gain[0]
    return KernelEquivalent(X, statistics.V, A, float(gain[0]), float(shift))


def low_rank_core(gain: FloatArray, t: FloatArray, T: FloatArray) -> FloatArray:
    """A = [[g₂ttᵀ + g₃T, g₂t], [g₂tᵀ, g₂]] for gains g = α or β, shape (K + 1, K + 1)."""
    t = np.append(t, 1.0)
    A = gain[1] * np.outer(t, t)
    A[:-1, :-1] += gain[2] * T
    return A
