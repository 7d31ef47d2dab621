"""Allocation: what is priced is what is written and counted; the search beside brute force."""

from itertools import product

import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers.compression import Readout, allocation_front, pack_ternary, packed_bits
from ntklc_helpers.compression.allocate import Price
from ntklc_helpers.theory.forecast import Forecaster

pytestmark = pytest.mark.usefixtures("fewer_neurons")

DIGITS = nh.load_digits(classes=(1, 3, 8), n=90, seed=0)
X, Y = nh.normalize(DIGITS.X), DIGITS.labels
RELUS = ["relu"] * 2
GRID = {"widths": (10, 40), "levels": (2, 4), "sparsities": (0.0, 0.9)}
RIDGES = 10.0 ** np.arange(-5, -0.9, 0.5)


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.9, 0.97, 0.999])
def test_bits_of_packed_weights(sparsity):
    matrix = nh.compression.TernaryMatrix.from_signs(
        nh.theory.draw_ternary((600, 700), sparsity, seed=3)
    )
    rarer = min(sparsity, 1 - sparsity) * matrix.size
    off = 8 * pack_ternary(matrix).nbytes / matrix.size / packed_bits(sparsity) - 1
    assert abs(off) < 4 * max(rarer, 1) ** -0.5 if rarer else off == 0
    assert packed_bits(sparsity) >= nh.compression.ternary_entropy(sparsity) - 1e-12 or not sparsity


@pytest.mark.parametrize("classes", [np.arange(10), np.array(["no", "perhaps", "yes"])])
@pytest.mark.parametrize(
    ("widths", "levels", "sparsity"),
    [((40, 30), 2, 0.5), ((300, 120), 4, 0.9), ((60, 500, 20), 2, 0.97), ((400,), 3, 0.0)],
)
def test_what_is_priced_is_what_is_written_and_counted(widths, levels, sparsity, classes):
    counts = (levels,) * len(widths)
    steps = nh.match(["relu"] * len(widths), 1.0, levels, "lloyd-max")
    net = nh.compress(nh.RandomMLP(64, widths, ["relu"] * len(widths)), X, steps, sparsity)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((widths[-1], len(classes)))
    net.readout = Readout.from_weights(weights, weights[0], classes)

    def cost(counted):
        return float(Price(64, classes).cost(counted, counts, sparsity, [widths])[0])

    assert len(net.to_bytes("packed")) == pytest.approx(cost("packed"), rel=0.025)
    assert len(net.to_bytes("seed")) == pytest.approx(cost("seed"), abs=100)
    matrices = [layer.weights for layer in net.layers]
    operations = sum(T.nonzeros for T in matrices) + weights.size
    spread = np.sqrt(sum(T.size for T in matrices) * sparsity * (1 - sparsity))
    assert abs(operations - cost("operations")) <= 4 * spread


@pytest.fixture(scope="module")
def brute():
    """The error that is forecast of every configuration at its best ridge, and what it costs."""
    price, found = Price(64, np.unique(Y)), []
    for m, sparsity in product(GRID["levels"], GRID["sparsities"]):
        steps = nh.match(RELUS, 1.0, m, "lloyd-max").activations
        made = Forecaster.of(X, Y, steps, sparsity=sparsity, tau0=1.0)
        for widths in product(GRID["widths"], repeat=2):
            error = min(made(widths, ridge).error for ridge in RIDGES)
            costs = {
                counted: price.cost(counted, (m, m), sparsity, [widths])[0]
                for counted in ("packed", "seed", "operations")
            }
            found.append((error, costs))
    return found


@pytest.mark.parametrize("counted", ["packed", "seed", "operations"])
def test_the_search_finds_what_all_forecasts_say(brute, counted):
    costs = sorted(cost[counted] for _, cost in brute)
    budgets = [costs[0] + 1, np.median(costs), costs[-1] + 1]
    front = allocation_front(X, Y, RELUS, budgets[::-1], counted, **GRID)[::-1]
    for budget, one in zip(budgets, front, strict=True):
        least = min(error for error, cost in brute if cost[counted] <= budget)
        assert one.copy.error == pytest.approx(least, rel=1e-6)
        spent = {"operations": one.operations}.get(counted, one.bytes)
        assert spent <= budget + 1
    errors = [one.copy.error for one in front]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_one_budget_is_one_of_the_front_and_its_forecast_that_of_the_network():
    how = {"levels": (4,), "sparsities": (0.9,), "widths": (10, 40)}
    one = nh.allocate(X, Y, RELUS, 6000, **how)
    (same,) = allocation_front(X, Y, RELUS, [6000], **how)
    assert (one.widths, one.bytes, one.copy) == (same.widths, same.bytes, same.copy)
    known = nh.forecast(
        X, Y, one.matching.activations, one.widths, one.ridge, sparsity=0.9, tau0=1.0
    )
    assert one.forecast.accuracy == pytest.approx(known.accuracy, abs=1e-6)
    small = one.network(seed=3).fit_readout(X, Y)
    assert (small.p, small.widths) == (64, one.widths)
    assert one.levels == tuple(len(set(layer.activation.levels)) for layer in small.layers)
    assert len(small.to_bytes("packed")) <= 1.02 * 6000


def test_a_seed_pays_for_the_readout_alone():
    one = nh.allocate(X, Y, RELUS, 3000, "seed", **GRID)
    assert one.widths[0] == 40 and one.bytes <= 3000


def test_more_samples_make_the_same_network_narrower_for_its_readout():
    """On a copy of the task, widths are in the proportion of the samples."""
    data = nh.load_digits(n=600, seed=1)
    how = {"widths": (40,), "levels": (4,), "sparsities": (0.5,)}
    few, many = (
        nh.allocate(nh.normalize(data.X), data.labels, ["relu"], 1e5, n_train=n, **how).copy
        for n in (300, 600)
    )
    assert few.shrinkage[0] > many.shrinkage[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 100}, r"budget must be at least \d{4}, .* got 100"),
        ({"budget": -1}, "budget must be a positive finite number"),
        ({"counted": "bits"}, "counted must be one of packed, seed, operations"),
        ({"widths": ()}, "widths must have at least one candidate"),
        ({"levels": []}, "levels must have at least one candidate"),
        ({"sparsities": ()}, "sparsities must have at least one candidate"),
        ({"widths": (0,)}, "widths must be a whole number of at least 1"),
        ({"levels": (1,)}, "levels must be a whole number of at least 2"),
        ({"levels": ((2, 2, 2),)}, "levels must have 2 entries, as many as activations"),
        ({"sparsities": (1.0,)}, r"sparsities must be in \[0, 1\)"),
        ({"n_train": 2}, "not more than the 2 samples to train on; it names 3"),
        ({"y": np.zeros(90)}, "y must name at least 2 classes"),
    ],
)
def test_bad_input_is_one_error_that_names_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        nh.allocate(**({"X": X, "y": Y, "activations": RELUS, "budget": 6000.0} | change))


def test_the_least_that_a_budget_must_be_is_enough():
    with pytest.raises(ValueError, match="at least") as refused:
        nh.allocate(X, Y, ["relu"], 10, "operations", **GRID)
    least = int(str(refused.value).split("at least ")[1].split(",")[0])
    assert nh.allocate(X, Y, ["relu"], least, "operations", **GRID).operations == least
