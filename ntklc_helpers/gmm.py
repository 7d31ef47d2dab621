"""K-class Gaussian mixtures in high dimension, and the statistics the theory reads off them.

Rows are samples, x_i = μ_a/√p + z_i with z_i ~ N(0, C_a/p), so that ‖x_i‖ is of order 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import toeplitz

from .validation import class_labels, finite_array, positive_integer, sample_matrix

FloatArray = NDArray[np.float64]

PRESETS = ("iid", "means", "variances", "mixed")


@dataclass(frozen=True)
class Sample:
    """A draw from a mixture: ``X`` (n, p), ``labels`` (n,) sorted by class, ``noise`` z (n, p)."""

    X: FloatArray
    labels: NDArray[np.int64]
    noise: FloatArray


@dataclass(frozen=True)
class Statistics:
    """What the equivalent kernels need to know of the data besides X itself.

    Attributes
    ----------
    tau0 : float
        τ₀ = √(tr C°/p), with C° the average covariance.
    t : (K,) array
        t_a = tr(C_a − C°)/√p.
    T : (K, K) array
        T_ab = tr(C_a C_b)/p.
    psi : (n,) array
        ψ_i = ‖z_i‖² − E‖z_i‖².
    J : (n, K) array
        Class indicators.
    p : int
        Dimension of the data.
    """

    tau0: float
    t: FloatArray
    T: FloatArray
    psi: FloatArray
    J: FloatArray
    p: int

    @property
    def V(self) -> FloatArray:
        """[J/√p, ψ], shape (n, K + 1)."""
        return np.column_stack([self.J / np.sqrt(self.p), self.psi])


@dataclass(frozen=True)
class GaussianMixture:
    """A K-class Gaussian mixture in dimension p.

    Parameters
    ----------
    means : (K, p) array
        μ_a; class a is centred at μ_a/√p.
    covariances : (K, p, p) array
        C_a, symmetric positive semi-definite; class a has covariance C_a/p.
    proportions : (K,) array, optional
        c_a, positive with sum 1; equal by default.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, a covariance is not symmetric positive
        semi-definite, or the proportions are not positive with sum 1.
    """

    means: FloatArray
    covariances: FloatArray
    proportions: FloatArray = None  # type: ignore[assignment]  # an array from here on
    _roots: FloatArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        means = sample_matrix("means", self.means)
        covariances = finite_array("covariances", self.covariances, 3)
        k, p = means.shape
        if covariances.shape != (k, p, p):
            raise ValueError(
                f"covariances must have shape {(k, p, p)} to fit means, got {covariances.shape}"
            )
        shares = np.full(k, 1 / k) if self.proportions is None else self.proportions
        proportions = finite_array("proportions", shares, 1)
        if len(proportions) != k or (proportions <= 0).any() or abs(proportions.sum() - 1) > 1e-9:
            raise ValueError(f"proportions must be {k} positive numbers with sum 1, got {shares}")
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "covariances", covariances)
        object.__setattr__(self, "proportions", proportions)
        roots = np.array([_root(c, a) for a, c in enumerate(covariances)])
        object.__setattr__(self, "_roots", roots)

    @classmethod
    def preset(cls, name: str, p: int, n_classes: int = 2) -> GaussianMixture:
        """One of the four synthetic cases of the published experiments, classes a = 0, 1, ….

        ``"iid"``: μ_a = 0, C_a = I. ``"means"``: μ_a = 4 e_a. ``"variances"``:
        C_a = (1 + 8a/√p) I. ``"mixed"``: μ_a = 4 e_a and
        C_a = (1 + 4a/√p) Toeplitz((0.4 a)^|i−j|), which allows at most three classes.

        Raises
        ------
        ValueError
            For an unknown name, or sizes for which the case does not exist.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
        p, k = positive_integer("p", p), positive_integer("n_classes", n_classes)
        if k > p:
            raise ValueError(f"n_classes must be at most p={p}, got {k}")
        if name == "mixed" and k > 3:
            raise ValueError(
                "n_classes must be at most 3 for preset 'mixed': Toeplitz((0.4 a)^|i-j|) is "
                f"positive semi-definite only for a < 2.5, got {k}"
            )
        means = 4 * np.eye(k, p) if name in ("means", "mixed") else np.zeros((k, p))
        return cls(means, np.array([_preset_covariance(name, a, p) for a in range(k)]))

    @property
    def n_classes(self) -> int:
        return len(self.means)

    @property
    def p(self) -> int:
        return self.means.shape[1]

    @property
    def tau0(self) -> float:
        """τ₀ = √(Σ_a c_a tr C_a / p)."""
        return float(np.sqrt(self.proportions @ self._traces))

    @property
    def t(self) -> FloatArray:
        """t_a = tr(C_a − C°)/√p, shape (K,)."""
        return np.sqrt(self.p) * (self._traces - self.tau0**2)

    @property
    def T(self) -> FloatArray:
        """T_ab = tr(C_a C_b)/p, shape (K, K)."""
        flat = self.covariances.reshape(self.n_classes, -1)
        return flat @ flat.T / self.p

    @property
    def _traces(self) -> FloatArray:
        return np.trace(self.covariances, axis1=1, axis2=2) / self.p

    def class_sizes(self, n: int) -> NDArray[np.int64]:
        """Samples per class for ``n`` in all: c_a n, rounded so that they add up to n."""
        edges = np.round(np.cumsum(self.proportions) * positive_integer("n", n)).astype(int)
        sizes = np.diff(edges, prepend=0)
        if (sizes < 1).any():
            raise ValueError(f"n={n} leaves a class with no sample; sizes {sizes.tolist()}")
        return sizes

    def sample(self, n: int, seed: int | np.random.Generator = 0) -> Sample:
        """Draw ``n`` samples, class after class, in the mixture's exact proportions."""
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(self.n_classes), self.class_sizes(n))
        noise = rng.standard_normal((n, self.p))
        for a, root in enumerate(self._roots):
            noise[labels == a] = noise[labels == a] @ (root / np.sqrt(self.p))
        return Sample(self.means[labels] / np.sqrt(self.p) + noise, labels, noise)

    def statistics(self, sample: Sample) -> Statistics:
        """The population's τ₀, t, T and the sample's own ψ and J."""
        return Statistics(
            tau0=self.tau0,
            t=self.t,
            T=self.T,
            psi=np.einsum("ij,ij->i", sample.noise, sample.noise) - self._traces[sample.labels],
            J=np.eye(self.n_classes)[sample.labels],
            p=self.p,
        )


def estimate_statistics(X: ArrayLike, labels: ArrayLike) -> Statistics:
    """The same statistics estimated from data, each class centred at its own mean.

    Parameters
    ----------
    X : (n, p) array
        Data at the scale of the model: squared row norms of order 1.
    labels : (n,) array of int
        Classes 0 … K − 1, every one with at least two samples.

    Raises
    ------
    ValueError
        If X or labels are malformed, or a class has fewer than two samples.

    Notes
    -----
    T_ab/p is the mean of (z_iᵀz_j)² over pairs i ≠ j of the classes. It comes from the p × p
    scatter matrices Z_aᵀZ_a, so no n × n matrix is formed.
    """
    X = sample_matrix("X", X)
    n, p = X.shape
    labels = class_labels("labels", labels, n)
    J = np.eye(labels.max() + 1)[labels]
    sizes = J.sum(axis=0)
    if (sizes < 2).any():
        raise ValueError(f"labels must give every class two samples or more, got {sizes.tolist()}")
    noise = X - ((J.T @ X) / sizes[:, None])[labels]
    norms = np.einsum("ij,ij->i", noise, noise)
    power = (J.T @ norms) / (sizes - 1)
    tau0_squared = float(sizes @ power / n)
    scatter = np.array([(z := noise[labels == a]).T @ z for a in range(len(sizes))])
    flat = scatter.reshape(len(sizes), -1)
    products = (flat @ flat.T) / np.outer(sizes - 1, sizes - 1)
    fourth = J.T @ norms**2
    # The i = j terms of the double sum are not part of E(z_iᵀz_j)²; nor is (E z_iᵀz_j)², which
    # centring at the class mean makes −(tr C_a/p)/n_a.
    same = (np.diag(flat @ flat.T) - fourth) / (sizes * (sizes - 1)) - (power / sizes) ** 2
    np.fill_diagonal(products, same)
    return Statistics(
        tau0=float(np.sqrt(tau0_squared)),
        t=np.sqrt(p) * (power - tau0_squared),
        T=p * products,
        psi=norms - ((J.T @ norms) / sizes)[labels],
        J=J,
        p=p,
    )


def _preset_covariance(name: str, a: int, p: int) -> FloatArray:
    if name == "variances":
        return (1 + 8 * a / np.sqrt(p)) * np.eye(p)
    if name == "mixed":
        return (1 + 4 * a / np.sqrt(p)) * toeplitz((0.4 * a) ** np.arange(p))
    return np.eye(p)


def _root(covariance: FloatArray, a: int) -> FloatArray:
    """Symmetric square root, or a ValueError if there is none."""
    if not np.allclose(covariance, covariance.T, rtol=1e-10, atol=1e-12):
        raise ValueError(f"covariances[{a}] must be symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-10 * max(values[-1], 1e-300):
        raise ValueError(
            f"covariances[{a}] must be positive semi-definite; its least eigenvalue is "
            f"{values[0]:.3g}"
        )
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
