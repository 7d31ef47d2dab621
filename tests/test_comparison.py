"""Distances between kernels, power-law fits and alignment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntklc_helpers as nh


def symmetric(n, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, n))
    return A + A.T


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("sign", [1, -1])
def test_spectral_norm_sees_both_ends(sign, n):
    A = sign * (symmetric(n) - np.sqrt(n) * np.eye(n))
    assert nh.theory.spectral_norm(A) == pytest.approx(np.linalg.norm(A, 2), rel=1e-9)


@pytest.mark.parametrize("n", [30, 300])
def test_norms_and_errors_of_what_has_no_directions(n):
    K = symmetric(n)
    assert nh.relative_error(K, K) == 0 and nh.theory.spectral_norm(0 * K) == 0
    assert nh.theory.spectral_norm(-3 * np.eye(n)) == pytest.approx(3, rel=1e-9)
    norm = np.linalg.norm(K, 2)
    assert nh.relative_error(K, K + 0.5 * np.eye(n)) == pytest.approx(0.5 / norm, rel=1e-9)


def test_relative_error_of_an_operator_and_of_its_matrix():
    mixture = nh.GaussianMixture.preset("means", 20)
    sample = mixture.sample(30, 0)
    stats = mixture.statistics(sample)
    c = nh.propagate([nh.activation("relu")], stats.tau0)[-1]
    operator = nh.ck_equivalent(sample.X, stats, c)
    K = symmetric(30)
    expected = np.linalg.norm(K - operator.to_dense(), 2) / np.linalg.norm(K, 2)
    assert nh.relative_error(K, operator) == pytest.approx(expected, rel=1e-10)
    assert nh.relative_error(K, operator.to_dense()) == pytest.approx(expected, rel=1e-10)
    assert nh.relative_error(K, K) == 0


@given(st.floats(-3, 3), st.floats(1e-3, 1e3))
def test_power_law_is_recovered(slope, prefactor):
    x = np.array([1.0, 2.0, 5.0, 13.0])
    fit = nh.power_law(x, prefactor * x**slope)
    assert fit.slope == pytest.approx(slope, abs=1e-9)
    np.testing.assert_allclose(fit(x), prefactor * x**slope, rtol=1e-9)


def test_leading_eigenpairs():
    A = symmetric(25)
    values, vectors = nh.leading_eigenpairs(A, 3)
    np.testing.assert_allclose(values, np.sort(np.linalg.eigvalsh(A))[::-1][:3])
    np.testing.assert_allclose(A @ vectors, vectors * values, atol=1e-10)


@given(st.integers(0, 2**32))
def test_align_undoes_a_rotation(seed):
    vectors = np.linalg.eigh(symmetric(25))[1][:, :3]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    np.testing.assert_allclose(nh.theory.align(vectors @ rotation, vectors), vectors, atol=1e-12)
    np.testing.assert_allclose(nh.theory.align(-vectors[:, :1], vectors[:, :1]), vectors[:, :1])


def test_principal_cosines_are_of_the_planes():
    vectors, (angle, other) = np.eye(6)[:, :2], (0.3, 1.2)
    turned = np.zeros((6, 2))
    turned[[0, 2], 0] = np.cos(angle), np.sin(angle)
    turned[[1, 3], 1] = np.cos(other), np.sin(other)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))[0]
    found = nh.theory.principal_cosines(turned @ rotation, vectors)
    np.testing.assert_allclose(found, np.cos([angle, other]), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nh.relative_error(np.eye(3), np.eye(4)), "equivalent must have 3 entries"),
        (lambda: nh.relative_error(np.eye(3)[:2], np.eye(3)), "kernel must be a square matrix"),
        (lambda: nh.relative_error(np.zeros((3, 3)), np.eye(3)), "kernel must not be zero"),
        (lambda: nh.leading_eigenpairs(np.zeros((0, 0)), 1), "kernel must be a square matrix"),
        (lambda: nh.theory.principal_cosines(np.eye(3), np.eye(2)), "must have one shape"),
        (lambda: nh.relative_error(np.full((2, 2), np.nan), np.eye(2)), "kernel must be finite"),
        (lambda: nh.power_law([1, 2], [1, 2]), "one length of 3 or more"),
        (lambda: nh.power_law([1, 2, 3], [1, 2, 0]), "must be positive"),
        (lambda: nh.leading_eigenpairs(np.eye(3), 4), "k must be a whole number from 1 to 3"),
        (lambda: nh.theory.align(np.eye(3), np.eye(2)), "must have one shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
