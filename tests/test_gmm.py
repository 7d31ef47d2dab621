"""Mixtures: the law of their samples, exact and estimated statistics, and bad input."""

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh


@pytest.mark.parametrize("name", nh.data.PRESETS)
def test_samples_follow_their_law(name):
    p, n = 12, 60_000
    mixture = nh.GaussianMixture.preset(name, p)
    sample = mixture.sample(n, seed=3)
    for a in range(2):
        X = sample.X[sample.labels == a] * np.sqrt(p)
        root_n = np.sqrt(len(X))
        spread = np.sqrt(np.diag(mixture.covariances[a]))
        # Five standard errors of a mean, and of a covariance entry (at most √2 σ_i σ_j/√n).
        assert np.all(np.abs(X.mean(0) - mixture.means[a]) < 5 * spread / root_n)
        error = np.abs(np.cov(X.T) - mixture.covariances[a])
        assert np.all(error < 5 * np.sqrt(2) * np.outer(spread, spread) / root_n)


def test_presets_are_the_published_cases():
    p = 100
    mixed = nh.GaussianMixture.preset("mixed", p, n_classes=3)
    np.testing.assert_array_equal(mixed.means[2], 4 * np.eye(p)[2])
    assert mixed.covariances[1][0, 3] == pytest.approx((1 + 4 / 10) * 0.4**3)
    variances = nh.GaussianMixture.preset("variances", p)
    np.testing.assert_allclose(variances.covariances[1], (1 + 8 / 10) * np.eye(p))
    assert variances.tau0 == pytest.approx(np.sqrt(1.4))


def test_statistics_are_the_definitions():
    rng = np.random.default_rng(0)
    p, k = 7, 3
    roots = rng.standard_normal((k, p, p))
    covariances = roots @ roots.transpose(0, 2, 1)
    shares = np.array([0.5, 0.3, 0.2])
    mixture = nh.GaussianMixture(rng.standard_normal((k, p)), covariances, shares)
    sample = mixture.sample(10, seed=1)
    stats = mixture.statistics(sample)
    average = np.tensordot(shares, covariances, 1)
    assert stats.tau0 == pytest.approx(np.sqrt(np.trace(average) / p))
    for a in range(k):
        assert stats.t[a] == pytest.approx(np.trace(covariances[a] - average) / np.sqrt(p))
        for b in range(k):
            assert stats.T[a, b] == pytest.approx(np.trace(covariances[a] @ covariances[b]) / p)
    assert stats.t @ shares == pytest.approx(0.0, abs=1e-12)
    i = 6
    a = sample.labels[i]
    z = sample.X[i] - mixture.means[a] / np.sqrt(p)
    assert stats.psi[i] == pytest.approx(z @ z - np.trace(covariances[a]) / p)
    np.testing.assert_array_equal(stats.J.sum(0), [5, 3, 2])
    np.testing.assert_array_equal(stats.V[:, -1], stats.psi)


def test_estimates_converge_to_the_population():
    p = 60
    mixture = nh.GaussianMixture.preset("mixed", p)
    draws = []
    for seed in range(20):
        sample = mixture.sample(90, seed)
        draws.append(nh.estimate_statistics(sample.X, sample.labels))
    exact = mixture.statistics(sample)
    for field in ("t", "T"):
        values = np.array([getattr(d, field) for d in draws])
        # Unbiased up to O(1/n): the mean of 20 draws lies within four of its standard errors,
        # plus a bias of two in the class size of 45.
        error = np.abs(values.mean(0) - getattr(exact, field))
        bias = 2 / 45 * np.abs(getattr(exact, field))
        assert np.all(error < 4 * values.std(0) / np.sqrt(20) + bias)
    taus = np.array([d.tau0 for d in draws])
    assert abs(taus.mean() - exact.tau0) < 4 * taus.std() / np.sqrt(20) + 1e-3


def test_estimated_T_is_the_mean_over_pairs():
    rng = np.random.default_rng(5)
    X, labels = rng.standard_normal((9, 4)), np.array([0, 1, 0, 1, 1, 0, 0, 1, 1])
    stats = nh.estimate_statistics(X, labels)
    Z = X - np.array([X[labels == a].mean(0) for a in labels])
    pairs = [(Z[i] @ Z[j]) ** 2 for i in range(9) for j in range(9) if labels[i] < labels[j]]
    # Centring at the class mean leaves (n_a − 1)/n_a of the covariance.
    assert stats.T[0, 1] == pytest.approx(4 * np.mean(pairs) / (3 / 4 * 4 / 5))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.floats(0.1, 10))
def test_estimates_ignore_order_and_scale(order, scale):
    X = np.random.default_rng(2).standard_normal((8, 5))
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    one = nh.estimate_statistics(X, labels)
    other = nh.estimate_statistics(scale * X[order], labels[list(order)])
    np.testing.assert_allclose(other.tau0, scale * one.tau0)
    np.testing.assert_allclose(other.t, scale**2 * one.t, atol=1e-10 * scale**2)
    np.testing.assert_allclose(other.T, scale**4 * one.T)
    np.testing.assert_allclose(other.psi, scale**2 * one.psi[list(order)], atol=1e-12 * scale**2)


def test_sampling_is_a_function_of_the_seed():
    mixture = nh.GaussianMixture.preset("means", 5)
    np.testing.assert_array_equal(mixture.sample(6, 1).X, mixture.sample(6, 1).X)
    assert not np.array_equal(mixture.sample(6, 1).X, mixture.sample(6, 2).X)
    assert mixture.class_sizes(7).sum() == 7


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-90, 1e-50, 1e55])
def test_statistics_in_any_unit(size):
    """Right wherever they are float64 numbers: no NaN, no infinity, no tau0 of zero."""
    X = np.random.default_rng(2).integers(-9, 10, (8, 5)).astype(float)
    one = nh.estimate_statistics(X, np.arange(8) % 2)
    other = nh.estimate_statistics(size * X, np.arange(8) % 2)
    assert other.tau0 == pytest.approx(size * one.tau0, rel=1e-12)
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(other.T, size**2 * (size**2 * one.T), rtol=1e-12)
        np.testing.assert_allclose(other.psi, size * (size * one.psi), rtol=1e-10, atol=0)


def test_values_are_compared_by_what_they_hold():
    mixture = nh.GaussianMixture.preset("mixed", 5)
    same = nh.GaussianMixture(mixture.means.tolist(), mixture.covariances, None)
    assert mixture == same and mixture != nh.GaussianMixture.preset("mixed", 6)
    sample = mixture.sample(6, 1)
    assert sample == same.sample(6, np.int64(1)) and sample != mixture.sample(6, 2)
    assert mixture.statistics(sample) == same.statistics(sample)
    assert mixture.statistics(sample) != mixture.statistics(mixture.sample(6, 2))
    assert mixture != sample
    rng = np.random.default_rng(1)
    assert mixture.sample(6, rng) == sample and mixture.sample(6, rng) != sample


EYE = np.eye(3)[None]
STATISTICS = nh.estimate_statistics(np.eye(4), [0, 0, 1, 1])
OTHER = nh.GaussianMixture.preset("iid", 3).sample(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nh.GaussianMixture.preset("mixture", 10),
            "name must be one of iid, means, .*, got 'mixture'",
        ),
        (lambda: nh.GaussianMixture.preset("means", 2, 3), "n_classes must be at most p=2"),
        (lambda: nh.GaussianMixture.preset("mixed", 9, 4), "n_classes must be at most 3"),
        (
            lambda: nh.GaussianMixture.preset("iid", 0),
            "p must be a whole number of at least 1, got 0",
        ),
        (lambda: nh.GaussianMixture(np.zeros(3), EYE), r"means must have 2 dimension"),
        (lambda: nh.GaussianMixture(np.zeros((2, 3)), EYE), r"covariances must have shape \(2, 3"),
        (lambda: nh.GaussianMixture(np.full((1, 3), np.nan), EYE), "means must be finite"),
        (lambda: nh.GaussianMixture(np.zeros((1, 3)), -EYE), r"covariances\[0\] must be positive"),
        (lambda: nh.GaussianMixture(np.zeros((1, 3)), np.triu(EYE + 1)), "must be symmetric"),
        (
            lambda: nh.GaussianMixture(np.zeros((1, 3)), EYE, [0.5]),
            "proportions must be 1 positive",
        ),
        (lambda: nh.GaussianMixture.preset("means", 9).sample(1), "leaves a class with no sample"),
        (lambda: nh.estimate_statistics(np.zeros(3), [0]), "X must have 2 dimension"),
        (lambda: nh.estimate_statistics([[np.inf]], [0]), "X must be finite"),
        (lambda: nh.estimate_statistics(np.zeros((0, 2)), []), "at least one row"),
        (lambda: nh.estimate_statistics([["a"]], [0]), "X must be numbers"),
        (lambda: nh.estimate_statistics(np.eye(2), [0]), r"labels must have shape \(2,\)"),
        (lambda: nh.estimate_statistics(np.eye(2), [0.0, 0.5]), "labels must be whole numbers"),
        (lambda: nh.estimate_statistics(np.eye(2), ["a", "b"]), "labels must be whole numbers"),
        (lambda: nh.estimate_statistics(np.ma.masked_equal(np.eye(2), 0), [0, 0]), "X .* masked"),
        (
            lambda: nh.estimate_statistics(np.eye(2), np.ma.masked_equal([0, 0], 0)),
            "labels .* masked",
        ),
        (lambda: nh.estimate_statistics(1e160 * np.eye(2), [0, 0]), "X must have entries of size"),
        (
            lambda: nh.estimate_statistics(np.eye(2) + 0j, [0, 0]),
            "X must be numbers, got .*complex",
        ),
        (lambda: nh.estimate_statistics(np.eye(2).astype(str), [0, 0]), "X must be numbers"),
        (lambda: nh.estimate_statistics([["2020-01-01"]], [0]), "X must be numbers"),
        (lambda: nh.GaussianMixture.preset("iid", 9).sample(4, seed=None), "seed must be a whole"),
        (lambda: nh.GaussianMixture.preset("iid", 9).statistics(0), "sample must be a Sample in"),
        (lambda: nh.GaussianMixture.preset("iid", 9).statistics(OTHER), "in dimension 9"),
        (lambda: attrs.evolve(STATISTICS, t=[1.0, np.nan]), "t must be finite"),
        (
            lambda: attrs.evolve(STATISTICS, t=[1.0]),
            r"t, T, squares and psi must have shapes \(2,\)",
        ),
        (lambda: nh.estimate_statistics(np.eye(2), [0, 2]), "a class with no sample"),
        (lambda: nh.estimate_statistics(np.eye(3), [0, 0, 1]), "two samples or more"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
