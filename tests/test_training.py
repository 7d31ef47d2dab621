"""Training: dense and pruned networks, and ternary networks by the straight-through estimator."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression

import ntklc_helpers as nh
from ntklc_helpers.straight_through import (
    _cut,
    _Latent,
    _Slope,
    _SurrogateStaircase,
    _ternarised,
    _TernaryProduct,
)
from ntklc_helpers.ternary_network import codes_on_grid, ternary_features, ternary_layers

RELU = nh.activation("relu")
MATCHED = nh.match([RELU] * 2, tau0=1.0, levels=8, grid="uniform").activations
QUIET = {"device": "cpu", "progress": False}


def digits(split, n=None):
    data = nh.load_digits(split=split, n=n)
    return nh.normalize(data.X, nh.load_digits(split="train").X), data.labels


TRAIN, TEST = digits("train"), digits("test")


def network(sparsity=0.8, activations=MATCHED, widths=(60, 50), seed=0, p=64, **options):
    options = {"weights": "ternary", "sparsity": sparsity} | options
    return nh.RandomMLP(p, widths, activations, seed=seed, device="cpu", **options)


def latent_model(net, seed=0, dtype=torch.float32):
    sample = torch.from_numpy(TRAIN[0][:200]).float()
    return _Latent(net, 0.6, sample, n_classes=10, seed=seed, dtype=dtype)


def moved(net):
    """A model whose every parameter has left its start."""
    model, rng = latent_model(net), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    model.rank()
    return model


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "activations", [MATCHED, nh.match([RELU] * 2, tau0=1.0, levels=4).activations]
)
def test_the_forward_pass_is_the_network_that_is_kept(sparsity, activations):
    model, x = moved(network(sparsity, activations)), torch.from_numpy(TEST[0]).float()
    with torch.no_grad():
        assert torch.equal(model(x), model.deployed()(x))


@pytest.mark.parametrize("sparsity", [0.0, 0.7, 0.9])
def test_training_starts_at_the_matched_network(sparsity):
    net = network(sparsity)
    layers = ternary_layers(net)
    x = torch.from_numpy(TEST[0]).float()
    # A pre-activation next to a threshold may fall on its other side: one level of difference.
    h = (ternary_features(layers, x) - net.centres[-1]) / 50**0.5
    step = max(np.abs(net.activations[-1].jumps)) / 50**0.5
    difference = (h - net.features(TEST[0])).abs()
    assert difference.max() < 1.01 * step
    assert (difference > 1e-5).double().mean() < 1e-3
    start = latent_model(net).deployed()
    for layer, kept, W in zip(start.layers, layers, net.matrices, strict=True):
        assert torch.equal(layer.weights, kept.weights)
        assert torch.equal(layer.weights.sign(), W.sign().to(torch.int8))
        assert torch.allclose(layer.bias, kept.bias, rtol=1e-6)
    assert torch.equal(start.features(x), ternary_features(layers, x))


def test_latents_are_standard_gaussians():
    latent = latent_model(network(0.8, widths=(400, 300))).latents[1].detach()
    size = latent.numel()
    assert latent.mean().item() == pytest.approx(0, abs=5 / size**0.5)
    assert latent.square().mean().item() == pytest.approx(1, abs=5 * (2 / size) ** 0.5)


def test_features_do_not_depend_on_the_batch():
    net = moved(network(0.5)).deployed()
    x = torch.from_numpy(TEST[0]).float()
    hidden = ternary_features(net.layers[:1], x)
    rest = net.layers[1:]
    whole = ternary_features(rest, hidden)
    assert torch.equal(whole[:7], ternary_features(rest, hidden[:7]))
    codes = ternary_features(rest, hidden.double())
    assert (codes - whole).abs().max() < 1e-6


def test_gradient_of_the_ternary_product_is_straight_through():
    rng = torch.Generator().manual_seed(0)
    x, latent, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 7), (4, 7), (4,))
    )
    cut, gain, centre = 0.6, 1.7, 0.4
    weight = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    u = _TernaryProduct.apply(x, latent, bias, cut, gain, centre, torch.float64)
    found = torch.autograd.grad((weight * u).sum(), (x, latent, bias))
    W = (latent.sign() * (latent.abs() > cut)).detach().requires_grad_()
    plain = gain * (x - centre) @ W.T + bias
    expected = torch.autograd.grad((weight * plain).sum(), (x, W, bias))
    torch.testing.assert_close(u, plain, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("stairs", [*MATCHED, nh.sigma_t(-0.5, 1.0, -2.0), nh.activation("sign")])
def test_gradient_of_a_staircase_is_that_of_its_gaussian_smoothing(stairs):
    unit, codes = codes_on_grid(stairs)
    width, u = 0.4, torch.linspace(-9, 9, 301, dtype=torch.float64, requires_grad=True)
    value = _SurrogateStaircase.apply(u, stairs, codes, _Slope.of(stairs, width, unit))
    np.testing.assert_allclose(unit * value.detach(), stairs(u.detach()), rtol=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), u)

    def smoothed(t):
        cells = np.diff(ndtr((np.array(stairs.thresholds) - t[:, None]) / width), axis=1)
        ends = ndtr((np.array(stairs.thresholds)[[0, -1]] - t[:, None]) / width)
        return np.column_stack([ends[:, 0], cells, 1 - ends[:, 1]]) @ np.array(stairs.levels)

    t, h = u.detach().numpy(), 1e-4
    expected = (smoothed(t + h) - smoothed(t - h)) / (2 * h)
    # The table is read half a node off at most; φ' is at most 0.242.
    error = 0.242 * np.abs(stairs.jumps).sum() / (128 * width) + 1e-6
    np.testing.assert_allclose(unit * gradient, expected, rtol=0, atol=error)
    assert np.abs(expected).max() > 20 * error


@pytest.mark.parametrize("kept", [1, 5, 11, 12])
def test_a_cut_keeps_exactly_that_many_even_among_ties(kept):
    latent = torch.tensor([[1.0, -1, 1, -1, 1, 1], [0.5, 0, 0, -2, 0, 3]])
    before = latent.clone()
    W = _ternarised(latent, _cut(latent, kept))
    assert torch.count_nonzero(W) == kept
    assert set(W.unique().tolist()) <= {-1.0, 0.0, 1.0}
    torch.testing.assert_close(latent, before, rtol=2e-6, atol=1e-30)
    assert before.abs()[W != 0].min() >= before.abs()[W == 0].max() if kept < 12 else True


def test_levels_on_a_grid_are_whole_or_half_units():
    for stairs in (*MATCHED, nh.clipped_relu(5, 2.0), nh.activation("sign"), nh.sigma_t(-1, 1, -2)):
        unit, codes = codes_on_grid(stairs)
        np.testing.assert_allclose(unit * np.array(codes), stairs.levels, rtol=1e-12)
        assert all(float(2 * code).is_integer() for code in codes)
    free = nh.Quantized((0.0, 1.0), (0.0, 1.0, 3.14159))
    assert codes_on_grid(free) == (1.0, free.levels)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_ternary_training_learns_and_keeps_what_it_must(sparsity):
    net = network(sparsity)
    trained = nh.train_ternary(
        net, *TRAIN, epochs=15, seed=0, batch_size=64, validation=TEST, **QUIET
    )
    for layer, W, activation in zip(
        trained.model.layers, net.matrices, net.activations, strict=True
    ):
        assert layer.weights.dtype == torch.int8
        assert set(layer.weights.unique().tolist()) == ({-1, 0, 1} if sparsity else {-1, 1})
        assert torch.count_nonzero(layer.weights) == torch.count_nonzero(W)
        assert not torch.equal(layer.weights, W.sign().to(torch.int8))
        assert layer.activation == activation
    assert trained.losses[-1] < 0.2 * trained.losses[0]
    assert len(trained.losses) == len(trained.accuracies) == 15
    assert trained.accuracies[-1] == pytest.approx((trained.predict(TEST[0]) == TEST[1]).mean())
    # Against the best readout of the same network with its weights left at random.
    features, held = (10 * net.features(X).numpy() for X in (TRAIN[0], TEST[0]))
    readout = LogisticRegression(C=1.0, max_iter=1000).fit(features, TRAIN[1])
    assert trained.accuracies[-1] > readout.score(held, TEST[1]) + 0.02


def test_sparsity_is_reported_layer_by_layer():
    net = network(0.7)
    expected = [(W == 0).double().mean().item() for W in net.matrices]
    assert latent_model(net).deployed().sparsity == pytest.approx(expected)


def test_dense_training_learns_and_starts_from_the_inputs_as_they_come():
    options = {"epochs": 10, "seed": 0, "batch_size": 64, "learning_rate": 5e-3} | QUIET
    once = nh.train_dense(*TRAIN, [60], validation=TEST, **options)
    assert once.losses[-1] < 0.2 * once.losses[0]
    assert once.accuracies[-1] > 0.9
    assert [type(layer).__name__ for layer in once.model] == ["Linear", "ReLU", "Linear"]
    scaled = (1000 * TRAIN[0], TRAIN[1])
    again = nh.train_dense(*scaled, [60], **options)
    assert again.accuracies == ()
    np.testing.assert_allclose(again.losses, once.losses, rtol=1e-3)
    assert (again.predict(1000 * TEST[0]) == once.predict(TEST[0])).mean() > 0.99


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruning_zeroes_the_smallest_and_they_stay(scope):
    dense = nh.train_dense(*TRAIN, [60, 50], epochs=3, seed=0, **QUIET).model
    before = [layer.weight.detach().clone() for layer in dense if hasattr(layer, "weight")]
    pruned = nh.prune_and_finetune(dense, 0.75, *TRAIN, epochs=2, seed=1, scope=scope, **QUIET)
    after = [layer.weight.detach() for layer in pruned.model if hasattr(layer, "weight")]
    scale = np.sqrt((TRAIN[0] ** 2).mean())
    sizes = [before[0].abs() * scale, before[1].abs()]
    groups = [[0], [1]] if scope == "layer" else [[0, 1]]
    for group in groups:
        size = torch.cat([sizes[i].flatten() for i in group])
        zero = torch.cat([(after[i] == 0).flatten() for i in group])
        assert zero.double().mean().item() == pytest.approx(0.75, abs=1 / len(zero))
        assert size[zero].max() <= size[~zero].min() * (1 + 1e-5)
    shares = nh.hidden_sparsity(pruned.model)
    assert shares == pytest.approx([(W == 0).double().mean().item() for W in after[:2]])
    assert (shares[0] == pytest.approx(shares[1], abs=1e-3)) == (scope == "layer")
    assert torch.count_nonzero(after[2]) == after[2].numel()
    now = [layer.weight for layer in dense if hasattr(layer, "weight")]
    assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))
    assert not any(name.endswith(("_orig", "_mask")) for name in pruned.model.state_dict())


def test_training_again_gives_the_same_and_another_seed_another():
    def parameters(seed):
        dense = nh.train_dense(*TRAIN, [30], epochs=1, seed=seed, **QUIET)
        net = network(widths=(30, 20))
        ternary = nh.train_ternary(net, *TRAIN, epochs=1, seed=seed, **QUIET).model
        return [*dense.model.parameters(), ternary.readout, *(la.weights for la in ternary.layers)]

    state = torch.random.get_rng_state()
    first, again, other = parameters(0), parameters(0), parameters(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def test_progress_is_shown_on_demand_and_changes_nothing(capsys):
    net = network(widths=(30, 20))
    options = {"epochs": 1, "seed": 0, "batch_size": 32, "device": "cpu"}
    quiet = nh.train_ternary(net, *TRAIN, progress=False, **options)
    assert capsys.readouterr().err == ""
    shown = nh.train_ternary(net, *TRAIN, progress=True, **options)
    assert "38/38" in capsys.readouterr().err
    assert quiet.losses == shown.losses


def test_a_clipped_relu_rounds_to_the_nearest_level():
    stairs = nh.clipped_relu(7, 3.0)
    t = np.random.default_rng(0).uniform(-2, 5, 1000)
    np.testing.assert_allclose(stairs(t), np.round(np.clip(t, 0, 3) * 2) / 2, atol=1e-12)


def ternary_with(**change):
    arguments = {"net": network(), "X": TRAIN[0], "y": TRAIN[1]}
    return nh.train_ternary(**(arguments | {"epochs": 1, "seed": 0} | QUIET | change))


def dense_with(**change):
    arguments = {"X": TRAIN[0], "y": TRAIN[1], "widths": [5], "epochs": 1, "seed": 0}
    return nh.train_dense(**(arguments | QUIET | change))


def pruned_with(**change):
    model = torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10))
    arguments = {"model": model, "sparsity": 0.5, "X": TRAIN[0], "y": TRAIN[1]}
    return nh.prune_and_finetune(**(arguments | {"epochs": 1, "seed": 0} | QUIET | change))


@pytest.mark.parametrize("train", [dense_with, pruned_with, ternary_with])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": TRAIN[1][:-1]}, "y must have shape"),
        ({"y": TRAIN[1] * 1.0}, "y must be whole numbers"),
        ({"y": TRAIN[1] + 1}, "y must use every class"),
        ({"y": 0 * TRAIN[1]}, "at least two classes"),
        ({"X": TRAIN[0][0]}, "X must have 2 dimension"),
        ({"X": np.where(TRAIN[0] > 0, np.nan, 0)}, "X must be finite"),
        ({"epochs": 0}, "epochs must be a positive whole number"),
        ({"batch_size": 0}, "batch_size must be a positive whole number"),
        ({"seed": -1}, "seed must be"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.bfloat16"),
        ({"validation": (TEST[0][:, 1:], TEST[1])}, "validation X must have 64 columns"),
        ({"validation": (TEST[0], TEST[1][1:])}, "validation y must be whole numbers, one for"),
        ({"validation": (TEST[0], TEST[1] + 1)}, "validation y must be among the classes"),
    ],
)
def test_bad_data_and_options_are_refused(train, change, message):
    with pytest.raises(ValueError, match=message):
        train(**change)


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="weights='ternary', got 'gaussian'"):
        ternary_with(net=network(weights="gaussian", sparsity=0.0))
    with pytest.raises(ValueError, match=r"Quantized activation in every layer, got \['relu'\]"):
        ternary_with(net=network(activations=(MATCHED[0], RELU)))
    with pytest.raises(ValueError, match="X must have p=65 columns, got 64"):
        ternary_with(net=network(p=65))
    with pytest.raises(ValueError, match="smoothing must be a positive"):
        ternary_with(smoothing=0.0)
    with pytest.raises(ValueError, match="net must not be constant on X"):
        ternary_with(net=network(activations=(MATCHED[0], nh.Quantized((6.0,), (0.0, 1.0)))))
    with pytest.raises(ValueError, match="latent_rate must be a positive"):
        ternary_with(latent_rate=-1.0)
    with pytest.raises(ValueError, match="widths must have at least one entry"):
        dense_with(widths=[])
    with pytest.raises(ValueError, match="widths must be a positive whole number"):
        dense_with(widths=[5, 0])
    for sparsity in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
            pruned_with(sparsity=sparsity)
    with pytest.raises(ValueError, match="scope must be 'layer' or 'global', got 'row'"):
        pruned_with(scope="row")
    with pytest.raises(ValueError, match="X must have 64 columns, got 63"):
        pruned_with(X=TRAIN[0][:, 1:])
    with pytest.raises(TypeError, match="at least two Linear layers, got Linear"):
        pruned_with(model=torch.nn.Linear(64, 10))
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        nh.clipped_relu(1, 3.0)
    with pytest.raises(ValueError, match="top must be a positive"):
        nh.clipped_relu(4, 0.0)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_what_is_trained_can_be_saved_and_run_on_integers(sparsity, tmp_path):
    model = moved(network(sparsity)).deployed()
    small = model.compressed()
    small.save(tmp_path / "net")
    again = nh.load(tmp_path / "net")
    x = torch.from_numpy(TEST[0]).float()
    features, logits = model.features(x).numpy(), model(x).numpy()
    # The first layer's sums are in float32 there, in float64 here: few are on either side of a
    # threshold, and codes are whole from then on.
    differ = np.abs(again.features(TEST[0]) - features) > 1e-5
    assert differ.mean() < 1e-3
    same = ~differ.any(axis=1)
    assert np.array_equal(again.predict(TEST[0])[same], logits.argmax(1)[same])
    assert small.memory().seed_file is None
