"""Features against the theory's assumptions: what is measured, where they hold by construction."""

import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.feature_kernels import balanced_rows, feature_kernels

RELUS = [nh.activation("relu")] * 3


def test_data_of_the_model_meet_the_assumptions():
    p, n = 200, 400
    mixture = nh.GaussianMixture.preset("means", p=p, n_classes=2)
    sample = mixture.sample(n=n, seed=0)
    found = feature_kernels(sample.X, sample.labels, RELUS)
    stats = nh.estimate_statistics(sample.X, sample.labels)
    assert found.tau0 == stats.tau0 and np.array_equal(found.psi, stats.psi)
    # Means of norm 4/√p, and what noise leaves in the estimate of K = 2 of them.
    assert found.between == pytest.approx((16 / p + 2 / n) / (1 + 16 / p), rel=0.1)
    # C° is the identity: Marchenko and Pastur's edges, p/n = 1/2.
    assert found.covariance.mean() == pytest.approx(found.tau0**2, rel=1e-2)
    edges = (1 - 0.5**0.5) ** 2, (1 + 0.5**0.5) ** 2
    np.testing.assert_allclose(found.covariance[[0, -1]], edges, atol=5 * p ** (-2 / 3))
    # 0.21 and 0.17 at p = 200 are the errors known for this case.
    assert 0.1 < found.ck_error < 0.3 and 0.1 < found.ntk_error < 0.25
    K, N = nh.limit_kernels(sample.X, RELUS, tau0=stats.tau0)
    np.testing.assert_allclose(found.ck, np.linalg.eigvalsh(K), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.ntk, np.linalg.eigvalsh(N), rtol=1e-8, atol=1e-10)
    last = nh.propagate(RELUS, stats.tau0)[-1]
    for values, kernel in (
        (found.ck_equivalent, nh.ck_equivalent(sample.X, stats, last)),
        (found.ntk_equivalent, nh.ntk_equivalent(sample.X, stats, last)),
    ):
        np.testing.assert_allclose(values, np.linalg.eigvalsh(kernel.to_dense()), atol=1e-9)


def test_classes_far_apart_are_seen():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    X = nh.normalize(5 * rng.standard_normal((3, 30))[labels] + rng.standard_normal((120, 30)))
    found = feature_kernels(X, labels, RELUS)
    assert found.between > 0.8 and found.tau0 < 0.45
    assert found.tau0**2 == pytest.approx(1 - found.between, rel=0.05)


def test_balanced_rows():
    labels = np.array([0] * 5 + [1] * 9 + [2] * 4)
    rows = balanced_rows(labels, 11, seed=1)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 3] and len(set(rows)) == 9
    assert np.array_equal(rows, np.sort(rows))
    assert not np.array_equal(rows, balanced_rows(labels, 11, seed=2))
    for n in (2, 15):
        with pytest.raises(ValueError, match=f"n must be from 3 to 12, .* of 3 classes, got {n}"):
            balanced_rows(labels, n)
