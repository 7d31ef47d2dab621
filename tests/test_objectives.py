"""Staircases by different objectives: what is compared, that it is fair, stopped and gone on with."""

import attrs
import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.data import balanced_rows
from ntklc_helpers.experiments import objectives
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.objectives import PRESETS, Objectives
from ntklc_helpers.experiments.records import RunError, find_record
from ntklc_helpers.experiments.runs import preset_of

pytestmark = pytest.mark.usefixtures("fewer_neurons")

SMALL = attrs.evolve(PRESETS["smoke"], objectives=("lloyd-max", "exact", "accuracy"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, SMALL.run(folder, device="cpu")


def test_every_draw_of_every_objective_has_a_row(whole):
    table = whole[1].table
    found = table[["objective", "levels", "seed"]].to_records(index=False).tolist()
    cells = [("none", 0)] + [(one, m) for m in SMALL.levels for one in SMALL.objectives]
    assert found == [(*cell, seed) for cell in cells for seed in range(SMALL.n_draws)]
    # What is searched for accuracy knows the others, and is never forecast worse.
    best = table.groupby("objective")["forecast"].first()
    assert best["accuracy"] >= best.drop(["none", "accuracy"]).max()


def test_a_row_is_that_network_with_a_readout(whole):
    images = load_pair("digits", SMALL.n_train, SMALL.seed)
    X, X_test = (part.reshape(len(part), -1).astype(float) for part in (images.X, images.X_test))
    X, X_test = nh.normalize(X), nh.normalize(X_test, X)
    steps = nh.match(["relu"] * 3, 1.0, 2, "lloyd-max").activations
    some = balanced_rows(images.y, SMALL.n_search, SMALL.seed)
    known = nh.forecast(
        X[some], images.y[some], steps, [60] * 3, SMALL.ridges[0], sparsity=0.9, tau0=1.0
    )
    rows = whole[1].table.query("objective == 'lloyd-max'")
    assert rows.forecast.tolist() == pytest.approx([100 * known.accuracy] * 2, abs=1e-6)
    for row in rows.itertuples():
        net = nh.RandomMLP(64, [60] * 3, steps, 1.0, "ternary", 0.9, row.seed)
        readout = nh.fit_readout(net.features(X).cpu().numpy(), images.y, seed=SMALL.seed)
        said = readout.predict(net.features(X_test).cpu().numpy())
        assert row.accuracy == pytest.approx(100 * np.mean(said == images.y_test), abs=0.5)


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(objectives, "match", 2)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    assert [call[3] for call in calls] == ["lloyd-max", "exact", "exact", "accuracy"]
    assert again.table.equals(whole[1].table)


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RunError, match="n_search must be at most 50"):
        Objectives(data="digits", n_train=50, n_search=60).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ["best"]}, "objectives must be one of"),
        ({"levels": [1]}, "levels must be a whole number from 2 to 256"),
        ({"n_draws": 1}, "n_draws must be a whole number of at least 2"),
    ],
)
def test_bad_settings_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Objectives(**options)


def test_the_record_of_the_book():
    record = find_record("objectives")
    assert preset_of(record.settings, PRESETS) == "paper"
    found = record.table.groupby(["levels", "objective"])["accuracy"].agg(["mean", "sem"]).drop(0)
    mean, error = (found[name].unstack("objective") for name in ("mean", "sem"))
    for other in ("lloyd-max", "exact"):
        gain = mean["accuracy"] - mean[other]
        assert (gain > -2 * np.hypot(error["accuracy"], error[other])).all() and gain.max() > 1
