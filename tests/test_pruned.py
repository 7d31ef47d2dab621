"""Randomly pruned random networks: law of the weights, gradients, limits, required width."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.pruned import shrink

RELU, TANH, GELU, ERF = (nh.activation(name) for name in ("relu", "tanh", "gelu", "erf"))
P = 30


def data(n=12, p=P, seed=0):
    return np.random.default_rng(seed).standard_normal((n, p)) / np.sqrt(p)


def network(widths=(17, 23), activations=(RELU, TANH), **options):
    options = {"dtype": torch.float64, "keep": 0.4, "device": "cpu"} | options
    return nh.PrunedMLP(P, widths, activations, **options)


# --- weights


@pytest.mark.parametrize("rescale", [True, False])
def test_kept_weights_are_those_of_the_dense_network(rescale):
    keep = (0.7, 1.0, 0.25)
    net = network(keep=keep, rescale=rescale, seed=4)
    dense = nh.RandomMLP(P, (17, 23), (RELU, TANH), seed=4, device="cpu", dtype=torch.float64)
    factors = [a**-0.5 if rescale else 1.0 for a in keep]
    own, whole = (*net.matrices, net.readout[None]), (*dense.matrices, dense.readout[None])
    for W, mask, full, factor in zip(own, net.masks, whole, factors, strict=True):
        torch.testing.assert_close(W, full * mask * factor, rtol=1e-6, atol=0)
    assert net.masks[1].all() and not net.masks[0].all()


@pytest.mark.parametrize(("law", "dense_fourth"), [("gaussian", 3), ("rademacher", 1)])
def test_moments_of_the_weights(law, dense_fourth):
    alpha = 0.3
    net = nh.PrunedMLP(400, [1000], [RELU], weights=law, keep=alpha, device="cpu")
    W = net.matrices[0].double().numpy()
    # E w^2k = E g^2k α^(1−k); the standard error of a mean of n = 4e5 entries is that of its law.
    eighth = {"gaussian": 105, "rademacher": 1}[law] * alpha**-3
    fourth = dense_fourth / alpha
    assert (W == 0).mean() == pytest.approx(1 - alpha, abs=5 * np.sqrt(0.21 / W.size))
    assert (W**2).mean() == pytest.approx(1, abs=5 * np.sqrt((fourth - 1) / W.size))
    assert (W**4).mean() == pytest.approx(fourth, abs=5 * np.sqrt(eighth / W.size))
    if law == "rademacher":
        assert len(np.unique(W)) == 3


def test_masks_are_nested_in_alpha_and_independent_of_the_weights():
    sparse, denser = network(keep=0.2), network(keep=0.6)
    for small, large in zip(sparse.masks, denser.masks, strict=True):
        assert (small <= large).all()
    mask = nh.PrunedMLP(400, [1000], [RELU], keep=0.5, device="cpu").masks[0].numpy()
    dense = nh.RandomMLP(400, [1000], [RELU], device="cpu").matrices[0].numpy()
    assert abs(np.corrcoef(mask.ravel(), dense.ravel())[0, 1]) < 5 / np.sqrt(mask.size)
    assert abs(np.corrcoef(mask.ravel(), dense.ravel() ** 2)[0, 1]) < 5 / np.sqrt(mask.size)


# --- gradients


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("keep", [0.4, (1.0, 0.5, 0.3), (0.2, 1.0, 1.0)])
@pytest.mark.parametrize("activations", [(RELU, RELU), (ERF, TANH)])
def test_ntk_is_that_of_the_kept_weights(activations, keep, rescale):
    net = network(activations=activations, keep=keep, rescale=rescale, tau0=0.8, seed=3)
    dense = nh.RandomMLP(P, (17, 23), activations, seed=3, device="cpu", dtype=torch.float64)
    factors = [a**-0.5 if rescale else 1.0 for a in net.keep]
    masks, centres, x = net.masks, net.centres, net.inputs(data())

    def output(parameters, row):
        weights = [
            W * m * f for W, m, f in zip(parameters, masks, factors, strict=True)
        ]  # gradients in all weights: the mask makes those that are pruned zero
        h = row
        for W, activation, centre in zip(weights, activations, centres, strict=False):
            h = (activation.function(W @ h) - centre) / len(W) ** 0.5
        return (weights[-1] @ h)[0]

    parameters = (*dense.matrices, dense.readout[None])
    per_sample = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))
    J = torch.cat([g.flatten(1) for g in per_sample(parameters, x)], dim=1)
    expected = (J @ J.T).numpy()
    # The factor α^(−½) is applied in single precision when weights are drawn.
    np.testing.assert_allclose(
        nh.empirical_ntk(net, data()), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )


def test_pairs_in_chunks_make_the_same_kernel(monkeypatch):
    whole = nh.empirical_ntk(network(), data())
    monkeypatch.setattr("ntklc_helpers.pruned._CHUNK", 7 * P)
    np.testing.assert_allclose(nh.empirical_ntk(network(), data()), whole, rtol=1e-13)


def test_nothing_pruned_is_the_dense_network():
    dense = nh.RandomMLP(P, (17, 23), (RELU, TANH), device="cpu", dtype=torch.float64)
    for kernel in (nh.empirical_ck, nh.empirical_ntk):
        np.testing.assert_array_equal(kernel(network(keep=1.0), data()), kernel(dense, data()))


# --- limits


@given(
    keep=st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    slope=st.sampled_from([0.0, 0.1, -1.0]),
)
@settings(max_examples=10, deadline=None)
def test_homogeneous_networks_only_gain_a_factor(keep, slope):
    activation = nh.activation("leaky_relu", slope=slope)
    X = data(n=6)
    K, N = nh.limit_kernels(X, [activation] * 2, tau0=1.0)
    pruned = nh.pruned_limit_kernels(X, [activation] * 2, keep, rescale=False, tau0=1.0)
    # The shrunk activation has no closed form: its series is good to some 1e-6.
    np.testing.assert_allclose(pruned[0], K * np.prod(keep[:-1]), atol=1e-5 * np.abs(K).max())
    np.testing.assert_allclose(pruned[1], N * np.prod(keep), atol=1e-4 * np.prod(keep))
    rescaled = nh.pruned_limit_kernels(X, [activation] * 2, keep, rescale=True, tau0=1.0)
    np.testing.assert_array_equal(rescaled[1], N)


@pytest.mark.parametrize("activations", [(RELU, RELU), (TANH, ERF), (RELU, GELU)])
@pytest.mark.parametrize("rescale", [True, False])
def test_networks_tend_to_the_limit(activations, rescale):
    X, keep = data(n=10), (1.0, 0.4, 0.4)
    limits = nh.pruned_limit_kernels(X, activations, keep, rescale=rescale, tau0=1.0)

    def errors(width, seeds):
        nets = [
            network(
                (width, width), activations, keep=keep, rescale=rescale, seed=s, dtype=torch.float32
            )
            for s in seeds
        ]
        return [
            np.mean([np.linalg.norm(kernel(net, X) - limit) for net in nets])
            / np.linalg.norm(limit)
            for kernel, limit in zip((nh.empirical_ck, nh.empirical_ntk), limits, strict=True)
        ]

    # Fluctuations fall like width^(−½), by 4 from 64 to 1024.
    for narrow, wide in zip(errors(64, range(20)), errors(1024, range(6)), strict=True):
        assert 0.12 * narrow < wide < 0.45 * narrow


def test_unscaled_pruning_of_tanh_is_no_factor():
    X, keep = data(n=20), 0.2
    N = nh.limit_kernels(X, [TANH, TANH], tau0=1.0)[1]
    pruned = nh.pruned_limit_kernels(X, [TANH, TANH], keep, rescale=False, tau0=1.0)[1]
    factor = np.vdot(pruned, N) / np.vdot(N, N)
    assert factor > 2 * keep**3
    assert nh.relative_error(pruned, factor * N) > 0.03


def test_shrunk_activations():
    steps = nh.Quantized([-1.0, 0.5], [0.0, 1.0, 3.0])
    t = np.linspace(-4, 4, 101) + 1e-3
    for activation in (RELU, TANH, steps, nh.activation("abs")):
        small = shrink(activation, 0.3)
        np.testing.assert_allclose(small(t), activation(np.sqrt(0.3) * t), rtol=1e-12)
        slope = np.sqrt(0.3) * activation.derivative(np.sqrt(0.3) * t)
        np.testing.assert_allclose(small.derivative(t), slope, rtol=1e-12)
        assert small.has_jump == activation.has_jump
    assert shrink(TANH, 1.0) is TANH


# --- pruning the first layer where n and p are alike


@pytest.mark.parametrize(("law", "fourth"), [("gaussian", 3.0), ("rademacher", 1.0)])
def test_first_layer_correction(law, fourth):
    p, n, alpha = 100, 100, 0.2
    X = data(n, p)
    K, N = nh.limit_kernels(X, [RELU], tau0=1.0)
    nets = [
        nh.PrunedMLP(p, [2000], [RELU], weights=law, keep=(alpha, 1.0), seed=s, device="cpu")
        for s in range(6)
    ]
    correction = nh.first_layer_correction(X, RELU, alpha, tau0=1.0, fourth_moment=fourth)
    for kernel, limit, shift in zip(
        (nh.empirical_ck, nh.empirical_ntk), (K, N), correction, strict=True
    ):
        # Along the constant vector, where all entries of the correction add up.
        seen = np.array([(kernel(net, X) - limit).sum() / n for net in nets])
        error = seen.std(ddof=1) / np.sqrt(len(seen))
        # What is left out is of relative order κ/p.
        assert abs(seen.mean() - shift.sum() / n) < 4 * error + 0.1 * abs(shift.sum() / n)
        assert abs(seen.mean()) > 8 * error


def test_first_layer_correction_vanishes_where_it_should():
    X = data(8)
    assert all(np.abs(c).max() < 1e-20 for c in nh.first_layer_correction(X, TANH, 0.1, tau0=1.0))
    assert not any(c.any() for c in nh.first_layer_correction(X, RELU, 1.0, tau0=1.0))
    # ±1 at a third of the weights has the Gaussian's fourth moment: only the NTK is corrected.
    K, N = nh.first_layer_correction(X, RELU, 1 / 3, tau0=1.0, fourth_moment=1.0)
    assert np.abs(K).max() < 1e-15 and N[0, 1] == pytest.approx((X[0] ** 2 @ X[1] ** 2) / np.pi)
    with pytest.raises(ValueError, match=r"keep must be in \(0, 1\]"):
        nh.first_layer_correction(X, RELU, 0.0, tau0=1.0)


# --- bad input


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0.0, r"keep must be in \(0, 1\], got 0.0"),
        (1.2, r"keep must be in \(0, 1\]"),
        ((0.5, 0.5), "keep must be one number, or one for each hidden layer .* 3 in all; got 2"),
        ((0.5, float("nan"), 1), "keep must be finite"),
        ("half", "keep must be numbers"),
    ],
)
def test_bad_keep_names_the_argument(keep, message):
    with pytest.raises(ValueError, match=message):
        network(keep=keep)
    with pytest.raises(ValueError, match=message):
        nh.pruned_limit_kernels(data(), (RELU, TANH), keep, rescale=False)


def test_magnitude_pruning_keeps_the_largest_weights_of_the_dense_network():
    dense = nh.RandomMLP(40, [50, 30], [nh.activation("relu")] * 2, 1.0, seed=5)
    net = nh.MagnitudePrunedMLP(40, [50, 30], dense.activations, 1.0, seed=5, keep=0.3)
    for W, full in zip(net.matrices, dense.matrices, strict=True):
        kept = W != 0
        assert kept.sum() == round(0.3 * W.numel())
        assert full[kept].abs().min() >= full[~kept].abs().max()
        assert W.square().mean().item() == pytest.approx(1, rel=1e-6)
        ratio = W[kept] / full[kept]
        assert torch.allclose(ratio, ratio[0].expand_as(ratio))
    with pytest.raises(ValueError, match=r"keep must be in \(0, 1\]"):
        nh.MagnitudePrunedMLP(40, [50], dense.activations[:1], 1.0, keep=0.0)
