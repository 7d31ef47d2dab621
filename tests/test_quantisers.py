"""Lloyd–Max quantisers: against Max's tables, the conditions of an optimum, and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.matching.bounds import binned, optimal_partitions
from ntklc_helpers.theory.gaussian import gaussian_panels

# J. Max, IRE Trans. Inf. Theory 6 (1960), Tables I and II: mean squared error at m levels.
FREE = {2: 0.3634, 3: 0.1902, 4: 0.1175, 8: 0.03454, 16: 0.009497, 32: 0.002499}
UNIFORM = {2: 0.3634, 3: 0.1902, 4: 0.1188, 8: 0.03744, 16: 0.01154, 32: 0.00349}
NAMES = ("linear", "relu", "leaky_relu", "elu", "relu6", "tanh", "erf", "sigmoid", "softplus")
NAMES += ("gelu", "silu", "abs", "quadratic", "hermite3", "gaussian", "sin", "cos")


def lloyd_max(act, tau, m, grid="free"):
    return nh.match([act], tau, m, objective="lloyd-max", grid=grid).activations[0]


def measured(act, tau, step):
    """Weights, values and what they are quantised to, on a rule of its own."""
    xi, weight = gaussian_panels([*act.breakpoints, *step.thresholds], tau, 5, offset=0.3)
    return weight, act(tau * xi), step(tau * xi)


def distortion(act, tau, step):
    weight, value, level = measured(act, tau, step)
    return weight @ (value - level) ** 2


@pytest.mark.parametrize("grid, table", [("free", FREE), ("uniform", UNIFORM)])
@pytest.mark.parametrize("m", FREE)
def test_max_found_the_same_for_a_gaussian(m, grid, table):
    found = lloyd_max(nh.activation("linear"), 1.0, m, grid)
    error = distortion(nh.activation("linear"), 1.0, found)
    # He gives four digits, and his own last ones are off by up to 0.3% at many levels.
    assert error == pytest.approx(table[m], rel=3e-3, abs=5e-5)
    if grid == "free":
        assert error == pytest.approx(1 - nh.linear_share_bound(m), abs=1e-13)
    else:
        assert np.ptp(np.diff(found.levels)) < 1e-13


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0.2, 3.0), st.integers(2, 24), st.booleans())
def test_conditions_of_an_optimum(name, tau, m, uniform):
    """Thresholds midway between levels; levels the means of their cells, or the best line."""
    act = nh.activation(name)
    found = lloyd_max(act, tau, m, "uniform" if uniform else "free")
    weight, value, level = measured(act, tau, found)
    scale = np.sqrt(nh.gaussian_moments(act, tau).variance)
    assert len(set(found.levels)) <= m and len(found.levels) <= 256
    # Past 256 pieces those that are next to never met are left out: what is beside them goes to
    # another level than the nearest, and the means are moved.
    levels, place = np.unique(found.levels, return_inverse=True)
    next_to = abs(np.diff(place)) == 1
    cuts = np.array(found.thresholds)
    middle = (levels[place[1:]] + levels[place[:-1]]) / 2
    np.testing.assert_allclose(act(cuts[next_to]), middle[next_to], atol=1e-10 * scale)
    nearest = abs(value[:, None] - levels).min(axis=1)
    elsewhere = weight[abs(value - level) > nearest + 1e-9 * scale].sum()
    assert elsewhere < 1e-4
    if elsewhere > 0:
        return
    if uniform:
        left = weight * (value - level)
        assert abs(left.sum()) < 1e-10 * scale and abs(left @ level) < 1e-10 * scale**2
        steps = np.diff(np.unique(found.levels))
        np.testing.assert_allclose(steps / steps.min(), np.rint(steps / steps.min()), atol=1e-8)
        return
    for one in set(found.levels):
        here = level == one
        mean = weight[here] @ value[here] / weight[here].sum()
        assert mean == pytest.approx(one, abs=1e-10 * scale)
    # What follows from the second condition: the error and the quantised are orthogonal.
    g, h = nh.gaussian_moments(act, tau), nh.gaussian_moments(found, tau)
    assert h.mean == pytest.approx(g.mean, abs=1e-11 * max(scale, abs(g.mean)))
    error = weight @ (value - level) ** 2
    assert h.variance == pytest.approx(g.variance - error, abs=1e-11 * scale**2)


def lloyds_algorithm(value, weight, levels, steps=200):
    for _ in range(steps):
        cell = np.searchsorted((levels[1:] + levels[:-1]) / 2, value)
        mass = np.bincount(cell, weight, len(levels))
        moment = np.bincount(cell, weight * value, len(levels))
        levels = np.sort(np.where(mass > 0, moment / np.maximum(mass, 1e-300), levels))
    cell = np.searchsorted((levels[1:] + levels[:-1]) / 2, value)
    return weight @ (value - levels[cell]) ** 2


@pytest.mark.parametrize(
    "name, tau, m", [("relu", 1.0, 4), ("tanh", 3.0, 3), ("sin", 3.0, 5), ("hermite3", 1.0, 6)]
)
def test_no_random_start_does_better(name, tau, m):
    """Lloyd's algorithm from twenty starts; where the law has two humps it has several ends."""
    act, rng = nh.activation(name), np.random.default_rng(0)
    xi, weight = gaussian_panels(act.breakpoints, tau, 6)
    xi, weight = xi[abs(xi) < 7], weight[abs(xi) < 7]
    value = act(tau * xi)
    ours = distortion(act, tau, lloyd_max(act, tau, m))
    draws = rng.choice(value, (20, m), p=weight / weight.sum())
    theirs = [lloyds_algorithm(value, weight, np.sort(levels)) for levels in draws]
    assert ours < min(theirs) * (1 + 1e-3)
    assert name != "hermite3" or max(theirs) > 1.05 * ours


@pytest.mark.parametrize("name, tau, m", [("relu", 1.0, 3), ("tanh", 3.0, 6), ("hermite3", 1.0, 5)])
def test_no_other_uniform_grid_does_better(name, tau, m):
    act = nh.activation(name)
    xi, weight = gaussian_panels(act.breakpoints, tau, 4)
    xi, weight = xi[abs(xi) < 7], weight[abs(xi) < 7]
    value = act(tau * xi)
    lowest, highest = act(tau * np.array([-6.0, 6.0]))
    ours, steps = distortion(act, tau, lloyd_max(act, tau, m, "uniform")), []
    for low in np.linspace(lowest, highest, 100):
        for step in np.linspace(0.02, 1, 50) * (highest - low) / (m - 1):
            levels = low + step * np.arange(m)
            code = np.clip(np.round((value - low) / max(step, 1e-9)), 0, m - 1).astype(int)
            steps.append(weight @ (value - levels[code]) ** 2)
    assert ours < min(steps) * (1 + 1e-4)
    assert min(steps) < ours * 1.3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(5, 9))
def test_partitions_are_the_best_of_all(seed, most, n):
    from itertools import combinations

    rng = np.random.default_rng(seed)
    value, mass = rng.normal(size=(n, 1)), rng.uniform(0.1, 1.0, (n, 1))
    rows = binned(value, mass, 10_000)
    errors, means = optimal_partitions(rows, most)
    order = np.argsort(value[:, 0])
    y, w = value[order, 0], mass[order, 0]

    def cost(cuts):
        parts = np.split(np.arange(n), cuts)
        centres = [np.average(y[part], weights=w[part]) for part in parts]
        spread = [w[p] @ (y[p] - c) ** 2 for p, c in zip(parts, centres, strict=True)]
        return sum(spread), centres

    for m in range(1, most + 1):
        best = min((cost(cuts) for cuts in combinations(range(1, n), m - 1)), key=lambda x: x[0])
        assert errors[m - 1] == pytest.approx(best[0], abs=1e-12)
    np.testing.assert_allclose(means, best[1], atol=1e-12)


def test_each_layer_is_quantised_at_the_scale_the_quantised_layers_leave():
    acts = [nh.activation(name) for name in ("gelu", "tanh", "sigmoid")]
    found = nh.match(acts, 1.3, [3, 4, 5], objective="lloyd-max")
    scale = 1.3
    for act, m, step, layer in zip(
        acts, (3, 4, 5), found.activations, found.compressed, strict=True
    ):
        alone = lloyd_max(act, scale, m)
        np.testing.assert_allclose(step.thresholds, alone.thresholds, atol=1e-12)
        np.testing.assert_allclose(step.levels, alone.levels, atol=1e-12)
        # An optimum has less variance than what it stands for, by its error.
        lost = distortion(act, scale, step)
        variance = nh.gaussian_moments(act, scale).variance
        assert layer.tau**2 == pytest.approx(variance - lost, rel=1e-10)
        scale = layer.tau
    assert scale < found.original[-1].tau


def test_homogeneous_layers_have_one_shape():
    one, two = nh.match(["relu"] * 2, 2.0, 4, objective="lloyd-max").activations
    ratio = two.thresholds[0] / one.thresholds[0]
    np.testing.assert_allclose(two.thresholds, np.multiply(one.thresholds, ratio), rtol=1e-10)
    np.testing.assert_allclose(two.levels, np.multiply(one.levels, ratio), rtol=1e-10)


def test_a_quantiser_of_a_staircase_is_itself_where_it_has_levels_enough():
    steps = nh.Quantized((-0.5, 0.2, 1.0), (0.0, 1.0, 0.0, 3.0))
    for m in (3, 7):
        found = lloyd_max(steps, 1.0, m)
        np.testing.assert_allclose(found.thresholds, steps.thresholds, atol=1e-13)
        np.testing.assert_allclose(found.levels, steps.levels, atol=1e-13)
    low, high = np.unique(lloyd_max(steps, 1.0, 2).levels)
    weight, value, _ = measured(steps, 1.0, steps)
    few = value < 2
    mean = weight[few] @ value[few] / weight[few].sum()
    assert (low, high) == pytest.approx((mean, 3.0), rel=1e-12)


@pytest.mark.parametrize("name, tau, m", [("cos", 3.0, 64), ("gelu", 1.0, 256), ("sin", 30.0, 2)])
def test_more_pieces_than_a_layer_takes_are_fewer_levels(name, tau, m):
    found = lloyd_max(nh.activation(name), tau, m)
    assert len(found.levels) <= 256 and 2 <= len(set(found.levels)) < max(m, 3)


def test_its_report_is_that_of_a_matching():
    out = nh.match(["relu"] * 3, 1.0, 2, objective="lloyd-max")
    assert out.objective == "lloyd-max" and not out.exact and out.proof.kind == "linear"
    # The most that two levels can hold of a Gaussian they do not hold of what ReLU makes of it,
    # and yet more than the matched ones do.
    shares = {}
    for objective in ("exact", "lloyd-max"):
        found = nh.match(["relu"] * 3, 1.0, 2, objective=objective)
        last = found.compressed[-1]
        shares[objective] = last.alpha[0] / last.tau**2
    assert shares["exact"] < shares["lloyd-max"] < nh.linear_share_bound(2) ** 3
    many = nh.match(["relu"] * 3, 1.0, 8, objective="lloyd-max")
    assert many.proof is None and "not asked for; best found: " in many.certificate
    assert nh.match(["relu"], 1.0, 8, objective="lloyd-max", strict=True).objective == "lloyd-max"


def test_a_network_runs_on_it():
    digits = nh.load_digits()
    X = nh.normalize(digits.X)
    net = nh.RandomMLP(64, [90] * 3, ["relu"] * 3)
    for grid in ("free", "uniform"):
        found = nh.match(net.activations, 1.0, 4, objective="lloyd-max", grid=grid)
        small = nh.compress(net, X, levels=found, sparsity=0.5, seed=3)
        on_integers, by_torch = small.features(X), small.features(X, device="cpu")
        different = np.abs(on_integers - by_torch).max(axis=1) > 1e-5
        assert different.mean() < 0.01
        np.testing.assert_allclose(by_torch[~different], on_integers[~different], atol=1e-6)
        assert len(np.unique(np.round(on_integers, 9))) == 4
        assert small.fit_readout(X, digits.labels).score(X, digits.labels) > 0.8
        nets = nh.RandomMLP(64, [3000] * 3, found.activations, weights="ternary", sparsity=0.5)
        norm = (nets.features(X).double().norm(dim=1) ** 2).mean()
        assert float(norm) == pytest.approx(found.compressed[-1].tau ** 2, rel=0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"levels": 1}, "levels must be a whole number from 2 to 256, got 1"),
        ({"levels": 257}, "levels must be a whole number from 2 to 256, got 257"),
        ({"levels": [4, 4]}, "levels must have 1 entries"),
        ({"levels": "paper"}, "fixes objective and grid"),
        ({"objective": "lloyd"}, "objective must be one of exact, ridge, ntk, lloyd-max"),
        ({"tau0": -1.0}, "tau0 must be a positive"),
        ({"activations": [nh.Quantized((9.0,), (0.0, 1.0))]}, "has one value where its input"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    given_arguments = {"activations": ["relu"], "tau0": 1.0, "objective": "lloyd-max"}
    with pytest.raises(ValueError, match=message):
        nh.match(**(given_arguments | arguments))
