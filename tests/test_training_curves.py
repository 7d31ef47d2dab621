"""Networks trained on all samples at once: steps by torch, flow by small steps, the study."""

import attrs
import numpy as np
import pytest
import torch

import ntklc_helpers as nh
from ntklc_helpers.experiments import training_curves
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of
from ntklc_helpers.experiments.training_curves import (
    DENSE,
    PRESETS,
    SCHEMES,
    FullBatch,
    Task,
    TrainingCurves,
    scheme_layers,
)

SMALL = attrs.evolve(
    PRESETS["training_curves"]["smoke"], n_train=60, n_test=40, n_steps=40, p_mixture=20,
    n_mixture=30, widths=[16], step_widths=[16], widest=24, rates=[0.5, 1.5], until=2, n_draws=1,
)  # fmt: skip


def batch(width=40, depth=2, outputs=3, rates=None, dtype=torch.float64):
    net = nh.RandomMLP(10, [width] * depth, ["tanh"] * depth, 1.0, seed=1, dtype=dtype)
    rates = [1.0] * (depth + 1) if rates is None else rates
    return FullBatch(net, outputs, [None] * depth, rates)


def data(n=12, outputs=3):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 10, generator=generator, dtype=torch.float64) / 10**0.5
    return X, torch.randn(n, outputs, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("usual", [False, True])
def test_steps_are_those_of_torch(usual):
    """In the usual parametrisation too, whose weights are W_ℓ/√d_{ℓ−1}."""
    sizes = [10, 40, 40]
    one = batch(rates=sizes if usual else None)
    X, Y = data()
    roots = [d**0.5 if usual else 1.0 for d in sizes]
    weights = [(W / r).clone().requires_grad_() for W, r in zip(one.start, roots, strict=True)]

    def outputs():
        h = X
        for W, r, centre in zip(weights, roots, one.net.centres, strict=False):
            h = (torch.tanh(h @ (r * W).T) - centre) / 40**0.5
        return h @ (roots[-1] * weights[-1]).T

    rate, first = 0.02 / (40 if usual else 1), outputs().detach()
    optimiser = torch.optim.SGD(weights, lr=rate)
    for _ in range(5):
        optimiser.zero_grad()
        (0.5 * (outputs() - first - Y) ** 2).sum().backward()
        optimiser.step()
    ((_, f),) = one.descend(X, Y, [5 * rate], rate)
    torch.testing.assert_close(f, outputs().detach() - first)


def last_of(steps):
    return list(steps)[-1][1]


def test_flow_is_what_small_steps_tend_to():
    """Of second order: with twice as many steps a quarter of the error."""
    one, (X, Y) = batch(), data()
    fastest = 1.3 * float(np.linalg.eigvalsh(nh.empirical_ntk(one.net, X))[-1])
    end = 20 / fastest
    truth, errors = last_of(one.descend(X, Y, [end], end / 10_000)), []
    for n in (18, 36):
        found = last_of(one.flow(X, Y, np.geomspace(end / 200, end, n + 1), fastest))
        errors.append(float((found - truth).norm() / truth.norm()))
    assert errors[0] < 0.01 and errors[1] < 0.35 * errors[0]
    # A bound that is none is found out by a loss that does not fall.
    found = last_of(one.flow(X, Y, np.geomspace(end / 200, end, 19), fastest / 8))
    assert float((found - truth).norm() / truth.norm()) < 0.1


def test_wider_networks_follow_their_kernel_more_closely():
    X, Y = data()
    task, layers = Task(*[part.numpy() for part in (X, Y, X, Y)]), (nh.activation("tanh"),) * 2
    N, _ = task.kernels((layers, (None, None)))
    times, gaps = np.geomspace(0.05, 8, 19) / np.linalg.eigvalsh(N)[-1], []
    curve = nh.training_curve(N, Y, times)
    for width in (60, 960):
        found = []
        for seed in range(6):
            net = nh.RandomMLP(10, [width] * 2, layers, 1.0, seed=seed, dtype=X.dtype)
            steps = FullBatch(net, 3, [None] * 2, [1.0] * 3).flow(
                X, Y, times, 1.5 * float(curve.rates[-1])
            )
            found.append([float(((f - Y) ** 2).sum(dim=1).mean()) for _, f in steps])
        gaps.append(np.abs(np.mean(found, axis=0) / curve.loss - 1).max())
    assert gaps[1] < 0.5 * gaps[0] and gaps[1] < 0.05


def test_schemes_are_what_they_are_called():
    relu, bare = scheme_layers(DENSE, 2, 8)
    assert [act.name for act in relu] == ["relu"] * 2 and bare == (None, None)
    matched, backward = scheme_layers(SCHEMES[1], 2, 8)
    assert nh.propagate(matched, 1.0, backward)[-1].kappa == pytest.approx(
        nh.propagate(relu, 1.0)[-1].kappa, rel=1e-9
    )
    for scheme in SCHEMES[2:]:
        steps, backward = scheme_layers(scheme, 2, 8)
        assert all(len(set(one.levels)) == 8 for one in steps)
        assert (steps == matched) == scheme.startswith("matched")
        at = np.array([-1.0, 1.0])
        assert backward[0](at).tolist() == ([1, 1] if "through" in scheme else [0, 1])


# --- the study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return SMALL.run(tmp_path_factory.mktemp("whole") / "run", device="cpu")


def test_every_network_has_its_rows(whole):
    keys = ["data", "depth", "scheme", "parametrisation", "width", "seed", "rate"]
    networks = whole.table[keys].drop_duplicates()
    # Flows on both data, schemes on both, two wider, and two schemes in two ways at two rates.
    assert len(networks) == 2 + 2 * 5 + 2 + 2 * 2 * 2
    assert (whole.table.groupby(keys)["time"].apply(lambda t: (t.diff().dropna() > 0).all())).all()
    beyond = whole.table.rate == 1.5
    assert whole.table.loss_predicted.isna().eq(beyond).all()
    assert whole.table.loc[~beyond, "loss_predicted"].gt(0).all()


def test_a_row_is_that_network(whole):
    images = load_pair("digits", 60, 0)
    task = SMALL._tasks(type("Run", (), {"images": images}))["digits"].first(40)
    rows = whole.table.query("data == 'digits' and scheme == @SCHEMES[3]")
    layers = scheme_layers(SCHEMES[3], 2, 8)
    net = nh.RandomMLP(64, [16] * 2, layers[0], 1.0, nh.theory.Ternary(0.9), device="cpu")
    unit = 1 / np.linalg.eigvalsh(task.kernels(scheme_layers(DENSE, 2, 8))[0])[-1]
    times = rows.time.to_numpy() * unit
    rate = SMALL.rate * nh.theory.largest_rate(task.kernels(layers)[0])
    one = FullBatch(net, 10, layers[1], [1.0] * 3)
    X, Y = (torch.tensor(part).float() for part in (task.X, task.Y))
    found = [float(((f - Y) ** 2).sum(dim=1).mean()) for _, f in one.descend(X, Y, times, rate)]
    np.testing.assert_allclose(rows.loss, found, rtol=1e-5)


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(training_curves, "RandomMLP", 7)
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path / "run", device="cpu")
    again = SMALL.run(tmp_path / "run", device="cpu")
    assert len(calls) == 22 + 1 and again.table.equals(whole.table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "rate must be a positive finite number, got 0"),
        ({"widths": [0]}, "widths must be a whole number of at least 1, got 0"),
        ({"sparsity": 1.0}, r"sparsity must be a number in \(0, 1\), got 1.0"),
        ({"levels": 1}, "levels must be a whole number from 2 to 256, got 1"),
    ],
)
def test_settings_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingCurves(**{"data": "digits"} | change)
    with pytest.raises(ValueError, match="n_steps must be at most 60, the number of images"):
        attrs.evolve(SMALL, n_steps=61).run(None, device="cpu")


def test_the_record_is_of_the_first_preset():
    record = find_record("training_curves")
    assert preset_of(record.settings, PRESETS["training_curves"]) == "paper"
    flow = record.table.query("rate == 0 and width == 4096")
    assert set(flow.groupby(["data", "depth"]).groups) == {
        (d, k) for d in ("mnist", "mixed") for k in (2, 3)
    }
    # What is promised: until the training loss is a tenth, wide networks do as predicted.
    for (data, _), rows in flow.groupby(["data", "depth"]):
        mean = rows.groupby("time").mean(numeric_only=True)
        mean = mean[mean.loss_predicted > 0.1 * mean.loss_predicted.max()]
        assert (abs(mean.test_loss / mean.test_loss_predicted - 1) < 0.05).all()
        assert data == "mixed" or (abs(mean.loss / mean.loss_predicted - 1) < 0.05).all()
    # Flow lowers the loss at all times.
    flows = record.table[record.table.rate == 0]
    falls = flows.groupby(["data", "depth", "width", "seed"])["loss"].diff()
    assert (falls.dropna() < 1e-5).all()
