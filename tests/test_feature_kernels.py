"""Features against the theory's assumptions: what is measured, where they hold by construction."""

import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.theory.feature_kernels import CLASSES, ONE_CLASS, feature_kernels

RELUS = [nh.activation("relu")] * 3


def test_data_of_the_model_meet_the_assumptions():
    p, n = 200, 400
    mixture = nh.GaussianMixture.preset("means", p=p, n_classes=2)
    sample = mixture.sample(n=n, seed=0)
    found = feature_kernels(sample.X, sample.labels, RELUS)
    stats = nh.estimate_statistics(sample.X, sample.labels)
    classes, single = found[CLASSES], found[ONE_CLASS]
    assert classes.tau0 == stats.tau0 and np.array_equal(classes.psi, stats.psi)
    # Means of norm 4/√p, and what noise leaves in the estimate of K = 2 of them.
    assert classes.between == pytest.approx((16 / p + 2 / n) / (1 + 16 / p), rel=0.1)
    # C° is the identity: Marchenko and Pastur's edges, p/n = 1/2.
    assert classes.covariance.mean() == pytest.approx(classes.tau0**2, rel=1e-2)
    edges = (1 - 0.5**0.5) ** 2, (1 + 0.5**0.5) ** 2
    np.testing.assert_allclose(classes.covariance[[0, -1]], edges, atol=5 * p ** (-2 / 3))
    # 0.21 at p = 200 is the error known for this case.
    assert 0.1 < classes.error < 0.3
    # As one class the means are part of the covariance: an eigenvalue of C° beyond the edge.
    assert len(single.t) == 1 and single.covariance[-1] > 1.5 * classes.covariance[-1]


@pytest.mark.parametrize("reading", [CLASSES, ONE_CLASS])
def test_a_reading_is_of_the_kernel_and_its_equivalent(reading):
    mixture = nh.GaussianMixture.preset("means", p=60, n_classes=3)
    sample = mixture.sample(n=150, seed=0)
    found = feature_kernels(sample.X, sample.labels, RELUS)[reading]
    labels = sample.labels if reading == CLASSES else np.zeros(150, int)
    stats = nh.estimate_statistics(sample.X, labels)
    K, _ = nh.limit_kernels(sample.X, RELUS, tau0=stats.tau0)
    equivalent = nh.ck_equivalent(sample.X, stats, nh.propagate(RELUS, stats.tau0)[-1]).to_dense()
    np.testing.assert_allclose(found.exact, np.linalg.eigvalsh(K), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.equivalent, np.linalg.eigvalsh(equivalent), atol=1e-9)
    expected = np.linalg.norm(K - equivalent, 2) / np.linalg.norm(K, 2)
    assert found.error == pytest.approx(expected, rel=1e-6)
    planes = [np.linalg.eigh(kernel)[1][:, -2:] for kernel in (K, equivalent)]
    cosines = np.linalg.svd(planes[0].T @ planes[1], compute_uv=False)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-6)


def test_classes_far_apart_are_seen():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    X = nh.normalize(5 * rng.standard_normal((3, 30))[labels] + rng.standard_normal((120, 30)))
    found = feature_kernels(X, labels, RELUS)
    assert found[CLASSES].between > 0.8 and found[CLASSES].tau0 < 0.45
    assert found[ONE_CLASS].between == pytest.approx(0, abs=1e-12)
    # Squares within three classes and between them add up to all, 120 rows of mean squared norm 1.
    assert found[ONE_CLASS].tau0 ** 2 == pytest.approx(120 / 119)
    assert found[CLASSES].tau0 ** 2 * 117 / 120 == pytest.approx(1 - found[CLASSES].between)
    with pytest.raises(ValueError, match="labels must be of two classes or more, got one"):
        feature_kernels(X, np.zeros(120, int), RELUS)
