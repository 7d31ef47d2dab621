"""The published programs with their slips: what is computed against torch, and what is reported."""

import attrs
import numpy as np
import pandas as pd
import pytest
import torch

import ntklc_helpers as nh
from ntklc_helpers.experiments import published_programs
from ntklc_helpers.experiments.images import load_pair
from ntklc_helpers.experiments.published_programs import (
    DENSE,
    PRESETS,
    PROGRAMS,
    PUBLISHED,
    PublishedPrograms,
    effects,
    readouts,
    reported,
)
from ntklc_helpers.experiments.records import find_record, read_record
from ntklc_helpers.experiments.runs import preset_of

SMOKE = PRESETS["smoke"]
MATCH, REWRITE = PROGRAMS.values()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return SMOKE.run(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("program", [MATCH, REWRITE], ids=list(PROGRAMS))
@pytest.mark.parametrize("in_order", [True, False])
def test_both_readouts_are_those_that_torch_trains(program, in_order):
    """With modules, its own initial weights replaced, its loss and its derivatives."""
    generator = torch.Generator().manual_seed(3)
    n, width, epochs = 2 * program.batch_size + 5, 7, 3
    F, y = torch.randn(n, width, generator=generator), torch.arange(n) % program.classes
    seen = {"same": (F, y)}
    found = readouts((F, y), seen, program, epochs, in_order, 0)["same"][-1]
    for twice in (False, True):
        draws = torch.Generator().manual_seed(0)
        layer = torch.nn.Linear(width, program.classes, bias=program.rewritten)
        with torch.no_grad():
            W = torch.rand(program.classes, width + program.rewritten, generator=draws)
            W = (2 * W - 1) / width**0.5
            layer.weight.copy_(W[:, :width])
            if program.rewritten:
                layer.bias.copy_(W[:, width])
                layer.weight.copy_(torch.randn(program.classes, width, generator=draws))
        net = torch.nn.Sequential(layer, *[torch.nn.Softmax(1)] * twice)
        adam = torch.optim.Adam(net.parameters(), lr=program.learning_rate)
        loss = torch.nn.CrossEntropyLoss()
        for _ in range(epochs):
            order = torch.arange(n) if in_order else torch.randperm(n, generator=draws)
            for batch in order.split(program.batch_size):
                if program.rewritten or len(batch) == program.batch_size:
                    adam.zero_grad()
                    loss(net(F[batch]), y[batch]).backward()
                    adam.step()
        with torch.no_grad():
            assert found[2 * twice] == pytest.approx(loss(net(F), y).item(), rel=2e-5)
            said = 100 * (net(F).argmax(1) == y).double().mean().item()
            assert found[2 * twice + 1] == pytest.approx(said, abs=100.5 / n)


def test_features_without_slips_are_a_random_network():
    X = nh.GaussianMixture.preset("iid", p=30).sample(20, 0).X
    forward = published_programs._network(MATCH, DENSE, frozenset(), [40, 30, 20], 30, 5)
    net = nh.RandomMLP(30, [40, 30, 20], ["relu"] * 3, tau0=1.0, seed=5)
    ours = forward(torch.tensor(X, dtype=torch.float32))
    torch.testing.assert_close(ours, net.features(X).cpu(), rtol=1e-4, atol=1e-6)


def test_the_wrong_centre_is_that_of_the_rewrite():
    """Its activation, as sums of Heaviside steps, between the thresholds and beyond."""
    step, mean = nh.Quantized([-0.5, 1.0], [2.0, 0.0, 2.0]), 0.7
    a, b = 2.0 - mean, -mean
    x = np.array([-2.0, 0.0, 3.0])
    below, above = (x < -0.5).astype(float), (x > 1.0).astype(float)
    theirs = a * below + a * above + b * (below + above - 1)
    assert np.allclose(published_programs._turned(step, mean)(x) - mean, theirs)
    assert not np.allclose(step(x) - mean, theirs)


def test_what_is_reported():
    """Two readouts' losses and accuracies by epoch, for a patience of 2."""
    program = attrs.evolve(MATCH, patience=2)
    test = [[3, 50, 9, 0], [2, 60, 9, 0], [2.5, 61, 9, 0], [2.2, 62, 9, 0], [1, 70, 9, 0]]
    held = [[3, 0, 9, 0], [2, 0, 9, 0], [1, 0, 9, 0], [1.5, 0, 9, 0], [1.2, 0, 9, 0]]
    curves = {"test": test, "own": [[1, 1, 5 - k, 10 + k] for k in range(5)], "validation": held}
    stopped = published_programs.STOPPED
    assert reported(program, curves, frozenset({stopped})) == (4, 62.0)
    assert reported(program, curves, frozenset()) == (3, 61.0)
    both = frozenset({stopped, published_programs.OWN, published_programs.TWICE})
    assert reported(program, curves, both) == (5, 14.0)
    assert reported(attrs.evolve(program, patience=None), curves, frozenset()) == (5, 70.0)


def test_every_slip_is_made_and_mended_by_itself(whole):
    table = whole.table
    for name, program in PROGRAMS.items():
        ours = table[(table.program == name) & (table.network == PUBLISHED)]
        made = [set(slips.split("; ")) - {"none"} for slips in ours.slips.unique()]
        for slip in program.slips:
            assert {slip} in made and set(program.slips) - {slip} in made
        assert set(program.slips) in made and set() in made
        assert len(ours) == 2 * len(made) == 2 * 12
    assert table.accuracy.between(0, 100).all()
    # Better than chance, small as all is, where nothing is amiss.
    dense = table[(table.network == DENSE) & (table.slips == "none")].groupby("program").accuracy
    assert dense.mean()["performance_match.py"] > 30 and dense.mean()["performance_MNIST.py"] > 13


def test_effects_are_paired_and_judged():
    slip, other = MATCH.slips[:2]
    rest = "; ".join(sorted(set(MATCH.slips) - {slip}))
    drawn = {"none": [90.0, 95.0, 92.0], slip: [80.0, 85.5, 81.5], other: [90.0, 91.0, 96.0]}
    drawn |= {"; ".join(sorted(MATCH.slips)): [60.0, 50.0, 70.0], rest: [63.0, 53.0, 73.0]}
    rows = [
        ("performance_match.py", PUBLISHED, slips, seed, accuracy)
        for slips, values in drawn.items()
        for seed, accuracy in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["program", "network", "slips", "seed", "accuracy"])
    found = effects(table).set_index("slip")
    assert found.made[slip] == pytest.approx(10.0) and found.mended[slip] == pytest.approx(3.0)
    assert found.made_error[slip] == pytest.approx(0.5 / np.sqrt(3)) and found.made_resolved[slip]
    assert found.mended_error[slip] == 0 and found.mended_resolved[slip]
    assert found.made_resolved[other] is False and np.isnan(found.mended[other])


def test_an_interrupted_run_goes_on(whole, tmp_path, stop_at):
    calls = stop_at(published_programs, "readouts", 5)
    with pytest.raises(KeyboardInterrupt):
        SMOKE.run(tmp_path / "run")
    again = SMOKE.run(tmp_path / "run")
    # Of 4 + 2 + 1 and 8 + 2 + 1 trainings for each of two draws.
    assert len(calls) == 1 + 36 and again.table.equals(whole.table)
    again.write(tmp_path / "again")
    assert read_record(tmp_path / "again") == again


def test_settings_that_are_none():
    for change, message in [
        ({"programs": ["x.py"]}, "programs must be one of performance_match.py, "),
        ({"n_draws": 1}, "n_draws must be a whole number of at least 2"),
        ({"shrink": 0}, "shrink must be a whole number of at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            PublishedPrograms(data="digits", **change)
    for change, message in [
        ({"per_class": 1000}, "per_class needs 1025 images of a class"),
        ({"per_class_test": 60, "per_class": 5}, "per_class_test needs 60 images of a class"),
        ({"per_class": 10}, "per_class must make a batch of 128"),
    ]:
        with pytest.raises(ValueError, match=message):
            attrs.evolve(SMOKE, **change).check(load_pair("digits"))


def test_the_record_is_of_the_programs_own_settings():
    record = find_record("published_programs")
    assert preset_of(record.settings, PRESETS) == "paper"
    assert record.settings["epochs"] == 500 and record.settings["per_class"] == 5000
    found = effects(record.table).set_index(["program", "slip"])
    assert len(found) == 10 and found.notna().all().all()
