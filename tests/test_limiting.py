"""Limiting spectra against closed forms, eigenvalues of samples, and limits of themselves."""

import numpy as np
import pytest
from attrs import evolve
from scipy.integrate import quad

import ntklc_helpers as nh

RELU, TANH, ABS, LINEAR = (nh.activation(name) for name in ("relu", "tanh", "abs", "linear"))


def last(activations, mixture):
    return nh.propagate(activations, tau0=mixture.tau0)[-1]


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


@pytest.mark.parametrize("preset", nh.data.PRESETS)
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
        assert density.kolmogorov(observed[0]) < 0.006
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
    coefficients = last([RELU] * 2, mixture)
    density, outliers = nh.limiting_spectrum(mixture, 200, coefficients)
    values = []
    for seed in range(10):
        sample = mixture.sample(200, seed)
        kernel = nh.ck_equivalent(sample.X, mixture.statistics(sample), coefficients)
        values.append(kernel.eigenvalues())
    # The outliers, two above the bulk and two below, are a share of 0.02 that no density has.
    assert density.kolmogorov(np.ravel(values)) < 0.025
    assert outliers[0].value == pytest.approx(np.mean([v[-1] for v in values]), rel=0.06)


def test_common_eigenvectors_are_only_a_short_cut():
    mixture = nh.GaussianMixture.preset("mixed", p=24)
    A = np.random.default_rng(0).standard_normal((24, 24))
    near = mixture.covariances + np.array([1e-8 * (A + A.T), np.zeros_like(A)])
    near = nh.GaussianMixture(mixture.means, near)
    one, other = (nh.limiting_spectrum(m, 40, last([RELU] * 2, m)) for m in (mixture, near))
    np.testing.assert_allclose(other[0].edges, one[0].edges, rtol=1e-6)
    np.testing.assert_allclose(other[0].cdf(one[0].x), one[0].cdf(one[0].x), atol=1e-3)
    for a, b in zip(one[1], other[1], strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-6)
        np.testing.assert_allclose(b.alignment, a.alignment, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-200, 1e-12, 1e-6])
@pytest.mark.parametrize("n", [60, 200])
def test_a_class_of_constant_rows_is_a_point_mass_and_a_spike(size, n):
    p = 100
    means = np.zeros((2, p))
    means[0, 0], means[1, 1] = 3, 4
    mixture = nh.GaussianMixture(means, np.array([size * np.eye(p), np.eye(p)]), [0.25, 0.75])
    coefficients = last([RELU] * 2, mixture)
    density, outliers = nh.limiting_spectrum(mixture, n, coefficients)
    sample = mixture.sample(n, seed=0)
    kernel = nh.ck_equivalent(sample.X, mixture.statistics(sample), coefficients)
    values = kernel.eigenvalues()
    # All but one of the rows of one class, or what the dimension leaves, lie at the point mass.
    assert density.atom_mass == pytest.approx(max(0.25, 1 - p / n), abs=1e-3)
    assert density.atom == pytest.approx(values[n // 8], abs=1e-6)
    tops = density.isolated([outlier.value for outlier in outliers])
    np.testing.assert_allclose(tops, values[::-1][: len(tops)], rtol=0.06)
    assert len(tops) == 2


def test_distance_of_a_density_from_eigenvalues():
    mixture = nh.GaussianMixture(np.zeros((1, 30)), np.eye(30)[None])
    density, _ = nh.limiting_spectrum(mixture, 60, last([LINEAR], mixture))
    assert density.atom_mass == pytest.approx(0.5, abs=1e-6)
    # At quantiles the distance is half a step, wherever the point mass is counted.
    levels = (np.arange(20) + 0.5) / 20
    grid = np.concatenate([[density.atom] * 2, density.x])
    quantiles = np.interp(levels, density.cdf(grid), grid)
    quantiles[levels < 0.5] = density.atom
    assert density.kolmogorov(quantiles) == pytest.approx(0.025, abs=1e-3)
    assert density.kolmogorov(quantiles[::-1] * (1 + 1e-12)) == pytest.approx(0.025, abs=1e-3)
    assert density.kolmogorov([100.0]) == pytest.approx(1)
    assert density.isolated([1.0, 9.0, 7.0, 6.0]).tolist() == [9.0, 7.0]
    assert density.isolated([1.0, 6.0], margin=0).tolist() == [6.0]


def test_results_can_be_compared():
    mixture = nh.GaussianMixture.preset("means", p=20)
    one, other = (nh.limiting_spectrum(mixture, 40, last([RELU], mixture)) for _ in range(2))
    assert one == other and one[0] != evolve(one[0], atom=3.0)
    assert one != nh.limiting_spectrum(mixture, 50, last([RELU], mixture))


def test_two_intervals_and_a_singular_covariance():
    p = 300
    low = np.diag(np.repeat([0.02, 0.0], p // 2))
    mixture = nh.GaussianMixture(np.zeros((2, p)), np.array([low, np.eye(p)]), [0.25, 0.75])
    density, _ = nh.limiting_spectrum(mixture, 240, last([LINEAR], mixture))
    assert len(density.edges) == 2
    sample = mixture.sample(240)
    assert density.kolmogorov(np.linalg.eigvalsh(sample.X @ sample.X.T)) < 0.012
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
    _, near = nh.limiting_spectrum(mixture, 600, evolve(coefficients, alpha=alpha))
    near = [o for o in near if abs(o.value - density.atom) > 1e-3]
    for a, b in zip(outliers, near, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4)
        np.testing.assert_allclose(a.alignment, b.alignment, atol=1e-3)


def test_bad_input_names_the_argument():
    mixture = nh.GaussianMixture.preset("iid", p=20)
    coefficients = last([RELU], mixture)
    with pytest.raises(ValueError, match="kernel must be one of ck, ntk, got 'nngp'"):
        nh.limiting_spectrum(mixture, 40, coefficients, kernel="nngp")
    with pytest.raises(ValueError, match="mixture must be a GaussianMixture, got .*list"):
        nh.limiting_spectrum([], 40, coefficients)
    with pytest.raises(ValueError, match="coefficients must be LayerCoefficients, got .*tuple"):
        nh.limiting_spectrum(mixture, 40, nh.propagate([RELU]))
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        nh.limiting_spectrum(mixture, 0, coefficients)
    with pytest.raises(ValueError, match="leaves a class with no sample"):
        nh.limiting_spectrum(mixture, 1, coefficients)
    with pytest.raises(ValueError, match="made for tau0=2"):
        nh.limiting_spectrum(mixture, 40, nh.propagate([RELU], tau0=2.0)[-1])
    jumping = last([nh.activation("sign")], mixture)
    with pytest.raises(ValueError, match="coefficients must not have a jump"):
        nh.limiting_spectrum(mixture, 40, jumping, kernel="ntk")
    assert nh.limiting_spectrum(mixture, 40, jumping)[0].atom_mass > 0
