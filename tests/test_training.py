"""Training: dense and pruned networks, and ternary networks by the straight-through estimator."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression

import ntklc_helpers as nh
from ntklc_helpers.compression.ternary_train import (
    LatentNetwork,
    Slope,
    SmoothedStaircase,
    TernaryProduct,
    cut,
)
from ntklc_helpers.compression.train import (
    evaluate,
    load_state,
    outputs,
    save_state,
    settings_difference,
)

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


def latent_model(net, seed=0):
    model = LatentNetwork(net, n_classes=10, seed=seed)
    model.measure(torch.from_numpy(TRAIN[0][:200]).float(), smoothing=0.6)
    return model


def moved(net):
    """A model whose every parameter has left its start."""
    model, rng = latent_model(net), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    model.rank()
    return model


OFF_ZERO = (nh.Quantized((-0.5, 0.8), (0.3, 1.3, 2.3)), nh.Quantized((0.1,), (0.7, 1.7)))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "activations", [MATCHED, nh.match([RELU] * 2, tau0=1.0, levels=4).activations, OFF_ZERO]
)
def test_the_forward_pass_is_the_network_that_is_kept(sparsity, activations):
    model, x = moved(network(sparsity, activations)), torch.from_numpy(TEST[0]).float()
    with torch.no_grad():
        ours, kept = model(x), model.deployed()(x)
    if activations is OFF_ZERO:
        # Sums of weights enter, in another order: a rounding may pass a threshold.
        assert (ours.argmax(1) == kept.argmax(1)).double().mean() > 0.99
    else:
        assert torch.equal(ours, kept)


@pytest.mark.parametrize("sparsity", [0.0, 0.7, 0.9])
def test_training_starts_at_the_matched_network(sparsity):
    net = network(sparsity)
    start = latent_model(net).deployed()
    # A pre-activation next to a threshold may fall on its other side: one level of difference.
    h = (start.features(TEST[0], device="cpu") - net.centres[-1]) / 50**0.5
    step = max(np.abs(net.activations[-1].jumps)) / 50**0.5
    difference = np.abs(h - net.features(TEST[0]).numpy())
    assert difference.max() < 1.01 * step
    assert np.mean(difference > 1e-5) < 1e-3
    for layer, W in zip(start.layers, net.matrices, strict=True):
        assert np.array_equal(layer.weights.to_dense(), np.sign(W.numpy()))


def test_latents_are_standard_gaussians():
    latent = latent_model(network(0.8, widths=(400, 300))).layers[1].latent.detach()
    size = latent.numel()
    assert latent.mean().item() == pytest.approx(0, abs=5 / size**0.5)
    assert latent.square().mean().item() == pytest.approx(1, abs=5 * (2 / size) ** 0.5)


def test_features_by_torch_do_not_depend_on_the_batch():
    small = moved(network(0.5)).deployed()
    hidden = nh.CompressedNetwork(small.layers[:1]).features(TEST[0], device="cpu")
    rest = nh.CompressedNetwork(small.layers[1:])
    together = rest.features(hidden, device="cpu")
    assert np.array_equal(rest.features(hidden[:7], device="cpu"), together[:7])


def test_gradient_of_the_ternary_product_is_straight_through():
    rng = torch.Generator().manual_seed(0)
    x, latent, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 7), (4, 7), (4,))
    )
    gain, centre = 1.7, 0.4
    W = (latent.sign() * (latent.abs() > 0.6)).detach()
    layer = SimpleNamespace(
        gain=gain,
        centre=centre,
        dtype=torch.float64,
        weights=lambda: W,
        offset=lambda bias, W: bias - gain * centre * W.sum(1),
    )
    weight = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    u = TernaryProduct.apply(x, latent, bias, layer)
    found = torch.autograd.grad((weight * u).sum(), (x, latent, bias))
    W = W.clone().requires_grad_()
    plain = gain * (x - centre) @ W.T + bias
    expected = torch.autograd.grad((weight * plain).sum(), (x, W, bias))
    torch.testing.assert_close(u, plain, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("stairs", [*MATCHED, nh.sigma_t(-0.5, 1.0, -2.0), nh.activation("sign")])
def test_gradient_of_a_staircase_is_that_of_its_gaussian_smoothing(stairs):
    unit, width = 0.3, 0.4
    u = torch.linspace(-9, 9, 301, dtype=torch.float64, requires_grad=True)
    layer = SimpleNamespace(
        thresholds=torch.tensor(stairs.thresholds, dtype=torch.float64),
        codes=torch.tensor(stairs.levels, dtype=torch.float64) / unit,
        slope=Slope(stairs, width, unit),
    )
    value = SmoothedStaircase.apply(u, layer)
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
    W = torch.nn.functional.hardshrink(latent, cut(latent, kept)).sign()
    assert torch.count_nonzero(W) == kept
    torch.testing.assert_close(latent, before, rtol=2e-6, atol=1e-30)
    assert before.abs()[W != 0].min() >= before.abs()[W == 0].max() if kept < 12 else True


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_ternary_training_learns_and_keeps_what_it_must(sparsity):
    net = network(sparsity)
    trained = nh.train_ternary(
        net, *TRAIN, epochs=15, seed=0, batch_size=64, validation=TEST, **QUIET
    )
    for layer, W, activation in zip(
        trained.model.layers, net.matrices, net.activations, strict=True
    ):
        T, W = layer.weights.to_dense(), W.numpy()
        assert np.count_nonzero(T) == np.count_nonzero(W)
        assert not np.array_equal(T, np.sign(W))
        assert layer.activation == activation
    assert trained.losses[-1] < 0.2 * trained.losses[0]
    assert len(trained.losses) == len(trained.accuracies) == 15
    assert trained.accuracies[-1] == pytest.approx((trained.predict(TEST[0]) == TEST[1]).mean())
    # Against the best readout of the same network with its weights left at random.
    features, held = (10 * net.features(X).numpy() for X in (TRAIN[0], TEST[0]))
    readout = LogisticRegression(C=1.0, max_iter=1000).fit(features, TRAIN[1])
    assert trained.accuracies[-1] > readout.score(held, TEST[1]) + 0.02


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


def test_pruning_zeroes_the_smallest_of_each_layer_and_they_stay():
    dense = nh.train_dense(*TRAIN, [60, 50], epochs=3, seed=0, **QUIET).model
    before = [layer.weight.detach().clone() for layer in dense if hasattr(layer, "weight")]
    pruned = nh.prune_and_finetune(dense, 0.75, *TRAIN, epochs=2, seed=1, **QUIET)
    after = [layer.weight.detach() for layer in pruned.model if hasattr(layer, "weight")]
    scale = np.sqrt((TRAIN[0] ** 2).mean())
    sizes = [before[0].abs() * scale, before[1].abs()]
    for size, W in zip(sizes, after, strict=False):
        zero = W == 0
        assert zero.double().mean().item() == pytest.approx(0.75, abs=1 / zero.numel())
        assert size[zero].max() <= size[~zero].min() * (1 + 1e-5)
    left = nh.compression.sparsity(pruned.model).layers_left
    shares = [1 - share for share in left.values()][:2]
    assert shares == pytest.approx([(W == 0).double().mean().item() for W in after[:2]])
    assert torch.count_nonzero(after[2]) == after[2].numel()
    now = [layer.weight for layer in dense if hasattr(layer, "weight")]
    assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))
    assert not any(name.endswith(("_orig", "_mask")) for name in pruned.model.state_dict())


def with_dropout():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 40), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(40, 10))


def test_what_is_trained_with_dropout_predicts_without_it():
    trained = pruned_with(model=with_dropout(), epochs=3, batch_size=50, validation=TEST)
    again = trained.predict(TEST[0])
    assert np.array_equal(again, trained.predict(TEST[0]))
    assert trained.accuracies[-1] == pytest.approx((again == TEST[1]).mean())
    logits = trained.model(torch.from_numpy(TEST[0]).float())
    assert np.array_equal(again, logits.argmax(1).numpy())
    # It was trained with it.
    dull = with_dropout()
    dull[2].p = 0.0
    plain = pruned_with(model=dull, epochs=3, batch_size=50)
    assert not torch.equal(trained.model[0].weight, plain.model[0].weight)


def test_evaluation_is_of_all_rows_and_leaves_every_mode():
    net, (X, y) = with_dropout(), TEST
    net[0].eval()
    modes = [part.training for part in net.modules()]
    accuracy, loss = evaluate(net, torch.from_numpy(X).float(), y)
    assert [part.training for part in net.modules()] == modes
    with torch.no_grad():
        scores = net.eval()(torch.from_numpy(X).float())
    assert accuracy == pytest.approx((scores.argmax(1).numpy() == y).mean())
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(y))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="y must be whole numbers among the classes 0 to 9"):
        evaluate(net, torch.from_numpy(X).float(), y + 35)
    # Products of a batch of another size may be summed in another order.
    by_sevens = outputs(net, torch.from_numpy(X), batch_size=7)
    torch.testing.assert_close(by_sevens, scores, rtol=0, atol=1e-5)


def test_what_does_not_fit_the_model_is_named():
    narrow = torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    with pytest.raises(ValueError, match="y must be among the 4 classes of the model"):
        pruned_with(model=narrow)
    trained = dense_with()
    with pytest.raises(ValueError, match=r"X, of shape \(3, 63\), must fit the network"):
        trained.predict(TEST[0][:3, 1:])


def test_pruned_and_frozen_models_are_trained_on_and_left_as_they_are():
    model = with_dropout()
    nh.compression.prune_globally(model, 0.5, "magnitude", layers=["0"])
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = pruned_with(model=model, sparsity=0.5)
    zero = trained.model[0].weight == 0
    assert torch.equal(zero, before["0.weight_mask"] == 0)
    assert not torch.equal(trained.model[3].weight, model[3].weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_numbers_of_numpy_are_numbers():
    options = {"epochs": np.int64(2), "batch_size": np.uint8(64), "seed": np.int64(3)}
    plain = {name: int(value) for name, value in options.items()}
    assert dense_with(**options).losses == dense_with(**plain).losses


def test_a_difference_of_settings_is_told_in_words():
    old = {"steps": 4, "widths": [1, 2], "training": {"rate": 0.1, "cycle": {"up": 1}}}
    assert settings_difference(old, old | {"widths": (1, 2)}) is None
    new = {"steps": 5, "widths": [1, 2], "training": {"rate": 0.1, "cycle": {"up": 2}}}
    expected = "steps is 4 there and 5 here; training.cycle.up is 1 there and 2 here"
    assert settings_difference(old, new) == expected


@pytest.mark.parametrize("at", [0, 31, 40, 200, -300, -1])
def test_a_state_changed_by_one_bit_is_refused(tmp_path, at):
    content, path = {"step": 3, "weights": torch.arange(100.0), "of": [1, "two"]}, tmp_path / "s.pt"
    save_state(path, content)
    assert torch.equal(load_state(path)["weights"], content["weights"])
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="s.pt is damaged, or not the state of a training; delete"):
        load_state(path)


def test_training_again_gives_the_same_and_another_seed_another():
    def parameters(seed):
        dense = nh.train_dense(*TRAIN, [30], epochs=1, seed=seed, **QUIET)
        net = network(widths=(30, 20))
        ternary = nh.train_ternary(net, *TRAIN, epochs=1, seed=seed, **QUIET).model
        tensors = [ternary.readout.weights, *(layer.weights.to_dense() for layer in ternary.layers)]
        return [*dense.model.parameters(), *map(torch.from_numpy, tensors)]

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
        ({"y": TRAIN[1] + 0.5}, "y must be whole numbers"),
        ({"X": 0 * TRAIN[0]}, "X must have a positive finite root mean square, got 0"),
        ({"X": 1e-160 * TRAIN[0]}, "X must have a positive finite root mean square, got 0"),
        ({"device": "abacus"}, "device must be one that torch can use"),
        ({"validation": TEST[0]}, r"validation must be a pair \(X, y\)"),
        ({"y": TRAIN[1] + 1}, "y must use every class"),
        ({"y": 0 * TRAIN[1]}, "at least two classes"),
        ({"X": TRAIN[0][0]}, "X must have 2 dimension"),
        ({"X": np.where(TRAIN[0] > 0, np.nan, 0)}, "X must be finite"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.bfloat16"),
        ({"validation": (TEST[0][:, 1:], TEST[1])}, "validation X must have 64 columns"),
        ({"validation": (TEST[0], TEST[1][1:])}, "validation y must have shape"),
        (
            {"validation": (TEST[0], TEST[1] + 1)},
            "validation y must be whole numbers among the classes 0 to 9",
        ),
    ],
)
def test_bad_data_and_options_are_refused(train, change, message):
    with pytest.raises(ValueError, match=message):
        train(**change)


def test_bad_dense_models_are_refused():
    with pytest.raises(ValueError, match="widths must have at least one entry"):
        dense_with(widths=[])
    with pytest.raises(ValueError, match="widths must be a whole number of at least 1, got .*0"):
        dense_with(widths=[5, 0])
    with pytest.raises(ValueError, match="widths must be a whole number of at least 1, got None"):
        dense_with(widths=None)
    for sparsity in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="sparsity must be "):
            pruned_with(sparsity=sparsity)
    with pytest.raises(ValueError, match="X must have 64 columns, got shape"):
        pruned_with(X=TRAIN[0][:, 1:])
    with pytest.raises(TypeError, match="at least two Linear layers, got Linear"):
        pruned_with(model=torch.nn.Linear(64, 10))


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="weights='ternary', got Gaussian"):
        ternary_with(net=network(weights="gaussian", sparsity=0.0))
    with pytest.raises(ValueError, match=r"Quantized activation in every layer, got \['relu'\]"):
        ternary_with(net=network(activations=(MATCHED[0], RELU)))
    with pytest.raises(ValueError, match="X must have 65 columns, got shape"):
        ternary_with(net=network(p=65))
    with pytest.raises(ValueError, match="smoothing must be a positive"):
        ternary_with(smoothing=0.0)
    with pytest.raises(ValueError, match="net must not be constant on X"):
        ternary_with(net=network(activations=(MATCHED[0], nh.Quantized((6.0,), (0.0, 1.0)))))
    with pytest.raises(ValueError, match="latent_rate must be a positive"):
        ternary_with(latent_rate=-1.0)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_what_is_trained_can_be_saved_and_run_on_integers(sparsity, tmp_path):
    small = moved(network(sparsity)).deployed()
    small.save(tmp_path / "net")
    again = nh.load(tmp_path / "net")
    features = small.features(TEST[0], device="cpu")
    logits = small(torch.from_numpy(TEST[0]).float()).numpy()
    # The first layer's sums are in float32 there, in float64 here: few are on either side of a
    # threshold, and codes are whole from then on.
    differ = np.abs(again.features(TEST[0]) - features) > 1e-5
    assert differ.mean() < 1e-3
    same = ~differ.any(axis=1)
    assert np.array_equal(again.predict(TEST[0])[same], logits.argmax(1)[same])
    assert small.memory().seed_file is None
