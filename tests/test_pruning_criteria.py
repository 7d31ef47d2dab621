"""Networks pruned once: every row is that network, stopped and gone on with; what is refused."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from ntklc_helpers.compression.pruning import prune_globally, snapshot, sparsity
from ntklc_helpers.compression.train import evaluate
from ntklc_helpers.experiments import pruning_criteria
from ntklc_helpers.experiments.image_nets import drawn, fully_connected, train
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.pruning_criteria import (
    DENSE,
    PRESETS,
    STRATEGIES,
    PruningCriteria,
    accuracies,
)
from ntklc_helpers.experiments.records import RunError, find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMALL = attrs.evolve(PRESETS["smoke"], strategies=("random", "synflow"), widened=("snip",))


def connected(hidden, shape, seed):
    """A network of ten classes with weights drawn by that seed."""
    with torch.device("meta"):
        net = fully_connected(hidden, shape)
    return drawn(net, seed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return SMALL.run(tmp_path_factory.mktemp("whole") / "run", device="cpu")


def test_what_is_pruned_and_how_wide_it_is(whole):
    table = whole.table.drop_duplicates(["strategy", "widening", "left"])
    found = set(
        table[["strategy", "widening", "left", "hidden"]].itertuples(index=False, name=None)
    )
    assert found == {
        (DENSE, "same", 1.0, "20-10"),
        *((strategy, "same", a, "20-10") for strategy in ("random", "synflow") for a in SMALL.left),
        ("snip", "same", 0.5, "20-10"), ("snip", "root", 0.5, "28-14"),
        ("snip", "inverse", 0.5, "40-20"), ("snip", "same", 0.1, "20-10"),
        ("snip", "root", 0.1, "63-32"), ("snip", "inverse", 0.1, "200-100"),
        ("snip", "same", 0.05, "20-10"),
    }  # fmt: skip
    assert (whole.table.groupby(["strategy", "widening", "left"]).replicate.nunique() == 2).all()


def test_as_many_weights_are_left_as_are_said(whole):
    for row in whole.table.itertuples():
        sizes = [64, *map(int, row.hidden.split("-")), 10]
        total = sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
        assert row.weights == total - round((1 - row.left) * total)


def test_the_rate_is_that_of_the_best_dense_network_on_what_is_held_out(whole):
    assert list(whole.findings["chosen_by"]) == ["0.03", "0.1"]
    best = max(whole.findings["chosen_by"], key=whole.findings["chosen_by"].get)
    assert whole.findings["rate"] == float(best)
    dense = whole.table[whole.table.strategy == DENSE]
    assert dense.validation.mean() == pytest.approx(whole.findings["chosen_by"][best])


@pytest.mark.parametrize("strategy", ["random_rescaled", "snip"])
def test_a_row_is_that_network(strategy):
    study = attrs.evolve(SMALL, strategies=(), widened=(strategy,), left=(0.1,), rates=(0.05,))
    record = study.run(device="cpu")
    images = load_pair("digits", 300, 0)
    X, y, X_test, y_test = (torch.tensor(array) for array in images.arrays)
    order = np.random.default_rng(0).permutation(300)
    first, draw, shuffle = np.random.default_rng([0, 1]).integers(2**63, size=3).tolist()
    net = connected((63, 32), (1, 8, 8), first)
    start = snapshot(net)
    some = order[30:130]
    prune_globally(net, 0.9, strategy.partition("_")[0], seed=draw, X=X[some], y=y[some])
    if strategy == "random_rescaled":
        with torch.no_grad():
            for name, left in sparsity(net).layers_left.items():
                layer = net.get_submodule(name)
                layer.weight_orig.copy_(start[f"{name}.weight"] / left**0.5)
    training = attrs.evolve(study.training, learning_rate=0.05)
    train(net, X[order[30:]], y[order[30:]], training, shuffle)
    row = record.table.query("widening == 'root' and replicate == 1").iloc[0]
    accuracy, loss = evaluate(net, X_test, y_test)
    assert row.accuracy == pytest.approx(100 * accuracy, abs=0.5)
    assert row.loss == pytest.approx(loss, rel=1e-3)
    held, _ = evaluate(net, X[order[:30]], y[order[:30]])
    assert row.validation == pytest.approx(100 * held, abs=4)


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(pruning_criteria, "train", 2, 20)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    # Two rates of two replicates, 6 cells of two strategies and 7 of the widened one.
    assert len(calls) == 4 + 2 * 13 + 2
    again.write(tmp_path / "again")
    whole.write(tmp_path / "whole")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert again.findings == whole.findings and read_record(tmp_path / "again") == again
    with pytest.raises(RunError, match="left is .* there and .* here"):
        attrs.evolve(SMALL, left=(0.5,)).run(tmp_path / "run", device="cpu")


def test_accuracies_are_in_the_order_of_the_shares(whole):
    left, found = accuracies(whole, "snip", "inverse")
    assert left.tolist() == [1.0, 0.5, 0.1] and found.shape == (3, 2)
    rows = whole.table.query("strategy == 'snip' and widening == 'inverse' and left == 0.1")
    assert found[2].tolist() == rows.accuracy.tolist()
    with pytest.raises(ValueError, match="no row of the table has"):
        accuracies(whole, "grasp")


def test_root_leaves_as_many_weights_between_hidden_layers():
    study = PruningCriteria(hidden=(300, 100))
    for left in (0.5, 0.1, 0.05):
        first, second = study.widths(left, "root")
        assert left * first * second == pytest.approx(30_000, rel=0.01)
        assert study.widths(left, "inverse") == (round(300 / left), round(100 / left))
    with pytest.raises(ValueError, match="widening must be one of same, root, inverse"):
        study.widths(0.5, "wide")


def test_networks_are_drawn_as_others_are():
    net = connected((2000, 300), (1, 10, 10), seed=3)
    assert [part.weight.std().item() for part in net if isinstance(part, nn.Linear)] == (
        pytest.approx([(2 / 100) ** 0.5, (2 / 2000) ** 0.5, (2 / 300) ** 0.5], rel=0.05)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "hidden must hold the width of at least one layer"),
        ({"hidden": (0,)}, "hidden must be a whole number of at least 1"),
        ({"strategies": ("best",)}, "strategies must be one of random, random_rescaled, .* 'best'"),
        ({"widened": ("best",)}, "widened must be one of"),
        ({"left": ()}, "left must hold at least one share"),
        ({"left": (0.5, 1.0)}, r"left must be a number in \(0, 1\)"),
        ({"least_widened": 0}, "least_widened must be a number in"),
        ({"held_out": 1.0}, r"held_out must be a number in \(0, 1\), got 1.0"),
        ({"n_scored": 0}, "n_scored must be a whole number"),
        ({"rates": ()}, "rates must hold at least one learning rate"),
        ({"rates": (0.0,)}, "rates must be a positive"),
        ({"replicates": 0}, "replicates must be a whole number"),
    ],
)
def test_bad_settings_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        PruningCriteria(**options)


@pytest.mark.parametrize("held_out", [0.001, 0.9])
def test_images_that_are_too_few_are_refused(held_out, tmp_path):
    with pytest.raises(RunError, match="held_out .* of 300 images must be one or more, and leave"):
        attrs.evolve(SMALL, held_out=held_out).run(tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_every_strategy_prunes():
    assert {name.removesuffix("_rescaled") for name in STRATEGIES} == {
        "random", "magnitude", "snip", "grasp", "synflow",
    }  # fmt: skip


def test_the_record_is_of_the_first_preset():
    record = find_record("pruning_criteria")
    assert preset_of(record.settings, PRESETS) == "paper"
    assert record.settings["replicates"] >= 3 and len(accuracies(record, "random")[0]) == 6
