"""Kernels of layers whose neurons have few inputs: against networks that are drawn, and limits."""

import numpy as np
import pytest
from scipy.stats import binom

import ntklc_helpers as nh
from ntklc_helpers.theory import few_inputs
from ntklc_helpers.theory.infinite import layer_kernels

SPARSE = nh.theory.Ternary(0.9)


def kernel_shifts(activations, widths, laws, lengths):
    def limit(X, columns):
        return layer_kernels(X, activations, 1.0, columns)

    return few_inputs.kernel_shifts(activations, widths, laws, lengths, limit)


def whole(few):
    """What is handed on by single neurons, and the rest."""
    return few_inputs.KernelShift(few.single.lengths, few.single.table + few.rest.table)


def mean_kernels(X, activations, widths, draws, law):
    """Of the last layer, averaged over networks."""
    total = np.zeros((len(X), len(X)))
    for seed in range(draws):
        net = nh.RandomMLP(X.shape[1], widths, activations, tau0=1.0, seed=seed, weights=law)
        F = net.features(X).double().numpy()
        total += F @ F.T / draws
    return total


def lengths_and_angles(X):
    lengths = np.linalg.norm(X, axis=1)
    angles = np.arccos(np.clip(X @ X.T / np.outer(lengths, lengths), -1, 1))
    np.fill_diagonal(angles, 0)
    return lengths, angles


@pytest.mark.parametrize("activations", [["relu"] * 2, "steps"])
def test_the_mean_kernel_of_sparse_networks(activations):
    """Ten inputs a neuron: what that does to the kernel is known to a quarter of it."""
    rng = np.random.default_rng(0)
    # The first layer's neurons are Gaussian.
    law = nh.theory.Pruned((0.0, 0.9, 0.0))
    X = rng.standard_normal((40, 500)) / 500**0.5 + 0.04 * rng.standard_normal(500)
    X *= rng.uniform(0.8, 1.25, (40, 1))
    if activations == "steps":
        activations = nh.match(["relu"] * 2, tau0=1.0, levels="paper").activations
    else:
        activations = [nh.activation(name) for name in activations]
    *_, limit = layer_kernels(X, activations, 1.0)
    off = mean_kernels(X, activations, [100, 2000], 200, law) - limit.kernel
    lengths, angles = lengths_and_angles(X)
    shift = whole(kernel_shifts(activations, [100.0, 1], law.layers(2)[:-1], lengths)[1])
    known = shift.between(lengths, lengths, angles)
    np.fill_diagonal(known, shift.itself(lengths))
    # Entries of like angles together: what is left of chance is then small.
    apart = np.flatnonzero(~np.eye(40, dtype=bool))
    groups = np.array_split(apart[np.argsort(angles.ravel()[apart])], 6)
    measured, known = (
        np.array([matrix.ravel()[group].mean() for group in groups] + [matrix.trace() / 40])
        for matrix in (off, known)
    )
    assert np.abs(measured).max() > 0.02 * limit.kernel.trace() / 40
    assert np.abs(measured - known).max() < 0.25 * np.abs(measured).max()


def test_many_inputs_are_gaussian():
    relu, ones = [nh.activation("relu")] * 3, np.ones(4)
    for widths in ([400.0] * 3, [np.inf] * 3):
        assert kernel_shifts(relu, np.array(widths), [SPARSE] * 3, ones) == [None] * 3
    gaussian = [nh.theory.Gaussian()] * 3
    some = kernel_shifts(relu, [400.0, 50, 400], gaussian, ones)
    assert [one is None for one in some] == [True, True, False]


def test_half_the_inputs_do_twice_as_much():
    relu = [nh.activation("relu")] * 2
    sizes = []
    for width in (60.0, 120.0, 240.0):
        shift = whole(kernel_shifts(relu, [width, 1], [SPARSE] * 2, np.ones(2))[1])
        grid = np.linspace(0.5, 2.5, 50)[None]
        sizes.append(np.abs(shift.between(np.ones(1), np.ones(50), grid)).mean())
    slope = np.polyfit(np.log([60, 120, 240]), np.log(sizes), 1)[0]
    assert -1.35 < slope < -0.75


def test_a_linear_layer_has_no_shift():
    """Its kernel is that of its inputs, whatever their law."""
    layers = [nh.activation("relu"), nh.activation("linear")]
    _, few = kernel_shifts(layers, [40.0, 40], [SPARSE] * 2, np.ones(2))
    angles = np.linspace(0, np.pi, 30)[None]
    for shift in (few.single, few.rest):
        assert np.abs(shift.between(np.ones(1), np.ones(30), angles)).max() < 1e-6


def test_what_single_neurons_hand_on():
    """Of x³ it is exact: √d E w_k u³ = 3 f_k + κ/d f_k³; the f here are Gaussian, of length 1."""
    cube = nh.Activation("cube", lambda x: x**3)
    layers, d = [nh.activation("linear"), cube], 100
    _, few = kernel_shifts(layers, [d, 1], [SPARSE] * 2, np.ones(2))
    angles = np.linspace(0, np.pi, 20)
    rho, b = np.cos(angles), (1 / 0.1 - 3) / d
    expected = 18 * b * rho + b**2 * (9 * rho + 6 * rho**3)
    found = few.single.between(np.ones(1), np.ones(20), angles[None])[0]
    assert np.abs(found - expected).max() < 0.03 * expected.max()
    # With the rest it is all: u is Gaussian given how many of its inputs have a weight.
    sixth = np.sum((np.arange(d + 1) / 10) ** 3 * binom.pmf(np.arange(d + 1), d, 0.1))
    expected = (sixth - 1) * (9 * rho + 6 * rho**3)
    found = whole(few).between(np.ones(1), np.ones(20), angles[None])[0]
    assert np.abs(found - expected).max() < 0.1 * expected.max()


def test_lengths_in_between_and_beyond():
    steps = nh.match(["relu"] * 2, tau0=1.0, levels=4).activations
    lengths = np.array([0.5, 0.7, 1.0, 1.4, 2.0])
    shift = kernel_shifts(steps, [100.0, 1], [SPARSE] * 2, lengths)[1].rest
    inside = shift.itself(shift.lengths)
    assert inside == pytest.approx(shift.table[range(3), range(3), 0])
    low, high = shift.lengths[[0, -1]]
    assert shift.itself(np.array([low / 9, high * 9])) == pytest.approx(inside[[0, -1]])
    again = kernel_shifts(steps, [100.0, 1], [SPARSE] * 2, lengths)[1].rest
    assert np.array_equal(again.table, shift.table)
