"""K-class Gaussian mixtures in high dimension, and the statistics the theory reads off them.

Rows are samples, x_i = μ_a/√p + z_i with z_i ~ N(0, C_a/p), so that ‖x_i‖ is of order 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import Converter, field, frozen
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import toeplitz

from .._checks import SAME, FloatArray, array, class_labels, number, one_of, samples, whole

PRESETS = ("iid", "means", "variances", "mixed")


@frozen
class Sample:
    """A draw from a mixture: ``X`` (n, p), ``labels`` (n,) sorted by class, ``noise`` z (n, p).

    Examples
    --------
    >>> sample = nh.GaussianMixture.preset("means", p=50).sample(n=6)
    >>> sample.X.shape, sample.labels.tolist()
    ((6, 50), [0, 0, 0, 1, 1, 1])
    """

    X: FloatArray = field(eq=SAME)
    labels: NDArray[np.int64] = field(eq=SAME)
    noise: FloatArray = field(eq=SAME)


@frozen
class Statistics:
    """What the equivalent kernels need to know of the data besides X itself.

    Attributes
    ----------
    tau0 : float, √(tr C°/p) with C° the average covariance
    t : (K,) array, tr(C_a − C°)/√p
    T : (K, K) array, tr(C_a C_b)/p
    psi : (n,) array, ‖z_i‖² − E‖z_i‖²
    J : (n, K) array, class indicators
    p : int, dimension of the data
    squares : (K, K) array, p E(x_iᵀx_j)² for samples of two classes, means included; T in the limit

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or an entry is not finite.

    Examples
    --------
    >>> mixture = nh.GaussianMixture.preset("variances", p=64)
    >>> mixture.statistics(mixture.sample(n=10)).t
    array([-4.,  4.])
    """

    tau0: float = field(converter=lambda tau0: number("tau0", tau0))
    t: FloatArray = field(converter=lambda value: array("t", value, 1), eq=SAME)
    T: FloatArray = field(converter=lambda value: array("T", value, 2), eq=SAME)
    psi: FloatArray = field(converter=lambda value: array("psi", value, 1), eq=SAME)
    J: FloatArray = field(converter=lambda value: samples("J", value), eq=SAME)
    p: int = field(converter=lambda p: whole("p", p))
    squares: FloatArray = field(converter=lambda value: array("squares", value, 2), eq=SAME)

    @J.validator
    def _fit(self, attribute: Any, J: FloatArray) -> None:
        n, k = J.shape
        found = self.t.shape, self.T.shape, self.squares.shape, self.psi.shape
        if found != ((k,), (k, k), (k, k), (n,)):
            raise ValueError(
                f"t, T, squares and psi must have shapes {(k,)}, {(k, k)}, {(k, k)} and {(n,)} to "
                f"fit J, got {', '.join(map(str, found))}"
            )

    @property
    def V(self) -> FloatArray:
        """[J/√p, ψ], shape (n, K + 1)."""
        return np.column_stack([self.J / np.sqrt(self.p), self.psi])


def _proportions(values: Any, mixture: Any) -> FloatArray:
    k = len(mixture.means)
    return np.full(k, 1 / k) if values is None else array("proportions", values, 1)


@frozen
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

    Examples
    --------
    >>> mixture = nh.GaussianMixture(np.zeros((1, 3)), [np.diag([1.0, 4.0, 4.0])])
    >>> round(mixture.tau0**2, 3)
    3.0
    """

    means: FloatArray = field(converter=lambda value: samples("means", value), eq=SAME)
    covariances: FloatArray = field(converter=lambda C: array("covariances", C, 3), eq=SAME)
    proportions: FloatArray = field(
        default=None,
        converter=Converter(_proportions, takes_self=True),  # type: ignore[misc]  # attrs passes self
        eq=SAME,
    )
    _roots: FloatArray = field(init=False, repr=False, eq=False)

    @_roots.default
    def _square_roots(self) -> FloatArray:
        (k, p), shares = self.means.shape, self.proportions
        found = self.covariances.shape
        if found != (k, p, p):
            raise ValueError(f"covariances must have shape {(k, p, p)} to fit means, got {found}")
        if np.abs(self.covariances).max() > 1e120:
            raise ValueError("covariances must have entries of size below 1e120: scale them")
        if len(shares) != k or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-9:
            raise ValueError(f"proportions must be {k} positive numbers with sum 1, got {shares}")
        return np.array([_root(c, a) for a, c in enumerate(self.covariances)])

    @classmethod
    def preset(cls, name: str, p: int, n_classes: int = 2) -> GaussianMixture:
        """One of the four synthetic cases of the published experiments, classes a = 0, 1, ….

        ``"iid"``: μ_a = 0, C_a = I. ``"means"``: μ_a = 4 e_a. ``"variances"``: C_a = (1 + 8a/√p) I.
        ``"mixed"``: μ_a = 4 e_a and C_a = (1 + 4a/√p) Toeplitz((0.4 a)^|i−j|), which allows at most
        three classes. Raises ValueError for an unknown name, or sizes for which the case does not
        exist.
        """
        one_of("name", name, PRESETS)
        p, k = whole("p", p), whole("n_classes", n_classes)
        if k > p:
            raise ValueError(f"n_classes must be at most p={p}, got {k}")
        if name == "mixed" and k > 3:
            raise ValueError(
                "n_classes must be at most 3 for preset 'mixed': Toeplitz((0.4 a)^|i-j|) is "
                f"positive semi-definite only for a < 2.5, got {k}"
            )
        means = 4 * np.eye(k, p) if name in ("means", "mixed") else np.zeros((k, p))
        gain, decay = {"variances": (8, 0), "mixed": (4, 0.4)}.get(name, (0, 0))
        shapes = [toeplitz((decay * a) ** np.arange(p)) for a in range(k)]
        return cls(means, [(1 + gain * a / np.sqrt(p)) * shape for a, shape in enumerate(shapes)])

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
    def squares(self) -> FloatArray:
        """p E(x_iᵀx_j)² for samples of two classes, shape (K, K): T, and what the means add."""
        M, p = self.means, self.p
        spread = np.einsum("ai,bij,aj->ab", M, self.covariances, M, optimize=True)
        return self.T + ((M @ M.T) ** 2 + spread + spread.T) / p

    @property
    def _traces(self) -> FloatArray:
        return np.trace(self.covariances, axis1=1, axis2=2) / self.p

    def class_sizes(self, n: int) -> NDArray[np.int64]:
        """Samples per class for ``n`` in all: c_a n, rounded so that they add up to n."""
        edges = np.round(np.cumsum(self.proportions) * whole("n", n)).astype(int)
        sizes = np.diff(edges, prepend=0)
        if (sizes < 1).any():
            raise ValueError(f"n={n} leaves a class with no sample; sizes {sizes.tolist()}")
        return sizes

    def sample(self, n: int, seed: int | np.random.Generator = 0) -> Sample:
        """Draw ``n`` samples, class after class, in the mixture's exact proportions."""
        if not isinstance(seed, np.random.Generator):
            seed = whole("seed", seed, 0)
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(self.n_classes), self.class_sizes(n))
        noise = rng.standard_normal((n, self.p))
        for a, root in enumerate(self._roots):
            noise[labels == a] = noise[labels == a] @ (root / np.sqrt(self.p))
        return Sample(self.means[labels] / np.sqrt(self.p) + noise, labels, noise)

    def statistics(self, sample: Sample) -> Statistics:
        """The population's τ₀, t, T and the sample's own ψ and J."""
        if not isinstance(sample, Sample) or sample.noise.shape[1] != self.p:
            raise ValueError(f"sample must be a Sample in dimension {self.p}, got {sample!r:.60}")
        psi = np.einsum("ij,ij->i", sample.noise, sample.noise) - self._traces[sample.labels]
        J = np.eye(self.n_classes)[sample.labels]
        return Statistics(self.tau0, self.t, self.T, psi, J, self.p, self.squares)


def class_means(X: FloatArray, J: FloatArray) -> FloatArray:
    """Means (K, p) of the rows of X (n, p) in each of the classes that J (n, K) indicates."""
    return (J.T @ X) / J.sum(axis=0)[:, None]


def estimate_statistics(X: ArrayLike, labels: ArrayLike) -> Statistics:
    """The same :class:`Statistics` estimated from data, each class centred at its own mean.

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

    Examples
    --------
    >>> sample = nh.GaussianMixture.preset("iid", p=400).sample(n=800)
    >>> round(nh.estimate_statistics(sample.X, sample.labels).tau0, 2)
    1.0
    """
    X = samples("X", X)
    n, p = X.shape
    labels = class_labels("labels", labels, n)
    J = np.eye(labels.max() + 1)[labels]
    sizes = J.sum(axis=0)
    if (sizes < 2).any():
        raise ValueError(f"labels must give every class two samples or more, got {sizes.tolist()}")
    # A power of two, so nothing is rounded; fourth powers of small entries would vanish.
    unit = float(np.ldexp(1.0, np.frexp(np.abs(X).max())[1]))
    X = X / unit
    noise = X - class_means(X, J)[labels]
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
    t = np.sqrt(p) * (power - tau0_squared)
    psi = norms - ((J.T @ norms) / sizes)[labels]
    tau0 = unit * np.sqrt(tau0_squared)
    T, squares = unit**4 * p * products, unit**4 * p * _mean_squares(X, labels, sizes)
    return Statistics(tau0, unit**2 * t, T, unit**2 * psi, J, p, squares)


def _mean_squares(X: FloatArray, labels: NDArray[np.int64], sizes: FloatArray) -> FloatArray:
    """The mean of (x_iᵀx_j)² over pairs i ≠ j of two classes, (K, K)."""
    moments = np.array([(x := X[labels == a]).T @ x for a in range(len(sizes))])
    flat = moments.reshape(len(sizes), -1)
    total, pairs = flat @ flat.T, np.outer(sizes, sizes)
    own = np.bincount(labels, np.einsum("ij,ij->i", X, X) ** 2)
    return (total - np.diag(own)) / (pairs - np.diag(sizes))


def _root(covariance: FloatArray, a: int) -> FloatArray:
    """Symmetric square root, or a ValueError if there is none."""
    if not np.allclose(covariance, covariance.T, rtol=1e-10, atol=1e-12):
        raise ValueError(f"covariances[{a}] must be symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if (least := values[0]) < -1e-10 * max(values[-1], 1e-300):
        raise ValueError(f"covariances[{a}] must be positive semi-definite, found λ = {least:.3g}")
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
