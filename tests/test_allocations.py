"""A study of allocations: all that fit are trained, rows are those networks, stopped and gone on with."""

import attrs
import numpy as np
import pandas as pd
import pytest

import ntklc_helpers as nh
from ntklc_helpers.data import balanced_rows
from ntklc_helpers.experiments import allocations
from ntklc_helpers.experiments.allocations import PRESETS, Allocations, outcomes
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.records import Record, RunError, find_record
from ntklc_helpers.experiments.runs import preset_of

pytestmark = pytest.mark.usefixtures("fewer_neurons")

SMALL = attrs.evolve(
    PRESETS["smoke"], sparsities=(0.5,), packed=(4e3, 8e3), drawn=(), operations=()
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, SMALL.run(folder, device="cpu")


def told(record):
    """What of the choices does not vary from run to run."""
    return [{k: v for k, v in one.items() if k != "seconds"} for one in record.findings["choices"]]


def test_a_row_is_that_network_with_a_readout(whole):
    table = whole[1].table
    assert len(table) == 2 * 2**2 * SMALL.n_draws and not table.duplicated().any()
    images = load_pair("digits", SMALL.n_train, SMALL.seed)
    X, X_test = (part.reshape(len(part), -1).astype(float) for part in (images.X, images.X_test))
    out = balanced_rows(images.y, SMALL.n_valid, SMALL.seed)
    kept = np.setdiff1d(np.arange(len(X)), out)
    parts = {"valid": (X[out], images.y[out]), "accuracy": (X_test, images.y_test)}
    steps = nh.match(["relu"] * 2, 1.0, 4, "lloyd-max")
    row = table.query("levels == 4 and width_1 == 20 and width_2 == 60 and seed == 1").iloc[0]
    net = nh.RandomMLP(64, [20, 60], steps.activations, 1.0, "ternary", 0.5, 1)
    readout = nh.fit_readout(
        net.features(nh.normalize(X[kept])).cpu(), images.y[kept], holdout=0.25, seed=SMALL.seed
    )
    for name, (rows, y) in parts.items():
        if name == "accuracy":
            some = balanced_rows(y, SMALL.n_test, SMALL.seed)
            rows, y = rows[some], y[some]
        said = readout.score(net.features(nh.normalize(rows, X[kept])).cpu(), y)
        assert row[name] == pytest.approx(100 * said, abs=0.5)
    small = nh.compress(net, nh.normalize(X[kept]), steps, 0.5)
    small.readout = readout
    assert len(small.to_bytes("packed")) == pytest.approx(row["cost_packed"], rel=0.025)
    assert len(small.to_bytes("seed")) == pytest.approx(row["cost_seed"], rel=0.02)


def test_an_interrupted_run_goes_on_and_chooses_anew_without_training(whole, tmp_path, stop_at):
    calls = stop_at(allocations, "fit_readout", 10)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    # One kind, of four networks drawn twice, was kept.
    assert len(calls) == 8 + 2 + 8
    kept, new = (one.table.drop(columns="seconds") for one in (whole[1], again))
    assert new.equals(kept) and told(again) == told(whole[1])
    for file in (tmp_path / "run").glob("chosen-packed*"):
        file.unlink()
    assert told(SMALL.run(tmp_path / "run", device="cpu")) == told(again) and len(calls) == 18


def test_what_came_of_every_way_to_choose():
    table = pd.DataFrame(
        [
            (m, 0.5, *shape, seed, accuracy + seed, valid, cost, cost, cost, 1.0)
            for m, shape, accuracy, valid, cost in (
                (2, (10, 10), 50.0, 90.0, 100.0),
                (2, (10, 20), 60.0, 80.0, 190.0),
                (4, (10, 10), 58.0, 85.0, 110.0),
                (4, (20, 20), 70.0, 95.0, 400.0),
            )
            for seed in (0, 1)
        ],
        columns=["levels", "sparsity", "width_1", "width_2", "seed", "accuracy", "valid"]
        + ["cost_packed", "cost_seed", "cost_operations", "seconds"],
    )
    choice = {"counted": "packed", "budget": 200.0, "widths": [10, 20], "levels": 2}
    choice |= {"sparsity": 0.5, "forecast": 61.0, "uncertainty": 1.0}
    (row,) = outcomes(Record(table, {"sparsities": [0.5]}, {}, {"choices": [choice]})).itertuples()
    assert (row.chosen, row.trained, row.hindsight, row.equal) == (60.5, 50.5, 60.5, 58.5)
    assert (row.random, row.tried, row.seconds) == (60.5, 3, 6.0) and row.spread == pytest.approx(
        0.5**0.5
    )


def test_bad_settings_name_the_argument(tmp_path):
    with pytest.raises(ValueError, match="sparsities must be in"):
        Allocations(sparsities=(1.0,))
    with pytest.raises(RunError, match="n_valid must be at most 10"):
        Allocations(data="digits", n_train=50, n_valid=20, n_test=100).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_record_of_the_book():
    record = find_record("allocation")
    assert preset_of(record.settings, PRESETS) == "paper"
    found = outcomes(record)
    behind = found["trained"] - found["chosen"]
    assert behind.mean() < 0.3 and (found["chosen"] > found["random"]).mean() > 0.9
    stages = record.provenance["stages"]
    for counted, rows in found.groupby("counted"):
        assert stages[f"chosen_{counted}"] / len(rows) < 0.01 * stages["networks"]
