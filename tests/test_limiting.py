"""Limiting spectra against closed forms, eigenvalues of samples, and limits of themselves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

import ntklc_helpers as nh
from ntklc_helpers.bulk import Bulk, General, covariances

RELU, TANH, ABS, LINEAR = (nh.activation(name) for name in ("relu", "tanh", "abs", "linear"))


def last(activations, mixture):
    return nh.propagate(activations, tau0=mixture.tau0)[-1]


def kolmogorov(density, eigenvalues):
    """Distance of two distribution functions; the point mass is compared as a whole."""
    values = np.sort(eigenvalues)
    if density.atom_mass:
        values = values[values > density.atom + 1e-9]
    n = len(eigenvalues)
    above = np.arange(n - len(values) + 1, n + 1) / n
    return np.maximum(
        np.abs(density.cdf(values) - above), np.abs(density.cdf(values) - above + 1 / n)
    ).max()


def marchenko_pastur(x, ratio):
    """Density of ZZᵀ, rows N(0, I/p), n = ratio · p."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    return np.sqrt(np.clip((high - x) * (x - low), 0, None)) / (2 * np.pi * ratio * x)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 4.0])
def test_marchenko_pastur(ratio):
    mixture = nh.GaussianMixture(np.zeros((1, 40)), np.eye(40)[None])
    n = round(40 * ratio)
    density, outliers = nh.limiting_spectrum(mixture, n, last([LINEAR], mixture))
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    np.testing.assert_allclose(density.edges, [[low, high]], atol=1e-8)
    assert density.atom_mass == pytest.approx(max(0, 1 - 1 / ratio), abs=1e-6)
    x = low + (high - low) * np.linspace(0.02, 0.98, 50)
    np.testing.assert_allclose(density.pdf(x), marchenko_pastur(x, ratio), rtol=2e-3, atol=1e-6)
    for at in x[::12]:
        exact = quad(marchenko_pastur, low, at, args=(ratio,), limit=200)[0]
        # At a hard edge the law is taken 1e-9 above the axis, where it moves by the root of that.
        assert density.cdf(at) - density.atom_mass == pytest.approx(exact, abs=2e-3)
    assert density.cdf(high + 1) == pytest.approx(1, abs=1e-12)
    assert density.cdf(min(low, 0) - 1) == 0
    assert outliers == ()


def test_linear_network_with_means_is_the_spiked_model():
    # Singular values and vectors of a low-rank perturbation: Benaych-Georges and Nadakuditi (2012).
    p, ratio = 60, 2.0
    means = np.zeros((1, p))
    means[0, 3] = 1.7
    mixture = nh.GaussianMixture(means, np.eye(p)[None])
    _, outliers = nh.limiting_spectrum(mixture, round(ratio * p), last([LINEAR], mixture))
    strength = ratio * 1.7**2
    (outlier,) = (o for o in outliers if o.value > 1)
    assert outlier.value == pytest.approx((1 + strength) * (ratio + strength) / strength, rel=1e-10)
    cosine = 1 - ratio * (1 + strength) / (strength * (strength + ratio))
    assert outlier.alignment == pytest.approx([cosine], rel=1e-6)


def test_no_outlier_below_the_phase_transition():
    p, ratio = 60, 2.0
    for factor, count in ((0.97, 0), (1.03, 1)):
        means = np.zeros((1, p))
        means[0, 0] = factor * (ratio**0.5 / ratio) ** 0.5
        mixture = nh.GaussianMixture(means, np.eye(p)[None])
        density, outliers = nh.limiting_spectrum(mixture, 120, last([LINEAR], mixture))
        assert sum(o.value > density.edges[-1, 1] for o in outliers) == count


@pytest.mark.parametrize("preset", nh.PRESETS)
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_density_and_outliers_of_the_equivalent(preset, kernel):
    mixture = nh.GaussianMixture.preset(preset, p=500)
    samples = [mixture.sample(1000, seed) for seed in range(2)]
    equivalent = nh.ck_equivalent if kernel == "ck" else nh.ntk_equivalent
    for activations in ([RELU] * 3, [TANH] * 2):
        coefficients = last(activations, mixture)
        density, outliers = nh.limiting_spectrum(mixture, 1000, coefficients, kernel)
        observed = np.array(
            [
                equivalent(s.X, mixture.statistics(s), coefficients).eigenvalues()[::-1]
                for s in samples
            ]
        )
        # Eigenvalues are rigid: the distance is a few / n beside the outliers' own share of 1 / n.
        assert kolmogorov(density, observed[0]) < 0.006
        far = 1.05 * density.edges[-1, 1]
        predicted = [o.value for o in outliers if o.value > far]
        assert (observed > far).sum(axis=1).tolist() == [len(predicted)] * 2
        # Fluctuations are of relative size p^(−½), 4%, of the largest spikes.
        np.testing.assert_allclose(predicted, observed[:, : len(predicted)].mean(axis=0), rtol=0.04)


def test_alignment_with_class_vectors():
    for preset in ("means", "variances", "mixed"):
        mixture = nh.GaussianMixture.preset(preset, p=500)
        sample = mixture.sample(1000, seed=1)
        statistics = mixture.statistics(sample)
        coefficients = last([RELU] * 3, mixture)
        _, outliers = nh.limiting_spectrum(mixture, 1000, coefficients)
        dense = nh.ck_equivalent(sample.X, statistics, coefficients).to_dense()
        predicted = np.array([o.alignment for o in outliers if o.value > 0.2])
        vectors = np.linalg.eigh(dense)[1][:, ::-1][:, : len(predicted)]
        classes = statistics.J / np.sqrt(statistics.J.sum(axis=0))
        observed = (vectors.T @ classes) ** 2
        np.testing.assert_allclose(predicted.sum(axis=0), observed.sum(axis=0), atol=0.04)
        # Where two eigenvalues are close, each sample divides the weight between them anew.
        if preset == "variances":
            np.testing.assert_allclose(predicted, observed, atol=0.08)


def test_outlier_between_atom_and_bulk():
    mixture = nh.GaussianMixture.preset("mixed", p=400)
    sample = mixture.sample(800, seed=2)
    coefficients = last([RELU] * 3, mixture)
    density, outliers = nh.limiting_spectrum(mixture, 800, coefficients)
    kernel = nh.ck_equivalent(sample.X, mixture.statistics(sample), coefficients)
    values = kernel.eigenvalues()
    edge = density.edges[0, 0]
    observed = values[(values > density.atom + 1e-9) & (values < 0.99 * edge)]
    predicted = sorted(o.value for o in outliers if o.value < 0.99 * edge)
    np.testing.assert_allclose(predicted, observed, rtol=0.02)


def test_three_classes_without_common_eigenvectors():
    mixture = nh.GaussianMixture.preset("mixed", p=100, n_classes=3)
    assert isinstance(covariances(mixture, np.zeros((100, 0))), General)
    coefficients = last([RELU] * 2, mixture)
    density, outliers = nh.limiting_spectrum(mixture, 200, coefficients)
    values = []
    for seed in range(10):
        sample = mixture.sample(200, seed)
        kernel = nh.ck_equivalent(sample.X, mixture.statistics(sample), coefficients)
        values.append(kernel.eigenvalues())
    # The outliers, two above the bulk and two below, are a share of 0.02 that no density has.
    assert kolmogorov(density, np.ravel(values)) < 0.025
    assert outliers[0].value == pytest.approx(np.mean([v[-1] for v in values]), rel=0.06)


def test_common_eigenvectors_are_only_a_short_cut():
    mixture = nh.GaussianMixture.preset("mixed", p=24)
    directions = np.linalg.qr(mixture.means.T)[0]
    short, ratios = covariances(mixture, directions), np.array([0.7, 0.9])
    long = General(mixture.covariances, directions)
    for z, x in ((0.3 + 0.2j, np.array([0.5 - 0.1j, 0.7 - 0.3j])), (7.0, np.array([0.5, 0.8]))):
        for a, b in zip(short.traces(x, z), long.traces(x, z), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)
    y = np.array([0.1, -0.2])
    for a, b in zip(short.forms(x, 7.0, y), long.forms(x, 7.0, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    one, other = (Bulk(c, ratios).support() for c in (short, long))
    np.testing.assert_allclose(one, other, rtol=1e-7)


def test_two_intervals_and_a_singular_covariance():
    p = 300
    low = np.diag(np.repeat([0.02, 0.0], p // 2))
    mixture = nh.GaussianMixture(np.zeros((2, p)), np.array([low, np.eye(p)]), [0.25, 0.75])
    density, _ = nh.limiting_spectrum(mixture, 240, last([LINEAR], mixture))
    assert len(density.edges) == 2
    sample = mixture.sample(240)
    assert kolmogorov(density, np.linalg.eigvalsh(sample.X @ sample.X.T)) < 0.012
    assert density.cdf(density.edges[0, 1]) == pytest.approx(0.25, abs=1e-4)
    between = density.edges[0, 1] + 1e-3
    assert density.pdf(between) == 0 and (density.pdf(density.x) >= 0).all()


def test_even_activation_leaves_a_point_and_outliers():
    mixture = nh.GaussianMixture.preset("mixed", p=300)
    coefficients = last([ABS], mixture)
    density, outliers = nh.limiting_spectrum(mixture, 600, coefficients)
    assert density.edges.shape == (0, 2) and density.atom_mass == 1
    assert density.atom == pytest.approx(coefficients.tau**2)
    assert density.cdf(density.atom) == 1 and density.cdf(density.atom - 1e-9) == 0
    # The same as the limit of a linear part that vanishes.
    alpha = coefficients.alpha + np.array([1e-7, 0, 0, 0])
    _, near = nh.limiting_spectrum(mixture, 600, replace(coefficients, alpha=alpha))
    near = [o for o in near if abs(o.value - density.atom) > 1e-3]
    for a, b in zip(outliers, near, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4)
        np.testing.assert_allclose(a.alignment, b.alignment, atol=1e-3)


def test_bad_input_names_the_argument():
    mixture = nh.GaussianMixture.preset("iid", p=20)
    coefficients = last([RELU], mixture)
    with pytest.raises(ValueError, match="kernel must be 'ck' or 'ntk', got 'nngp'"):
        nh.limiting_spectrum(mixture, 40, coefficients, kernel="nngp")
    with pytest.raises(ValueError, match="n must be a positive whole number"):
        nh.limiting_spectrum(mixture, 0, coefficients)
    with pytest.raises(ValueError, match="leaves a class with no sample"):
        nh.limiting_spectrum(mixture, 1, coefficients)
    with pytest.raises(ValueError, match="made for tau0=2"):
        nh.limiting_spectrum(mixture, 40, nh.propagate([RELU], tau0=2.0)[-1])
    jumping = last([nh.activation("sign")], mixture)
    with pytest.raises(ValueError, match="kappa is infinite"):
        nh.limiting_spectrum(mixture, 40, jumping, kernel="ntk")
    assert nh.limiting_spectrum(mixture, 40, jumping)[0].atom_mass > 0
