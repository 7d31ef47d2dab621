"""Forecast against measured: every case of a run, what is measured, stopped and gone on with."""

import json

import attrs
import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.compression.train import load_state
from ntklc_helpers.data import balanced_rows
from ntklc_helpers.experiments import forecasts, image_nets
from ntklc_helpers.experiments.forecasts import DEPTHS, PRESETS, STAIRCASES, Forecasts, compared
from ntklc_helpers.experiments.image_nets import TrainingSettings
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.records import RunError, find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

pytestmark = pytest.mark.usefixtures("fewer_neurons")

SMALL = Forecasts(
    data="digits", n_train=600, n_pool=160, n_test=300, activations=("relu",), widths=(30, 60),
    few_widths=(30,), ridges=(1e-2,), sizes=(80, 160), size=80, ridge=1e-2, sparsity=0.5,
    n_draws=2, seed=2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fewer_staircases():
    """Few of them, of few levels: to match more takes most of the time."""
    names = [*STAIRCASES][:2]
    few = {name: STAIRCASES[name] for name in names} | {"matched, 2 levels": {"levels": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecasts, "STAIRCASES", few)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, SMALL.run(folder, device="cpu")


def of(record, case):
    rows = record.table.to_dict("records")
    return next(row for row in rows if attrs.asdict(case).items() <= row.items())


def parts():
    images = load_pair("digits", 600, 2)
    X = images.X.reshape(600, -1).astype(float)
    pool = balanced_rows(images.y, 160, 2)
    held = np.setdiff1d(np.arange(600), pool)
    X, X_held = nh.normalize(X[pool]), nh.normalize(X[held], X[pool])
    return X, images.y[pool], X_held, images.y[held]


def test_every_case_is_forecast_and_measured(whole):
    record = whole[1]
    names = list(attrs.fields_dict(forecasts.Case))
    assert record.table[names].to_dict("records") == [attrs.asdict(c) for c in SMALL.cases()]
    assert len(SMALL.cases()) == 7 and set(record.table.draws) == {2, 4}
    assert record.findings == {"n_held": 440, "extractor": {}}
    assert record.settings["source"] == "scikit-learn digits, train part"
    assert not record.table.isna().any().any()


@pytest.mark.parametrize("at", [0, 2, 4])
def test_the_forecast_is_that_of_the_pool_alone(whole, at):
    case = SMALL.cases()[at]
    X, y, _, _ = parts()
    acts = [case.activation] * 3
    if how := forecasts.STAIRCASES[case.staircase]:
        acts = nh.match(acts, 1.0, **how).activations
    known = nh.forecast(
        X, y, acts, case.widths, case.ridge, case.n_train, case.sparsity, tau0=1.0, seed=2
    )
    row = of(whole[1], case)
    assert row["accuracy_forecast"] == pytest.approx(known.accuracy, abs=1e-3)
    assert row["error_forecast"] == pytest.approx(known.error, rel=1e-4)


def test_what_is_measured_is_the_readout_that_was_forecast(whole):
    """On all of the pool: each image left out by training without it, new ones by W itself."""
    (case,) = (case for case in SMALL.cases() if case.n_train == 160)
    X, y, X_held, y_held = parts()
    delta = case.ridge * np.trace(nh.limit_kernels(X, ["relu"] * 3, tau0=1.0, ntk=False)[0])
    T, accuracy, error, left_out = np.eye(10)[y] - np.eye(10)[y].mean(0), [], [], []
    for seed in range(2, 2 + SMALL.draws(case)):
        net = nh.RandomMLP(64, case.widths, ["relu"] * 3, tau0=1.0, seed=seed, device="cpu")
        F, F_held = (net.features(rows).double().numpy() for rows in (X, X_held))

        def readout(rows, F=F):
            return np.linalg.solve(F[rows].T @ F[rows] + delta * np.eye(30), F[rows].T @ T[rows])

        out = F_held @ readout(slice(None)) + np.eye(10)[y].mean(0)
        accuracy.append(np.mean(out.argmax(1) == y_held))
        error.append(np.sum((out - np.eye(10)[y_held]) ** 2, axis=1).mean())
        one_by_one = [F[i] @ readout(np.arange(160) != i) for i in range(160)]
        left_out.append(np.sum((np.array(one_by_one) - T) ** 2, axis=1).mean())
    row = of(whole[1], case)
    assert row["accuracy"] == pytest.approx(np.mean(accuracy), abs=1.5 / 440)
    assert row["error"] == pytest.approx(np.mean(error), rel=1e-3)
    assert row["error_spread"] == pytest.approx(np.std(error, ddof=1), rel=0.05)
    assert row["error_pool"] == pytest.approx(np.mean(left_out), rel=1e-3)


def test_forecasts_are_within_their_uncertainty(whole):
    found = compared(whole[1])
    assert (found.miss.abs() < 3 * found.uncertainty).all()
    assert np.ptp(found.measured) > 5 and np.corrcoef(found.forecast, found.measured)[0, 1] > 0.95
    on_pool = compared(whole[1], "pool")
    assert (on_pool.uncertainty < found.uncertainty).all()
    with pytest.raises(ValueError, match="on must be one of held, test, pool, got 'all'"):
        compared(whole[1], "all")


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    stop_at(forecasts.Forecaster, "of", 2, 4)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    same = [name for name in again.table if not name.startswith("seconds")]
    assert again.table[same].equals(whole[1].table[same])
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


def test_features_are_those_of_a_network_trained_on_other_images(tmp_path):
    few = attrs.evolve(
        SMALL, n_extractor=100, network="vgg_tiny", widths=(30,), sizes=(80,),
        training=TrainingSettings(steps=4, batch_size=50),
    )  # fmt: skip
    record = few.run(tmp_path / "run", device="cpu")
    assert record.findings["extractor"] == {"network": "vgg_tiny", "images": 100}
    assert record.findings["n_held"] == 340
    images = load_pair("digits", 600, 2)
    pool = balanced_rows(images.y, 160, 2)
    rest = np.setdiff1d(np.arange(600), pool)
    shown = rest[balanced_rows(images.y[rest], 100, 2)]
    net = image_nets.build("vgg_tiny", (1, 8, 8), 10, 16, seed=2)
    image_nets.train(net, images.X[shown], images.y[shown], few.training, seed=2)
    kept = load_state(tmp_path / "run" / "features.pt")
    for part, rows in (("pool", pool), ("held", np.setdiff1d(rest, shown))):
        expected = image_nets.convolutional_features(net, images.X[rows])
        np.testing.assert_allclose(kept[part], expected, rtol=1e-3, atol=1e-4)
        assert np.array_equal(kept[f"y_{part}"], images.y[rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_pool": 595}, "n_train must be at least 605"),
        ({"sizes": (250,)}, "sizes must be from 10 to n_pool, 160"),
        ({"n_extractor": 20}, "n_extractor must be 0, or at least batch_size"),
        ({"n_test": 5}, "n must be from 10"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(RunError, match=message):
        attrs.evolve(SMALL, **change).run(tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": ("relu", "erf")}, "activations must be one of relu, tanh, gelu"),
        ({"ridges": (0.0,)}, "ridges must be"),
        ({"sparsity": 0.0}, "sparsity must be"),
        ({"n_draws": 1}, "n_draws must be a whole number of at least 2"),
    ],
)
def test_bad_settings_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        Forecasts(**options)


@pytest.mark.parametrize("name", PRESETS)
def test_the_design_covers_every_factor(name, monkeypatch):
    monkeypatch.setattr(forecasts, "STAIRCASES", STAIRCASES)
    run = PRESETS[name]["paper"]
    cases = run.cases()
    assert len(cases) == 64 and set(DEPTHS) == {case.activation for case in cases}
    for factor, least in {
        "activation": 9, "staircase": 8, "width": 2, "ridge": 6, "n_train": 2, "sparsity": 20,
    }.items():  # fmt: skip
        values = [getattr(case, factor) for case in cases]
        assert min(map(values.count, set(values))) >= least, factor
    settings = json.loads(json.dumps(run.plain())) | {"source": name}
    assert preset_of(settings, PRESETS[name]) == "paper"


@pytest.mark.parametrize("name", PRESETS)
def test_the_records_of_the_book(name):
    record = find_record(name)
    assert preset_of(record.settings, PRESETS[name]) == "paper"
    assert len(record.table) == 64 and record.table.draws.min() >= 3
    for on, rank in {"pool": 0.98, "held": 0.98, "test": 0.97}.items():
        table = compared(record, on)
        assert table.forecast.corr(table.measured, method="spearman") > rank
        assert on == "test" or table.miss.abs().mean() < 0.6
