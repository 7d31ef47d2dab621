"""Equivalents with the terms of finite size, with labels and without, against exact kernels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.theory.angle import angle_series

REFERENCE = np.load(Path(__file__).parent / "data" / "infinite_width_kernels.npz")
RELU = [nh.activation("relu")] * 3


def rows(n=60, p=40, shortest=0.3, longest=1.6, seed=0):
    """Samples whose lengths and inner products are far from concentrated."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)) * rng.uniform(shortest, longest, (n, 1)) / np.sqrt(p)


def drawn(preset, p, n, names, seed=0):
    """X of a mixture, its statistics, and the coefficients of a network's last layer."""
    mixture = nh.GaussianMixture.preset(preset, p)
    sample = mixture.sample(n, seed)
    return sample.X, mixture.statistics(sample), nh.propagate(names, mixture.tau0)[-1]


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
@pytest.mark.parametrize("names", [["relu"] * 3, ["tanh"] * 2, ["abs"], ["sin", "gelu"]])
def test_the_series_in_the_angle_is_the_exact_kernel(names, kernel, center):
    X = rows()
    exact = nh.limit_kernels(X, names, center=center)[kernel == "ntk"]
    squared = (X**2).sum(axis=1)
    errors = []
    for order in (2, 6, 14):
        found = angle_series(names, squared, order, kernel=kernel, center=center).kernel(X)
        np.testing.assert_allclose(found.diagonal(), exact.diagonal(), rtol=1e-9)
        errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    # Cosines reach 0.64: a power of 15 leaves a thousandth of terms that are small themselves.
    assert errors[-1] < 2e-6
    assert errors[0] > 5 * errors[1] or names == ["abs"]


@pytest.mark.parametrize(("case", "names"), [("relu", ["relu"] * 3), ("erf2", ["erf"] * 2)])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_kernels_of_another_library(case, names, kernel):
    X, exact = REFERENCE["X"], REFERENCE[f"{case}__{kernel}"]
    found = nh.theory.polynomial_equivalent(
        X, names, kernel=kernel, center=False, tolerance=1e-4, rank=len(X), order=30
    )
    assert nh.relative_error(exact, found) < 1e-3


def test_terms_of_a_homogeneous_kernel_are_of_rank_one_in_the_lengths():
    # K(sx, tx') = s t K(x, x') without centring: φ_k(a, b) = φ_k(1, 1) √(ab).
    squared = (rows() ** 2).sum(axis=1)
    series = angle_series(RELU, squared, 8, kernel="ntk", center=False)
    for k in range(9):
        factor = series.factor(k, squared, accuracy=1e-8)
        assert factor.shape[1] <= 1
        if factor.size:
            ratio = factor[:, 0] / np.sqrt(squared)
            assert ratio == pytest.approx(np.full(len(ratio), ratio[0]), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 6), st.floats(0.5, 0.99), st.sampled_from(["relu", "tanh", "sign", "gelu"]))
def test_terms_are_positive_semidefinite_in_the_lengths(k, shortest, name):
    squared = np.linspace(shortest, 1.5, 12)
    series = angle_series([name, "tanh"], squared, 6)
    basis = series.basis(squared)
    values = np.linalg.eigvalsh(basis @ series.terms[k] @ basis.T)
    assert values[0] > -1e-9 * max(values[-1], np.abs(series.terms).max())


@pytest.fixture(scope="module")
def errors():
    """(kernel, preset) -> (limit, finite, no labels) at p = 300, n = 2p, relu × 3, one draw."""
    found = {}
    for name in nh.data.PRESETS:
        mixture = nh.GaussianMixture.preset(name, 300)
        c = nh.propagate(RELU, mixture.tau0)[-1]
        sample = mixture.sample(600, seed=0)
        X, stats = sample.X, mixture.statistics(sample)
        exact = nh.limit_kernels(X, RELU, tau0=mixture.tau0)
        makers = {"ck": nh.ck_equivalent, "ntk": nh.ntk_equivalent}
        for (kernel, make), K in zip(makers.items(), exact, strict=True):
            found[kernel, name] = [
                nh.relative_error(K, make(X, given, c, order))
                for given, order in ((stats, "limit"), (stats, "finite"), (None, "finite"))
            ]
    return found


@pytest.mark.parametrize("name", nh.data.PRESETS)
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_the_terms_of_finite_size_pay(errors, kernel, name):
    limit, finite, unlabelled = errors[kernel, name]
    # What is left with labels is the spread of squared inner products, p^(−1/2) and a few percent;
    # for one class that was half of the conjugate kernel's error to begin with.
    assert finite < (0.5 if (kernel, name) == ("ck", "iid") else 0.3) * limit
    assert finite < 0.035 and unlabelled < 0.03


def test_without_labels_the_error_falls_like_one_over_p():
    sizes, found = (100, 200, 400), []
    for p in sizes:
        X = nh.GaussianMixture.preset("means", p).sample(2 * p, seed=0).X
        K, _ = nh.limit_kernels(X, RELU, tau0=1.0, ntk=False)
        equivalent = angle_series(RELU, (X**2).sum(axis=1), 2, tau0=1.0).kernel(X)
        found.append(nh.relative_error(K, equivalent))
    law = nh.power_law(sizes, found)
    assert law.slope == pytest.approx(-1, abs=0.25)


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_images_need_few_columns(kernel):
    data = nh.load_digits(n=1000)
    X = nh.normalize(data.X)
    exact = nh.limit_kernels(X, RELU, tau0=1.0)[kernel == "ntk"]
    found = nh.theory.polynomial_equivalent(X, RELU, kernel=kernel, tau0=1.0, tolerance=0.05)
    error = nh.relative_error(exact, found)
    assert error < 0.05 and found.rank <= len(X) // 4 + 1
    # What it says of itself is an upper bound, or nearly so: power iteration is from below.
    assert error < 1.1 * (found.truncation + found.error) < 0.06


def test_what_no_order_and_no_rank_reaches_is_said():
    # Equal rows have a cosine of 1, where the series of ReLU converges slowly.
    X = np.repeat(np.eye(4), 30, axis=0)
    found = nh.theory.polynomial_equivalent(X, RELU, tau0=1.0, rank=0, order=3)
    K, _ = nh.limit_kernels(X, RELU, tau0=1.0, ntk=False)
    error = nh.relative_error(K, found)
    assert 0.02 < error < found.truncation + 1.1 * found.error


@pytest.mark.parametrize("X", [np.ones((1, 3)), np.eye(5), np.vstack([np.zeros(3), np.eye(3)])])
def test_few_samples(X):
    found = nh.theory.polynomial_equivalent(X, RELU, rank=len(X), tolerance=1e-4)
    K, _ = nh.limit_kernels(X, RELU)
    assert found.to_dense() == pytest.approx(K, abs=1e-3 * np.abs(K).max())


@pytest.mark.parametrize("labelled", [True, False])
def test_spectrum_with_a_diagonal_that_varies(labelled):
    X, stats, c = drawn("mixed", 60, 200, ["relu"] * 2, seed=1)
    kernel = nh.ck_equivalent(X, stats if labelled else None, c, "finite")
    dense = kernel.to_dense()
    values = np.linalg.eigvalsh(dense)
    found = kernel.eigenvalues()
    # The trace is exact, and no eigenvalue is further off than the diagonal's half spread.
    assert found.sum() == pytest.approx(values.sum(), rel=1e-10)
    assert np.abs(found - values).max() < np.ptp(kernel.shift) / 2
    assert found[-3:] == pytest.approx(values[-3:], rel=2e-3)
    top, vectors = kernel.leading(3)
    assert top == pytest.approx(values[::-1][:3], rel=1e-10)
    np.testing.assert_allclose(kernel @ vectors, vectors * top, atol=1e-9 * values[-1])
    v = np.random.default_rng(0).standard_normal((200, 2))
    np.testing.assert_allclose(kernel @ v, dense @ v, atol=1e-12 * values[-1] * 200)


def test_truncated_is_the_best_of_its_rank_and_keeps_the_diagonal():
    X = nh.normalize(nh.load_digits(n=400).X)
    kernel = nh.theory.polynomial_equivalent(X, RELU, tau0=1.0, tolerance=0.02)
    dense = kernel.to_dense()
    low_rank = dense - np.diag(kernel.shift)
    values = np.sort(np.abs(np.linalg.eigvalsh(low_rank)))[::-1]
    for rank in (5, 20):
        found = kernel.truncated(rank)
        np.testing.assert_allclose(found.to_dense().diagonal(), dense.diagonal(), rtol=1e-10)
        beside = found.to_dense() - np.diag(found.shift)
        assert np.linalg.matrix_rank(beside, tol=1e-9) == rank
        assert nh.theory.spectral_norm(low_rank - beside) == pytest.approx(values[rank], rel=1e-6)
    # As many columns as there are lose nothing.
    full = kernel.truncated(np.linalg.matrix_rank(low_rank, tol=1e-10))
    np.testing.assert_allclose(full.to_dense(), dense, atol=1e-9)


def test_squares_are_the_mean_squared_products():
    mixture = nh.GaussianMixture(
        means=[[2, 0, 0, 0], [0, 1, 1, 0]], covariances=[np.eye(4), np.diag([1, 2, 3, 4.0])]
    )
    sample = mixture.sample(6000, seed=0)
    first, second = sample.X[:3000], sample.X[3000:]
    expected = [
        [4 * np.mean((a @ b.T)[~np.eye(3000, dtype=bool)] ** 2) for b in (first, second)]
        for a in (first, second)
    ]
    assert nh.estimate_statistics(sample.X, sample.labels).squares == pytest.approx(
        np.array(expected), rel=2e-3
    )
    assert mixture.squares == pytest.approx(np.array(expected), rel=0.05)


@pytest.mark.parametrize("activation", ["relu", "abs", "tanh", "sign"])
@pytest.mark.parametrize("name", ["means", "mixed"])
def test_outliers_of_the_exact_kernel(name, activation):
    p, layers = 400, [activation] * 3
    mixture = nh.GaussianMixture.preset(name, p)
    c = nh.propagate(layers, mixture.tau0)[-1]
    exact = []
    for seed in range(4):
        X = mixture.sample(2 * p, seed).X
        K, _ = nh.limit_kernels(X, layers, tau0=mixture.tau0, ntk=False)
        exact.append(nh.leading_eigenpairs(K, 2)[0])
    count = 1 if activation == "abs" else 2
    # Two equal eigenvalues repel each other in a sample: their mean is what can be predicted.
    expected = np.mean(exact, axis=0)[:count].mean()
    errors = {}
    for order in ("limit", "finite"):
        _, outliers = nh.limiting_spectrum(mixture, 2 * p, c, order=order)
        found = np.mean([outlier.value for outlier in outliers[:count]])
        errors[order] = abs(found / expected - 1)
    assert errors["finite"] < (0.05 if activation in ("tanh", "sign") else 0.025)
    assert errors["finite"] < errors["limit"] + 0.01


@pytest.mark.parametrize("names", [["relu"] * 2, ["tanh"]])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_bulk_at_finite_width(names, kernel):
    p, n = 300, 450
    widths = [500, 400][: len(names)]
    X, stats, c = drawn("iid", p, n, names)
    law = nh.theory.width_law(X, stats, c, widths, kernel)
    net = nh.RandomMLP(p, widths, names, tau0=1.0, seed=0)
    empirical = nh.empirical_ck if kernel == "ck" else nh.empirical_ntk
    values = np.linalg.eigvalsh(empirical(net, X))
    make = nh.ck_equivalent if kernel == "ck" else nh.ntk_equivalent
    wide = make(X, stats, c).eigenvalues()
    x = np.geomspace(1e-2 * law.mean, 1.2 * values[-1], 600)
    density = law.pdf(x)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(x)
    above = np.append(np.cumsum(steps[::-1])[::-1], 0)
    ours, before = (np.abs((v[:, None] > x).mean(axis=0) - above).max() for v in (values, wide))
    # The tangent kernel's diagonal varies from sample to sample, by p^(−1/2), as no such law has it.
    assert ours < (0.03 if kernel == "ck" else 0.08) and ours < before / 2
    assert law.mean == pytest.approx(values.mean(), rel=0.05)


def test_wide_layers_give_back_the_equivalent():
    X, stats, c = drawn("means", 100, 200, ["relu"] * 2)
    found = nh.theory.width_outliers(X, stats, c, [10**7, 10**7])
    wide = nh.ck_equivalent(X, stats, c, "finite").leading(2)[0]
    assert found == pytest.approx(wide, rel=0.03)


def test_outliers_at_finite_width():
    p, widths = 200, [600, 500]
    X, stats, c = drawn("means", p, 2 * p, ["relu"] * 2)
    nets = (nh.RandomMLP(p, widths, ["relu"] * 2, tau0=1.0, seed=seed) for seed in range(10))
    simulated = np.mean(
        [nh.leading_eigenpairs(nh.empirical_ck(net, X), 2)[0] for net in nets], axis=0
    )
    found = nh.theory.width_outliers(X, stats, c, widths)
    wide = nh.ck_equivalent(X, stats, c, "finite").leading(2)[0]
    assert len(found) == 2
    assert abs(found.mean() / simulated.mean() - 1) < 0.04
    assert abs(wide.mean() / simulated.mean() - 1) > 0.07


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, s, c: nh.ck_equivalent(X, None, c), "may be None for order='finite' alone"),
        (lambda X, s, c: nh.ck_equivalent(X, s, c, "exact"), "order must be one of limit, finite"),
        (lambda X, s, c: nh.ck_equivalent(np.zeros((4, 3)), None, c, "finite"), "squared must"),
        (lambda X, s, c: nh.theory.polynomial_equivalent(X, ["relu"], tolerance=0), "tolerance"),
        (lambda X, s, c: nh.theory.polynomial_equivalent(X, ["relu"], order=0), "order must be"),
        (
            lambda X, s, c: nh.theory.polynomial_equivalent(X, ["sign"], kernel="ntk"),
            r"activations must not have a jump, as \['sign'\]",
        ),
        (lambda X, s, c: nh.theory.width_law(X, s, c, [3, 4]), "widths must have 1 entries"),
        (lambda X, s, c: nh.theory.width_law(X, s, c, [0]), "widths must be a whole number"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*drawn("means", 10, 20, ["relu"]))
