"""Randomly pruned random networks: law of the weights, gradients, limits, required width."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh

RELU, TANH, GELU, ERF = (nh.activation(name) for name in ("relu", "tanh", "gelu", "erf"))
P = 30


def data(n=12, p=P, seed=0):
    return np.random.default_rng(seed).standard_normal((n, p)) / np.sqrt(p)


def network(sparsity=0.6, law=None, rescale=True, *, activations=(RELU, TANH), **options):
    options = {"widths": (17, 23), "dtype": torch.float64, "device": "cpu"} | options
    weights = nh.theory.Pruned(sparsity, law or nh.theory.Gaussian(), rescale)
    return nh.RandomMLP(P, activations=activations, weights=weights, **options)


# --- weights


@pytest.mark.parametrize("rescale", [True, False])
def test_kept_weights_are_those_of_the_dense_network(rescale):
    sparsity = (0.3, 0.0, 0.75)
    net = network(sparsity, rescale=rescale, seed=4)
    dense = nh.RandomMLP(P, (17, 23), (RELU, TANH), seed=4, device="cpu", dtype=torch.float64)
    factors = [(1 - s) ** -0.5 if rescale else 1.0 for s in sparsity]
    own, whole = (*net.matrices, net.readout[None]), (*dense.matrices, dense.readout[None])
    for W, mask, full, factor in zip(own, net.masks, whole, factors, strict=True):
        kept = full if mask is None else full * mask
        torch.testing.assert_close(W, kept * factor, rtol=1e-6, atol=0)
    assert net.masks[1] is None and not net.masks[0].all()


@pytest.mark.parametrize("law", [nh.theory.Gaussian(), nh.theory.Rademacher()])
def test_moments_of_the_weights(law):
    alpha = 0.3
    W = nh.theory.Pruned(1 - alpha, law).draw((1000, 400), seed=0, layer=1).astype(float)
    # E w^2k = E g^2k α^(1−k); the standard error of a mean of n = 4e5 entries is that of its law.
    eighth = (105 if law == nh.theory.Gaussian() else 1) * alpha**-3
    fourth = (law.excess_kurtosis + 3) / alpha
    assert (W == 0).mean() == pytest.approx(1 - alpha, abs=5 * np.sqrt(0.21 / W.size))
    assert (W**2).mean() == pytest.approx(1, abs=5 * np.sqrt((fourth - 1) / W.size))
    assert (W**4).mean() == pytest.approx(fourth, abs=5 * np.sqrt(eighth / W.size))
    if law == nh.theory.Rademacher():
        assert len(np.unique(W)) == 3


def test_masks_are_nested_and_independent_of_the_weights():
    sparse, denser = network(0.8), network(0.4)
    for small, large in zip(sparse.masks, denser.masks, strict=True):
        assert (small <= large).all()
    mask = nh.theory.Pruned(0.5).mask((1000, 400), seed=0, layer=1)
    dense = nh.theory.Gaussian().draw((1000, 400), seed=0, layer=1)
    assert abs(np.corrcoef(mask.ravel(), dense.ravel())[0, 1]) < 5 / np.sqrt(mask.size)
    assert abs(np.corrcoef(mask.ravel(), dense.ravel() ** 2)[0, 1]) < 5 / np.sqrt(mask.size)


# --- gradients


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("sparsity", [0.6, 0.2, (0.0, 0.5, 0.7), (0.8, 0.0, 0.0)])
@pytest.mark.parametrize("activations", [(RELU, RELU), (ERF, TANH)])
def test_ntk_is_that_of_the_kept_weights(activations, sparsity, rescale):
    net = network(sparsity, rescale=rescale, activations=activations, tau0=0.8, seed=3)
    dense = nh.RandomMLP(P, (17, 23), activations, seed=3, device="cpu", dtype=torch.float64)
    factors = [law.gain for law in net.laws]
    masks = [1 if mask is None else mask for mask in net.masks]
    centres, x = net.centres, net.inputs(data())

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
    atol = (1e-6 if rescale else 1e-12) * np.abs(expected).max()
    np.testing.assert_allclose(nh.empirical_ntk(net, data()), expected, rtol=0, atol=atol)


def test_kernels_of_many_samples_hold_those_of_few():
    # Weights are worked on some at a time: for many samples in many parts, for few in one.
    net, X = network(widths=(2000, 5)), data(140)
    few = nh.empirical_ntk(net, X[-9:])
    np.testing.assert_allclose(nh.empirical_ntk(net, X)[-9:, -9:], few, rtol=1e-11)


@pytest.mark.parametrize("law", [nh.theory.Pruned(0.0), nh.theory.MagnitudePruned(0.0)])
def test_nothing_pruned_is_the_dense_network(law):
    dense, net = (
        nh.RandomMLP(P, (17, 23), (RELU, TANH), weights=weights, device="cpu", dtype=torch.float64)
        for weights in ("gaussian", law)
    )
    # What magnitude pruning leaves it brings to variance 1 exactly.
    rtol = 0 if isinstance(law, nh.theory.Pruned) else 0.2
    for kernel in (nh.empirical_ck, nh.empirical_ntk):
        np.testing.assert_allclose(kernel(net, data()), kernel(dense, data()), rtol=rtol, atol=rtol)


# --- limits


@given(
    sparsity=st.lists(st.floats(0, 0.95), min_size=3, max_size=3),
    slope=st.sampled_from([0.0, 0.1, -1.0]),
)
@settings(max_examples=10, deadline=None)
def test_homogeneous_networks_only_gain_a_factor(sparsity, slope):
    keep = 1 - np.array(sparsity)
    activation = nh.activation("leaky_relu", slope=slope)
    X = data(n=6)
    K, N = nh.limit_kernels(X, [activation] * 2, tau0=1.0)
    pruned = nh.theory.pruned_limit_kernels(X, [activation] * 2, sparsity, rescale=False, tau0=1.0)
    # The shrunk activation has no closed form: its series is good to some 1e-6.
    np.testing.assert_allclose(pruned[0], K * np.prod(keep[:-1]), atol=1e-5 * np.abs(K).max())
    np.testing.assert_allclose(pruned[1], N * np.prod(keep), atol=1e-4 * np.prod(keep))
    rescaled = nh.theory.pruned_limit_kernels(X, [activation] * 2, sparsity, rescale=True, tau0=1.0)
    np.testing.assert_array_equal(rescaled[1], N)


@pytest.mark.parametrize("activations", [(RELU, RELU), (TANH, ERF), (RELU, GELU)])
@pytest.mark.parametrize("rescale", [True, False])
def test_networks_tend_to_the_limit(activations, rescale):
    X, sparsity = data(n=10), (0.0, 0.6, 0.6)
    limits = nh.theory.pruned_limit_kernels(X, activations, sparsity, rescale=rescale, tau0=1.0)

    options = {"activations": activations, "dtype": torch.float32}

    def errors(width, seeds):
        nets = [
            network(sparsity, rescale=rescale, seed=s, **options | {"widths": (width, width)})
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
    X, sparsity = data(n=20), 0.8
    N = nh.limit_kernels(X, [TANH, TANH], tau0=1.0)[1]
    pruned = nh.theory.pruned_limit_kernels(X, [TANH, TANH], sparsity, rescale=False, tau0=1.0)[1]
    factor = np.vdot(pruned, N) / np.vdot(N, N)
    assert factor > 2 * (1 - sparsity) ** 3
    assert nh.relative_error(pruned, factor * N) > 0.03


STEPS = nh.Quantized([-1.0, 0.5], [0.0, 1.0, 3.0])


@pytest.mark.parametrize("activation", [RELU, TANH, STEPS, nh.activation("abs")])
def test_one_layer_without_rescaling_sees_smaller_inputs(activation):
    X, root = data(n=8), 0.3**0.5
    pruned = nh.theory.pruned_limit_kernels(X, [activation], (0.7, 0.5), rescale=False, tau0=1.0)
    K, N = nh.limit_kernels(root * X, [activation], tau0=root)
    np.testing.assert_allclose(pruned[0], K, atol=1e-5)
    np.testing.assert_allclose(pruned[1], 0.5 * N, atol=1e-5)


# --- pruning the first layer where n and p are alike


@pytest.mark.parametrize("law", [nh.theory.Gaussian(), nh.theory.Rademacher()])
def test_first_layer_correction(law):
    p, n, alpha = 100, 100, 0.2
    X = data(n, p)
    K, N = nh.limit_kernels(X, [RELU], tau0=1.0)
    nets = [
        nh.RandomMLP(
            p, [2000], [RELU], weights=nh.theory.Pruned((1 - alpha, 0.0), law), seed=s, device="cpu"
        )
        for s in range(6)
    ]
    correction = nh.theory.first_layer_correction(X, RELU, 1 - alpha, tau0=1.0, law=law)
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
    assert all(
        np.abs(c).max() < 1e-20 for c in nh.theory.first_layer_correction(X, TANH, 0.9, tau0=1.0)
    )
    assert not any(c.any() for c in nh.theory.first_layer_correction(X, RELU, 0.0, tau0=1.0))
    # ±1 at a third of the weights has the Gaussian's fourth moment: only the NTK is corrected.
    K, N = nh.theory.first_layer_correction(X, RELU, 2 / 3, tau0=1.0, law=nh.theory.Rademacher())
    assert np.abs(K).max() < 1e-15 and N[0, 1] == pytest.approx((X[0] ** 2 @ X[1] ** 2) / np.pi)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        nh.theory.first_layer_correction(X, RELU, 1.0, tau0=1.0)
    with pytest.raises(ValueError, match="law must have a finite fourth moment"):
        nh.theory.first_layer_correction(X, RELU, 0.5, tau0=1.0, law=nh.theory.StudentT(4))


# --- pruning by magnitude


def test_magnitude_pruning_keeps_the_largest_weights_of_the_dense_network():
    net = nh.RandomMLP(40, [50, 30], [RELU] * 2, 1.0, nh.theory.MagnitudePruned(0.7), seed=5)
    dense = nh.RandomMLP(40, [50, 30], [RELU] * 2, 1.0, seed=5)
    for W, full in zip(net.matrices, dense.matrices, strict=True):
        kept = W != 0
        assert kept.sum() == round(0.3 * W.numel())
        assert full[kept].abs().min() >= full[~kept].abs().max()
        assert W.square().mean().item() == pytest.approx(1, rel=1e-6)
        ratio = W[kept] / full[kept]
        assert torch.allclose(ratio, ratio[0].expand_as(ratio))


def test_a_layer_of_which_nothing_is_left_is_refused():
    net = nh.RandomMLP(5, [10], [RELU], weights=nh.theory.MagnitudePruned(0.995))
    with pytest.raises(ValueError, match=r"sparsity=0.995 leaves no weight .* shape \(10, 5\)"):
        net.features(np.ones((2, 5)))


# --- bad input


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (1.0, r"sparsity must be in \[0, 1\), got 1.0"),
        (-0.2, r"sparsity must be in \[0, 1\)"),
        ((0.5, 0.5), "sparsity must be one number, or one for each hidden .* 3 in all; got 2"),
        ((0.5, float("nan"), 0), "sparsity must be finite"),
        ("half", r"sparsity must be in \[0, 1\)"),
    ],
)
def test_bad_sparsity_names_the_argument(sparsity, message):
    with pytest.raises(ValueError, match=message):
        network(sparsity)
    with pytest.raises(ValueError, match=message):
        nh.theory.pruned_limit_kernels(data(), (RELU, TANH), sparsity, rescale=False)


@pytest.mark.parametrize("make", [nh.theory.Pruned, nh.theory.MagnitudePruned])
@pytest.mark.parametrize("law", ["gaussian", nh.theory.Pruned(0.5), None])
def test_what_is_pruned_is_the_law_of_a_dense_network(make, law):
    with pytest.raises(ValueError, match="law must be one of a dense network"):
        make(0.5, law)
