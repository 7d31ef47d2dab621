"""Sweeps of pruning: what a round trains, resuming after an interruption, refusing what differs."""

import attrs
import numpy as np
import pandas as pd
import pytest
import torch

from ntklc_helpers import MissingDataError
from ntklc_helpers.compression.train import evaluate
from ntklc_helpers.experiments import pruning_sweep
from ntklc_helpers.experiments.image_nets import TrainingSettings, build, train
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.pruning_sweep import (
    PRESETS,
    STRATEGIES,
    Sweep,
    by_round,
    chain_seeds,
    parting_round,
)
from ntklc_helpers.experiments.records import Record, RunError

SMALL = Sweep(
    data="digits", n_train=200, rounds=3, replicates=2,
    training=TrainingSettings(steps=12, batch_size=50),
)  # fmt: skip
RESIDUAL = Sweep(
    network="resnet_8", data="digits", n_train=60, rounds=1, replicates=1, width=2,
    training=TrainingSettings(steps=2, batch_size=30, augment=True),
)  # fmt: skip


def numbers(record):
    """Everything but the wall times."""
    return record.table.drop(columns="seconds").to_dict("records")


@pytest.fixture(scope="module")
def whole():
    return SMALL.run(device="cpu")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- what a sweep does


def test_rounds_prune_what_they_should(whole):
    assert len(whole.table) == 3 * 2 * 4
    assert list(whole.table.strategy.unique()) == list(STRATEGIES)
    size = 64 * 300 + 300 * 100 + 100 * 10
    for strategy in STRATEGIES:
        left = 1 - by_round(whole, strategy, "sparsity")
        assert left.shape == (4, 2)
        # Whole weights are pruned: each round rounds by half a weight at most.
        np.testing.assert_allclose(left, 0.8 ** np.arange(4)[:, None] * [1, 1], atol=3 / size)
    dense = [by_round(whole, strategy)[0] for strategy in STRATEGIES]
    assert np.array_equal(dense[0], dense[1]) and np.array_equal(dense[0], dense[2])
    plain = by_round(whole, "random")
    assert not np.array_equal(plain[1:], by_round(whole, "random_rescaled")[1:])
    assert plain[0, 0] != plain[0, 1]


def test_a_round_is_a_training_of_the_first_weights_under_the_masks(whole):
    images = load_pair("digits", 200, 0)
    X, y, X_test, y_test = (torch.tensor(array) for array in images.arrays)
    seeds = chain_seeds(0, replicate=1)
    net = build("lenet_300_100", (1, 8, 8), 10, 16, next(seeds))
    first = [p.detach().clone() for p in net.parameters()]
    mask = [torch.ones_like(p) for p in first]
    for number in range(3):
        order, _ = next(seeds), next(seeds)
        with torch.no_grad():
            for p, start, m in zip(net.parameters(), first, mask, strict=True):
                p.copy_(start * m)
                p.register_hook(lambda g, m=m: g * m)
        train(net, X, y, SMALL.training, order)
        accuracy, loss = evaluate(net, X_test, y_test)
        found = by_round(whole, "magnitude")[number, 1]
        assert found == pytest.approx(accuracy, abs=2 / len(y_test))
        assert by_round(whole, "magnitude", "loss")[number, 1] == pytest.approx(loss, rel=1e-4)
        # Global magnitude pruning by sorting, biases left alone.
        matrices = [k for k, p in enumerate(first) if p.ndim == 2]
        trained = [p.detach().abs() for p in net.parameters()]
        alive = torch.cat([trained[k][mask[k] == 1] for k in matrices])
        threshold = alive.sort().values[round(0.2 * len(alive))]
        for k in matrices:
            mask[k] = mask[k] * (trained[k] >= threshold)


def test_rescaling_restores_the_size_of_the_weights(monkeypatch):
    seen = []

    def observe(net, X, y, training, seed):
        layers = [layer for layer in net if hasattr(layer, "weight")]
        seen.append([layer.weight.square().sum().item() for layer in layers])

    monkeypatch.setattr(pruning_sweep, "train", observe)
    attrs.evolve(SMALL, rounds=6, replicates=1, strategies=["random_rescaled"]).run(device="cpu")
    # Of n weights with kurtosis 3, a share α: a relative standard deviation of (2/(αn))^½ or so.
    for sums in seen:
        for value, first, size in zip(sums, seen[0], (19200, 30000, 1000), strict=True):
            assert value == pytest.approx(first, rel=5 * (3 / (0.26 * size)) ** 0.5)


def test_strategies_and_replicates_in_parallel_are_the_same(whole):
    assert numbers(SMALL.run(n_jobs=2, device="cpu")) == numbers(whole)


def test_residual_network():
    table = RESIDUAL.run(device="cpu").table
    assert table.sparsity.to_list() == [0.0, pytest.approx(0.2, abs=1e-3)] * 3
    # 7 convolutions, 2 of them in shortcuts, and the linear layer: the normalisations stay whole.
    assert sum(name.startswith("sparsity:") for name in table) == 1 + 6 + 2 + 1


# --- on disk


def test_an_interrupted_sweep_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(pruning_sweep, "train", 3, 10, 11, 20)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(tmp_path / "sweep", device="cpu")
    assert numbers(SMALL.run(tmp_path / "sweep", device="cpu")) == numbers(whole)
    # Every round was trained once, and four were begun once more.
    assert len(calls) == 24 + 4
    before = contents(tmp_path / "sweep")
    assert numbers(SMALL.run(tmp_path / "sweep", device="cpu")) == numbers(whole)
    assert len(calls) == 28 and contents(tmp_path / "sweep") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 2}, "rounds is 3 there and 2 here"),
        ({"fraction": 0.3}, "fraction is 0.2 there and 0.3 here"),
        (
            {"training": TrainingSettings(steps=13, batch_size=50)},
            "training.steps is 12 there and 13 here",
        ),
        ({"seed": 1}, "seed is 0 there and 1 here; sha256 is "),
    ],
)
def test_other_settings_are_refused(change, message, tmp_path, stop_at):
    stop_at(pruning_sweep, "evaluate", 1)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "sweep", device="cpu")
    before = contents(tmp_path / "sweep")
    with pytest.raises(RunError, match=f"holds a run with other settings: {message}"):
        attrs.evolve(SMALL, **change).run(tmp_path / "sweep", device="cpu")
    assert contents(tmp_path / "sweep") == before


def test_a_damaged_chain_is_refused_before_another_is_begun(tmp_path):
    folder = tmp_path / "sweep"
    RESIDUAL.run(folder, device="cpu")
    # The last chain is damaged and an earlier one has work left: that must not be begun.
    (folder / "random-0.pt").unlink()
    damaged = folder / "magnitude-0.pt"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    before = contents(folder)
    with pytest.raises(RunError, match=r"magnitude-0.pt is damaged; delete it"):
        RESIDUAL.run(folder, device="cpu")
    assert contents(folder) == before


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.0}, r"fraction must be a number in \(0, 1\), got 1.0"),
        ({"fraction": 0.0}, r"fraction must be a number in \(0, 1\)"),
        ({"data": "imagenet"}, "data must be one of mnist, digits, cifar10, got 'imagenet'"),
        ({"strategies": ["snip"]}, "strategies must be one of random, .*, got 'snip'"),
        ({"strategies": []}, "strategies must be different, at least one"),
        ({"strategies": ["random", "random"]}, "strategies must be different"),
        ({"network": "vgg"}, "network must be one of .*, got 'vgg'"),
        ({"network": "resnet_18"}, r"depth must be 6n \+ 2 with n = 1, 2, …, got 18"),
        ({"network": "resnet_2"}, r"depth must be 6n \+ 2"),
        ({"network": "vgg19", "data": "digits"}, r"shape \(1, 8, 8\) is too small"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1"),
        ({"replicates": 1.5}, "replicates must be a whole number"),
        ({"network": "resnet_8", "width": 0}, "width must be a whole number"),
        ({"n_train": 0}, "n_train must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_sweeps_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Sweep(**options)


def test_numbers_of_numpy_are_numbers(tmp_path):
    sweep = attrs.evolve(RESIDUAL, rounds=np.int64(1), fraction=np.float32(0.5), seed=np.uint8(2))
    sweep.run(tmp_path / "sweep", device="cpu")
    assert sweep.plain()["rounds"] == 1 and sweep.plain()["seed"] == 2
    assert sweep == attrs.evolve(RESIDUAL, rounds=1, fraction=0.5, seed=2)


def test_columns_by_round():
    row = {"strategy": "random", "replicate": 1, "round": 0, "accuracy": 0.5}
    record = Record(pd.DataFrame([row, row | {"replicate": 0, "round": 1}]), {}, {})
    found = by_round(record, "random")
    # What is missing is not a number.
    np.testing.assert_array_equal(found, [[np.nan, 0.5], [0.5, np.nan]])
    with pytest.raises(ValueError, match="strategy must be one of random, got 'snip'"):
        by_round(record, "snip")


def test_parting_round():
    better = np.array([[0.9, 0.9], [0.9, 0.8], [0.9, 0.8], [0.7, 0.7]])
    worse = np.array([[0.9, 0.9], [0.7, 0.7], [0.8, 0.5], [0.1, 0.6]])
    assert parting_round(better, worse) == 3
    assert parting_round(better, worse - 0.01) == 0
    worse[0] = 0.95
    assert parting_round(better, worse - 0.01) == 1
    assert parting_round(worse, better) is None


def test_presets_have_the_published_depths():
    for depth in (20, 50):
        preset = PRESETS[f"pruning_resnet{depth}"]["paper"]
        assert (preset.rounds, preset.replicates, preset.data) == (16, 3, "cifar10")
        net = build(preset.network, (3, 32, 32), 10, preset.width, seed=0)
        longest = [
            m for n, m in net.named_modules() if hasattr(m, "weight") and "shortcut" not in n
        ]
        assert len([m for m in longest if m.weight.ndim > 1]) == depth


def test_presets_for_two_cores_take_as_many_epochs_as_is_said():
    once, lenet = PRESETS["pruning_resnet20"]["two-cores"], PRESETS["pruning_lenet"]["paper"]
    assert once.training.steps == 10 * (50_000 // once.training.batch_size)
    assert lenet.training.steps == 40 * (60_000 // lenet.training.batch_size)
    assert (once.rounds, once.strategies, once.replicates) == (1, ("random",), 3)
    assert 1 - once.fraction == pytest.approx(0.21)


def test_digits_stand_in_for_photographs_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="CIFAR-10"):
        load_pair("cifar10")
    images = load_pair("cifar10", 2000, stand_in=True)
    assert images.X.shape[1:] == (1, 8, 8) and "CIFAR-10 is not available" in images.note
