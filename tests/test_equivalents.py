"""Equivalents: recursions against closed forms, the low-rank spectrum against a dense one."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

import ntklc_helpers as nh

RELU = nh.activation("relu")


def case(name="mixed", p=40, n=70, acts=(RELU, RELU), n_classes=2):
    mixture = nh.GaussianMixture.preset(name, p, n_classes)
    sample = mixture.sample(n, seed=1)
    stats = mixture.statistics(sample)
    return sample.X, stats, nh.propagate(acts, stats.tau0)[-1]


@pytest.mark.parametrize("tau0", [0.3, 1.0, 2.5])
def test_linear_network_is_its_input(tau0):
    # h = Wx/√d has the kernel XXᵀ at every depth; L + 1 such terms make up the NTK.
    c = nh.propagate([nh.activation("linear")] * 3, tau0)[-1]
    np.testing.assert_allclose(c.alpha, [1, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(c.beta, [4, 0, 0], atol=1e-12)
    assert c.tau == pytest.approx(tau0)
    assert c.kappa**2 == pytest.approx(4 * tau0**2)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_relu_closed_form(depth):
    # At every layer d1² = ¼, and by homogeneity v = r τ², d2² = 1/(2πτ²), g = 1.
    r, tau0 = 0.5 - 0.5 / np.pi, 1.7
    c = nh.propagate([RELU] * depth, tau0)[-1]
    a1, a2, a3, a4, tau2 = 1.0, 0.0, 0.0, 1.0, tau0**2
    for _ in range(depth):
        d2 = 1 / (2 * np.pi * tau2)
        a1, a2, a3, a4 = a1 / 4, a2 / 4 + d2 * a4**2 / 4, a3 / 4 + d2 * a1**2 / 2, r * a4
        tau2 *= r
    np.testing.assert_allclose(c.alpha, [a1, a2, a3, a4], rtol=1e-12)
    assert c.tau**2 == pytest.approx(tau2, rel=1e-12)


def test_one_layer_ntk_by_hand():
    g = nh.gaussian_moments(nh.activation("gelu"), 1.2)
    c = nh.propagate([nh.activation("gelu")], 1.2)[0]
    np.testing.assert_allclose(
        c.beta, [2 * g.d1**2, g.d2**2 / 4, g.d2**2 / 2 + g.d2**2], rtol=1e-12
    )
    assert c.kappa**2 == pytest.approx(g.variance + g.derivative_power * 1.44)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 5), st.floats(0.2, 5))
def test_rescaling_a_layer_rescales_everything_after_it(a, b):
    # σ → aσ(·/b) with τ0 → bτ0 multiplies the kernel by a² and leaves K̃/a² on x/b the same.
    gelu = nh.activation("gelu")
    scaled = nh.activation(lambda x: a * gelu(x / b))
    one, two = nh.propagate([gelu], 1.0)[-1], nh.propagate([scaled], b)[-1]
    np.testing.assert_allclose(two.tau, a * one.tau, rtol=1e-9)
    np.testing.assert_allclose(two.alpha[0] * b**2, a**2 * one.alpha[0], rtol=1e-9)
    np.testing.assert_allclose(two.alpha[2] * b**4, a**2 * one.alpha[2], rtol=1e-8)
    np.testing.assert_allclose(two.alpha[1] * b**4, a**2 * one.alpha[1], rtol=1e-8)


def test_kappa_is_infinite_after_a_jump_and_beta_is_not():
    layers = nh.propagate([RELU, nh.activation("sign"), RELU], 1.0)
    assert np.isfinite(layers[0].kappa)
    assert layers[1].kappa == layers[2].kappa == np.inf
    assert np.isfinite(layers[2].beta).all()


@pytest.mark.parametrize("name", nh.data.PRESETS)
@pytest.mark.parametrize("make", [nh.ck_equivalent, nh.ntk_equivalent])
def test_equivalent_is_the_formula(name, make):
    X, stats, c = case(name)
    gain, diagonal = (c.alpha, c.tau**2) if make is nh.ck_equivalent else (c.beta, c.kappa**2)
    n, p = X.shape
    expected = gain[0] * X @ X.T
    for i in range(n):
        for j in range(n):
            a, b = stats.J[i].argmax(), stats.J[j].argmax()
            size_i, size_j = stats.t[a] / np.sqrt(p), stats.t[b] / np.sqrt(p)
            expected[i, j] += gain[1] * (size_i + stats.psi[i]) * (size_j + stats.psi[j])
            expected[i, j] += gain[2] * stats.T[a, b] / p
    expected += (diagonal - gain[0] * stats.tau0**2) * np.eye(n)
    np.testing.assert_allclose(make(X, stats, c).to_dense(), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("p", "n", "acts"),
    [
        (40, 70, [RELU] * 2),
        (70, 40, [RELU] * 2),
        (40, 41, [RELU]),
        (30, 60, [nh.activation("quadratic")]),
        (30, 60, [nh.activation("tanh")]),
    ],
    ids=["tall", "wide", "nearly square", "no linear part", "no quadratic part"],
)
def test_spectrum_without_an_n_by_n_matrix(p, n, acts):
    X, stats, c = case(p=p, n=n, acts=acts, n_classes=3)
    kernel = nh.ck_equivalent(X, stats, c)
    dense = kernel.to_dense()
    values = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(kernel.eigenvalues(), values, atol=1e-12 * values[-1])
    top, vectors = kernel.leading(3)
    np.testing.assert_allclose(top, values[::-1][:3], rtol=1e-11)
    np.testing.assert_allclose(dense @ vectors, vectors * top, atol=1e-11 * values[-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-10)


def test_rank_deficient_data():
    # Constant pixels and repeated columns: G = UᵀU is singular.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 8)) / np.sqrt(20)
    X = np.hstack([X, X[:, :4], np.zeros((50, 8))])
    labels = np.arange(50) % 2
    stats = nh.estimate_statistics(X, labels)
    kernel = nh.ck_equivalent(X, stats, nh.propagate([RELU], stats.tau0)[-1])
    values = np.linalg.eigvalsh(kernel.to_dense())
    np.testing.assert_allclose(kernel.eigenvalues(), values, atol=1e-12 * values[-1])


@pytest.fixture(scope="module")
def errors():
    """Relative errors (kernel, case) -> (3,) at p = 200, 400, 800, relu × 3, n = 2p, two draws."""
    found = {}
    for p in (200, 400, 800):
        for name in ("iid", "means"):
            mixture = nh.GaussianMixture.preset(name, p)
            draws = []
            for seed in range(2):
                sample = mixture.sample(2 * p, seed)
                stats = mixture.statistics(sample)
                c = nh.propagate([RELU] * 3, stats.tau0)[-1]
                K, N = nh.limit_kernels(sample.X, [RELU] * 3, tau0=stats.tau0)
                ck = nh.ck_equivalent(sample.X, stats, c)
                lowered = ck.to_dense() - stats.tau0**4 * c.alpha[2] * np.eye(2 * p)
                ntk = nh.ntk_equivalent(sample.X, stats, c)
                pairs = [(K, ck), (N, ntk), (K, lowered)]
                draws.append([nh.relative_error(a, b) for a, b in pairs])
            for kernel, error in zip(("ck", "ntk", "lowered"), np.mean(draws, axis=0), strict=True):
                found.setdefault((kernel, name), []).append(error)
    return found


@pytest.mark.parametrize(
    ("kernel", "most"), [("ck", (0.25, 0.18, 0.13)), ("ntk", (0.21, 0.15, 0.11))]
)
def test_error_falls_like_the_root_of_p(errors, kernel, most):
    found = errors[kernel, "means"]
    assert np.all(np.array(found) < most)
    # p^(−1/2), and up to p^(−0.7) while the p^(−1) of the means' fourth power still counts.
    assert -0.75 < nh.power_law((200, 400, 800), found).slope < -0.3


def test_the_identity_has_no_quadratic_part(errors):
    # With τ0⁴α3 taken off the error stays: α3 ≈ 0.011 against ‖K‖ ≈ 0.115 is a tenth of the norm.
    ours, lowered = errors["ck", "iid"], errors["lowered", "iid"]
    assert nh.power_law((200, 400, 800), ours).slope < -0.4
    assert nh.power_law((200, 400, 800), lowered).slope > -0.25
    assert lowered[-1] > 0.09 > 2 * ours[-1]


@pytest.mark.parametrize("name", nh.data.PRESETS)
def test_kappa_is_the_diagonal_of_the_ntk(name):
    mixture = nh.GaussianMixture.preset(name, 800)
    sample = mixture.sample(1600, 0)
    c = nh.propagate([RELU] * 3, mixture.tau0)[-1]
    K, N = nh.limit_kernels(sample.X, [RELU] * 3, tau0=mixture.tau0)
    # ReLU is homogeneous, so the diagonal follows the lengths, and those hold ‖μ‖²/p besides τ0²:
    # 2% at this p. With that taken out at most 1% is left: the second order of the lengths' spread,
    # whose relative variance is t²/p = 1.4% in `variances`.
    length = (sample.X**2).sum(axis=1).mean() / mixture.tau0**2
    assert length - 1 == pytest.approx((mixture.means**2).sum(axis=1).mean() / 800, abs=0.004)
    assert N.diagonal().mean() / c.kappa**2 == pytest.approx(length, abs=0.01)
    assert K.diagonal().mean() / c.tau**2 == pytest.approx(length, abs=0.01)


def test_memory_is_that_of_the_data():
    n, p = 6000, 100
    X = np.random.default_rng(0).standard_normal((n, p)) / np.sqrt(p)
    stats = nh.estimate_statistics(X, np.arange(n) % 2)
    kernel = nh.ck_equivalent(X, stats, nh.propagate([RELU], stats.tau0)[-1])
    tracemalloc.start()
    kernel.eigenvalues()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One copy of X for the BLAS at most; n × n would be 60 times that.
    assert peak < 2 * X.nbytes


def test_it_is_a_scipy_operator():
    X, stats, c = case()
    kernel = nh.ntk_equivalent(X, stats, c)
    v = np.random.default_rng(0).standard_normal(len(X))
    np.testing.assert_allclose(kernel @ v, kernel.to_dense() @ v, atol=1e-13)
    np.testing.assert_allclose(kernel.T @ v, kernel @ v)
    np.testing.assert_allclose(
        eigsh(kernel, 2, which="LA", return_eigenvectors=False), kernel.eigenvalues()[-2:]
    )


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(20)))
def test_permutation_of_the_samples(order):
    X = np.random.default_rng(3).standard_normal((20, 6)) / 2
    labels = np.arange(20) % 2
    order = np.array(order)

    def kernel(X, labels):
        stats = nh.estimate_statistics(X, labels)
        return nh.ck_equivalent(X, stats, nh.propagate([RELU], stats.tau0)[-1]).to_dense()

    one = kernel(X, labels)[np.ix_(order, order)]
    np.testing.assert_allclose(kernel(X[order], labels[order]), one, atol=1e-13)


def test_slips_of_the_published_kappa():
    layers = nh.propagate([RELU] * 3, 1.25)
    find = nh.theory.published_kappa_squared
    assert find([RELU] * 3, 1.25, []) == pytest.approx(layers[-1].kappa ** 2, rel=1e-12)
    assert find([RELU], 1.25, ["squared"]) == pytest.approx(layers[0].kappa ** 4)
    g = nh.gaussian_moments(RELU, layers[0].tau)
    late = g.variance + g.derivative_power * 1.25
    assert find([RELU], 1.25) == pytest.approx(late**2)
    with pytest.raises(ValueError, match="slips must be one of start, late, squared"):
        find([RELU], 1.25, ["early"])


def test_an_equivalent_of_ones_own():
    X, V = np.eye(4)[:, :2], np.ones((4, 1))
    kernel = nh.KernelEquivalent(X.tolist(), V, [[0.5]], 2, 1)
    np.testing.assert_allclose(kernel.to_dense(), 2 * X @ X.T + 0.5 + np.eye(4))
    for wrong in ((X, V[:3], [[0.5]]), (X, V, np.eye(2))):
        with pytest.raises(ValueError, match="V and A must fit X"):
            nh.KernelEquivalent(*wrong, 2, 1)


def test_coefficients_and_equivalents_can_be_compared():
    X, stats, c = case()
    assert c == nh.propagate([RELU] * 2, stats.tau0)[-1] != nh.propagate([RELU], stats.tau0)[-1]
    assert nh.propagate([RELU] * 2)[-1] != c
    one = nh.ck_equivalent(X, stats, c)
    assert one == one and one != nh.ck_equivalent(X, stats, c)


@pytest.mark.parametrize(
    ("n", "p", "n_classes"), [(1, 30, 1), (2, 200, 2), (5, 200, 1), (300, 4, 2), (3, 1, 1)]
)
@pytest.mark.parametrize("make", [nh.ck_equivalent, nh.ntk_equivalent])
def test_few_samples_and_many(make, n, p, n_classes):
    mixture = nh.GaussianMixture.preset("means", p, n_classes)
    sample = mixture.sample(n, 0)
    stats = mixture.statistics(sample)
    kernel = make(sample.X, stats, nh.propagate([RELU], stats.tau0)[-1])
    dense = kernel.to_dense()
    values = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(kernel.eigenvalues(), values, atol=1e-12 * values[-1])
    np.testing.assert_allclose(kernel.leading(1)[0], values[-1:], rtol=1e-10)
    np.testing.assert_allclose(kernel @ np.ones(n), dense @ np.ones(n), atol=1e-11 * values[-1])


def test_equal_rows():
    X = np.ones((8, 3)) * np.repeat([1.0, -0.5], 4)[:, None]
    X[0, 0] = 0.9
    stats = nh.estimate_statistics(X, np.arange(8) % 2)
    kernel = nh.ck_equivalent(X, stats, nh.propagate([RELU], stats.tau0)[-1])
    values = np.linalg.eigvalsh(kernel.to_dense())
    np.testing.assert_allclose(kernel.eigenvalues(), values, atol=1e-12 * values[-1])


def test_bad_input():
    X, stats, c = case()
    with pytest.raises(ValueError, match="activations must name at least one layer"):
        nh.propagate([], 1.0)
    with pytest.raises(ValueError, match="tau0 must be a positive finite number"):
        nh.propagate([RELU], 0.0)
    with pytest.raises(ValueError, match=r"X must have shape \(70, 40\) to fit statistics"):
        nh.ck_equivalent(X[:-1], stats, c)
    with pytest.raises(ValueError, match="X must be finite"):
        nh.ck_equivalent(np.where(X[3, 3] == X, np.nan, X), stats, c)
    with pytest.raises(
        ValueError, match=r"use propagate\(activations, tau0\) with the tau0 of the statistics"
    ):
        nh.ck_equivalent(X, stats, nh.propagate([RELU], 2.0)[-1])
    with pytest.raises(
        ValueError, match="statistics must be Statistics, and may be None for .*ndarray"
    ):
        nh.ck_equivalent(X, X, c)
    with pytest.raises(ValueError, match="coefficients must be LayerCoefficients, got .*tuple"):
        nh.ntk_equivalent(X, stats, nh.propagate([RELU], stats.tau0))
    step = nh.propagate([nh.activation("step")], stats.tau0)[-1]
    with pytest.raises(ValueError, match="diagonal of the neural tangent kernel does not exist"):
        nh.ntk_equivalent(X, stats, step)
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 43"):
        nh.ck_equivalent(X, stats, c).leading(60)
