"""Matching: staircases against independent closed forms, proofs against brute force, the bars."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import differential_evolution, fsolve
from scipy.special import ndtr

import ntklc_helpers as nh
from ntklc_helpers.matching.bounds import linear_share_bound
from ntklc_helpers.matching.layerwise import network_shares
from ntklc_helpers.matching.match import MatchingError, match
from ntklc_helpers.matching.paper import sigma_q_solution, sigma_t_network, sigma_t_solutions
from ntklc_helpers.matching.staircases import Layer, Staircase, demanded_shares, fit_layer

RELU = nh.activation("relu")
NAMES = ("relu", "leaky_relu", "tanh", "erf", "gelu", "silu", "sigmoid", "softplus", "abs", "sin")
NAMES += ("cos", "quadratic")
TWO_SIDED = ("relu", "leaky_relu", "gelu", "silu", "softplus")
KERNEL = ("alpha1", "alpha2", "alpha3", "tau")


def named(name):
    return nh.activation(name, slope=0.1) if name == "leaky_relu" else nh.activation(name)


def random_staircase(rng, m, thresholds=None):
    thresholds = m - 1 if thresholds is None else thresholds
    pieces = np.concatenate([np.arange(m), rng.integers(0, m, thresholds + 1 - m)])
    return Staircase(np.sort(rng.normal(size=thresholds)), pieces, rng.normal(size=m))


# --- staircases and the recursion -------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.2, 4.0))
def test_moments_of_a_staircase_are_those_of_the_activation_it_becomes(seed, m, tau):
    rng = np.random.default_rng(seed)
    stair = random_staircase(rng, m, thresholds=m + 2)
    mean, c1, c2, cs, v = stair.moments()[0]
    g = nh.gaussian_moments(stair.activation(tau, 0.3, 2.0), tau)
    # v is E l² − (E l)²: rounding of the levels' squares, relative to v.
    close = {"rtol": 0, "atol": 100 * np.finfo(float).eps * (1 + np.max(stair.levels**2) / v)}
    np.testing.assert_allclose([g.mean, g.variance], [0.3, 2.0], **close)
    np.testing.assert_allclose(g.d1 * tau / np.sqrt(2.0), c1 / np.sqrt(v), **close)
    np.testing.assert_allclose(g.d2 * tau**2 / 2, c2 / np.sqrt(v), **close)
    np.testing.assert_allclose(g.norm_gain, cs / (2 * v), **close)


@pytest.mark.parametrize("uniform", [False, True])
def test_jacobian_of_the_shares(uniform):
    stair = random_staircase(np.random.default_rng(1), 4, thresholds=6)
    stair = Staircase(stair.x, stair.pieces, stair.levels, uniform)
    z, h = stair.unknowns, 1e-6
    steps = h * np.eye(len(z))
    numeric = [(stair.at(z + s).shares()[0] - stair.at(z - s).shares()[0]) / (2 * h) for s in steps]
    np.testing.assert_allclose(stair.shares()[1], np.transpose(numeric), atol=1e-8)


def test_scale_free_recursion_is_that_of_propagate():
    tau0 = 1.7
    acts = [named(name) for name in ("gelu", "cos", "relu", "sigmoid")]
    layers = nh.propagate(acts, tau0)
    scales = [tau0, *(layer.tau for layer in layers[:-1])]
    shares = [demanded_shares(nh.gaussian_moments(a, t)) for a, t in zip(acts, scales, strict=True)]
    last = layers[-1]
    wanted = np.append(last.alpha, last.beta[1:]) * tau0 ** np.array([2, 4, 4, 2, 4, 4])
    np.testing.assert_allclose(network_shares(shares), wanted / last.tau**2, rtol=1e-12)
    assert last.beta[0] == pytest.approx((len(acts) + 1) * last.alpha[0], rel=1e-13)


# --- the published scheme ---------------------------------------------------------------------


def test_sigma_t_of_relu_is_the_known_one():
    solution, mirror = sigma_t_solutions(nh.gaussian_moments(RELU, 1.0))
    s1, s2 = solution.thresholds
    assert (s1, s2, solution.levels[0]) == pytest.approx((0.99953, 2.21253, -2.40874), abs=1e-5)
    assert mirror.thresholds == pytest.approx((-s2, -s1), abs=1e-14)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(TWO_SIDED), st.floats(0.3, 3.0), st.floats(0.5, 2.0))
def test_sigma_t_matches_to_rounding_at_any_scale(name, tau, ratio):
    g = nh.gaussian_moments(named(name), tau)
    for solution in sigma_t_solutions(g, ratio * tau):
        new = nh.gaussian_moments(solution, ratio * tau)
        assert new.d1**2 == pytest.approx(g.d1**2, rel=1e-12)
        assert new.d2**2 == pytest.approx(g.d2**2, rel=1e-12)
        assert new.square_d2 == pytest.approx(g.square_d2, rel=1e-12)


@pytest.mark.parametrize("name, tau", [("relu", 2.0), ("silu", 1.0)])
def test_sigma_t_has_no_other_solution(name, tau):
    """Newton's method from many points finds the solution and its mirror image, nothing else."""
    g = nh.gaussian_moments(named(name), 1.0)
    known = [np.array(s.thresholds) for s in sigma_t_solutions(g, tau)]
    assert len(known) == 2

    def equations(z):
        # σ_T's own moments: where it has next to no variance, gaussian_moments refuses it.
        a, x = z[2], np.sort(z[:2]) / tau
        low, high = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        d1, d2 = a * (high - low) / tau, a * (x[1] * high - x[0] * low) / tau**2
        square_d2 = a * d2 * (2 * (ndtr(x[1]) - ndtr(x[0])) - 1)
        return [d1**2 - g.d1**2, d2**2 - g.d2**2, square_d2 - g.square_d2]

    rng, hits = np.random.default_rng(0), set()
    for _ in range(40):
        z, _, flag, _ = fsolve(equations, rng.normal(size=3) * [3, 3, 4], full_output=True)
        if flag == 1 and np.max(np.abs(equations(z))) < 1e-10 and abs(z[1] - z[0]) > 1e-3:
            gaps = [np.max(np.abs(np.sort(z[:2]) - k)) for k in known]
            assert min(gaps) < 1e-4
            hits.add(int(np.argmin(gaps)))
    assert hits == {0, 1}


def test_sigma_t_of_even_and_odd_activations():
    even = nh.gaussian_moments(nh.activation("abs"), 0.7)
    (solution,) = sigma_t_solutions(even)
    new = nh.gaussian_moments(solution, 0.7)
    assert abs(new.d1) < 1e-15
    assert (new.d2, new.square_d2) == pytest.approx((even.d2, even.square_d2), rel=1e-12)
    assert sigma_t_solutions(nh.gaussian_moments(nh.activation("tanh"), 1.0)) == ()


def test_sigma_q_matches_the_first_three_and_has_less_variance_than_sigma_t():
    g = nh.gaussian_moments(RELU, 1.0)
    new = nh.gaussian_moments(sigma_q_solution(RELU, g), 1.0)
    wanted = (g.d1**2, g.d2**2, g.square_d2)
    assert (new.d1**2, new.d2**2, new.square_d2) == pytest.approx(wanted, rel=1e-11)
    sigma_t = nh.gaussian_moments(sigma_t_solutions(g)[0], 1.0)
    assert g.variance < new.variance < 0.6 * sigma_t.variance


def test_published_scheme_leaves_a_multiple_of_the_identity():
    out = match([RELU] * 3, 1.0, "paper")
    assert not out.exact and out.proof.kind == "linear"
    assert max(v for k, v in out.relative_error.items() if k != "tau") < 1e-12
    assert [a.name for a in out.activations] == ["sigma_t", "sigma_t", "sigma_q"]
    mixture = nh.GaussianMixture.preset("mixed", p=60, n_classes=2)
    sample = mixture.sample(n=80, seed=0)
    stats = mixture.statistics(sample)
    out = match([RELU] * 3, stats.tau0, "paper")
    gap = (
        nh.ck_equivalent(sample.X, stats, out.compressed[-1]).to_dense()
        - nh.ck_equivalent(sample.X, stats, out.original[-1]).to_dense()
    )
    np.testing.assert_allclose(gap, out.ridge_shift * np.eye(80), atol=1e-12)
    assert out.ridge_shift > 5 * out.original[-1].tau ** 2


def test_the_published_script_leaves_its_residuals():
    """Its problem again, under a global search that knows nothing of the grid or of slopes."""
    out, solved = match([RELU] * 3, 1.0, "script"), match([RELU] * 3, 1.0, "paper")
    assert out.activations[:2] == solved.activations[:2]
    tau = out.compressed[1].tau
    g = nh.gaussian_moments(RELU, out.original[1].tau)
    target = np.array([g.d1**2, g.d2**2, g.square_d2, g.variance])
    height = np.hypot(g.square_d2 / g.d2, 2 * np.sqrt(g.variance))

    def cost_of(step):
        h = nh.gaussian_moments(step, tau)
        return np.sum((np.array([h.d1**2, h.d2**2, h.square_d2, h.variance]) - target) ** 2)

    def cost(z):
        r = tau * np.array([z[0], z[0] + z[1], z[0] + z[1] + z[2], z[0] + 2 * z[1] + z[2]])
        return cost_of(nh.sigma_q(*r, height, height))

    box = [(-4.0, 4.0), (1e-6, 4.0), (1e-6, 8.0)]
    search = differential_evolution(cost, box, seed=0, popsize=8, maxiter=60)
    assert cost_of(out.activations[-1]) == pytest.approx(0.9467810, abs=1e-6)
    assert cost_of(out.activations[-1]) <= search.fun + 1e-9
    # An even step: its linear part is gone, and with it all that the data's Gram matrix was.
    low, high = out.activations[-1].thresholds
    assert -low == pytest.approx(high, abs=1e-6) and high == pytest.approx(0.75, abs=1e-3)
    assert abs(out.compressed[-1].alpha[0]) < 1e-15 and out.ridge_shift == np.inf
    assert not out.ratios_kept and solved.ratios_kept and not out.exact
    assert "no sigma_q" in match(["tanh"], 1.0, "script").reason
    with pytest.raises(ValueError, match='levels="script" fixes objective and grid'):
        match([RELU], 1.0, "script", objective="ridge")


def test_a_ridge_is_one_only_where_ratios_are_kept():
    """There the compressed equivalent, rescaled, is the original's and a multiple of the identity."""
    sample = nh.GaussianMixture.preset("mixed", p=60, n_classes=2).sample(n=80, seed=0)
    stats = nh.estimate_statistics(sample.X, sample.labels)
    for levels, objective in (
        (2, "ridge"),
        (3, "ridge"),
        (2, "exact"),
        (8, "exact"),
        (4, "lloyd-max"),
    ):
        out = match([RELU] * 2, stats.tau0, levels, objective)
        old, new = (
            nh.ck_equivalent(sample.X, stats, c[-1]).to_dense()
            for c in (out.original, out.compressed)
        )
        left = out.original[-1].alpha[0] / out.compressed[-1].alpha[0] * new - old
        off = np.abs(left - out.ridge_shift * np.eye(80)).max()
        assert (
            (off < 1e-9 * out.original[-1].tau ** 2)
            == out.ratios_kept
            == (objective != "lloyd-max" and (levels, objective) != (2, "exact"))
        )


def test_published_scheme_says_what_it_lacks():
    out = match([nh.activation("tanh")] * 2, 1.0, "paper")
    assert not out.exact and "no sigma_t" in out.reason


def test_published_scheme_of_deep_networks_says_where_float64_ends():
    """Scales square from layer to layer: at the sixth σ_T's own curve has no digits left."""
    out = match([RELU] * 9, 1.0, "paper")
    assert not out.exact and "no sigma_t with the d1², d2² and (σ²)'' of layer 6" in out.reason
    assert np.isfinite([out.compressed[-1].tau, *out.relative_error.values()]).all()
    scales = [1.0, *(layer.tau for layer in out.original)]
    moments = [nh.gaussian_moments(RELU, tau) for tau in scales]
    assert len(sigma_t_network(moments[:3])) == 3 and sigma_t_network(moments) == []


@pytest.mark.parametrize("tau", [1e2, 1e9, 1e200])
def test_sigma_t_at_an_absurd_scale_is_none_at_all(tau):
    g = nh.gaussian_moments(RELU, 1.0)
    assert sigma_t_solutions(g, tau) == ()
    with pytest.raises(ValueError, match="tau must be a positive"):
        sigma_t_solutions(g, -tau)


# --- the bars ---------------------------------------------------------------------------------


def test_relu_network_is_exact_with_few_levels():
    for m, longest in ((12, 12), (8, 15), (6, 11)):
        out = match([RELU] * 3, 1.0, m)
        assert out.exact and max(out.relative_error.values()) < 1e-9
        assert all(len(set(a.levels)) <= m and len(a.levels) <= longest for a in out.activations)


@pytest.mark.parametrize("m", [8, 32])
def test_uniform_levels_are_int8_codes_times_a_step(m):
    out = match([RELU] * 3, 1.0, m, grid="uniform")
    assert out.exact and max(out.relative_error.values()) < 1e-9
    for a in out.activations:
        levels = np.unique(a.levels)
        codes = levels / np.diff(levels).min()
        assert len(levels) <= m
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-9)
        assert codes.min() >= -128.5 and codes.max() <= 127.5


@pytest.mark.parametrize("name", ["silu", "abs", "cos"])
@pytest.mark.parametrize("grid", ["free", "uniform"])
def test_with_up_to_256_levels_there_are_no_more_pieces(name, grid):
    """A folded activation has two pieces a level and more; a compressed layer takes 256."""
    out = match([named(name)], 1.0, 256, grid=grid)
    assert out.exact
    assert len(out.activations[0].levels) <= 256
    many = nh.Quantized(np.arange(300.0), np.arange(301) % 2)
    assert len(match([many], 100.0, 8).activations[0].levels) <= 256


def test_deep_networks_take_seconds():
    start = time.process_time()
    assert match([RELU] * 50, 1.0, 8).exact
    out = match([RELU] * 9, 1.0, 3, "ridge")
    assert max(out.relative_error[f"alpha{i}"] for i in (1, 2, 3)) < 1e-9 and out.ridge_shift > 0
    assert time.process_time() - start < 60


def test_matchings_are_compared_by_value():
    first, same, other = (match([RELU], 1.0, m) for m in (6, 6, 8))
    assert first == same and first != other and first != "relu"


def test_quadratic_frontier_is_for_everybody_and_wants_shares():
    assert nh.matching.quadratic_frontier([0.0, 0.99], 2).tolist()[1] == -np.inf
    for shares, m in (([1.5], 4), (0.5, 4), ([0.5], 33), (["a"], 4)):
        with pytest.raises(ValueError, match=r"(linear_share|m) must"):
            nh.matching.quadratic_frontier(shares, m)


@pytest.mark.parametrize("m", [0, -1, 2.5, "3", None, True, [3]])
def test_linear_share_bound_wants_a_whole_number(m):
    with pytest.raises(ValueError, match="m must be a whole number of at least 1"):
        linear_share_bound(m)


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_levels_match_to_a_percent_or_prove_they_cannot(name):
    for tau0, depth in ((0.3, 1), (1.0, 2), (3.0, 2)):
        out = match([named(name)] * depth, tau0, 16)
        worst = max(out.relative_error.values())
        assert worst < 1e-2 or out.proof_all is not None
        if out.proof is None:
            assert out.exact


def test_layers_make_up_for_each_other():
    """Not every layer can be matched with 8 levels on its own; the three together can."""
    silu = nh.activation("silu")
    out = match([silu] * 3, 3.0, 8)
    alone = [
        fit_layer(Layer(silu, nh.gaussian_moments(silu, t), 8))[1]
        for t in (3.0, out.original[0].tau, out.original[1].tau)
    ]
    assert max(alone) > 1e-3 and out.exact
    first = nh.gaussian_moments(out.activations[0], 3.0)
    assert abs(first.linear_share - nh.gaussian_moments(silu, 3.0).linear_share) > 1e-3


def test_equivalents_of_the_exact_match_are_equal():
    mixture = nh.GaussianMixture.preset("mixed", p=100, n_classes=2)
    sample = mixture.sample(n=150, seed=1)
    stats = mixture.statistics(sample)
    out = match([RELU] * 3, stats.tau0, 12)
    old, new = (
        nh.ck_equivalent(sample.X, stats, c[-1]).to_dense() for c in (out.original, out.compressed)
    )
    assert np.linalg.norm(old - new, 2) < 1e-8


def test_free_levels_leave_no_more_ridge_than_a_uniform_grid():
    cases = [
        ("sigmoid", 1, 8),
        ("tanh", 1, 4),
        ("silu", 1, 4),
        ("leaky_relu", 2, 3),
        ("relu", 2, 4),
    ]
    for name, depth, m in cases:
        free, grid = (
            match([named(name)] * depth, 1.0, m, "ridge", grid) for grid in ("free", "uniform")
        )
        assert abs(free.ridge_shift) <= abs(grid.ridge_shift) + 1e-12
        assert max(free.relative_error[f"alpha{i}"] for i in (1, 2, 3)) < 1e-9


def test_largest_error_is_made_small_where_there_is_no_root():
    """Least squares would leave one error at 0.1 beside others near 0; these are even."""
    out = match([RELU] * 3, 1.0, 4)
    errors = [out.relative_error[k] for k in ("alpha1", "alpha2", "alpha3")]
    assert not out.exact and out.proof is None
    assert min(errors) > 0.8 * max(errors)


def test_ridge_keeps_the_ratios_at_less_identity_than_the_published_scheme():
    published = match([RELU] * 2, 1.0, "paper").ridge_shift
    shifts = []
    for m in (2, 3, 4):
        out = match([RELU] * 2, 1.0, m, objective="ridge")
        assert max(out.relative_error[f"alpha{i}"] for i in (1, 2, 3)) < 1e-9
        assert max(out.relative_error[f"beta{i}"] for i in (1, 2, 3)) < 1e-9
        gap = out.compressed[-1].tau ** 2 - out.original[-1].tau ** 2
        assert out.ridge_shift == pytest.approx(gap, rel=1e-6)
        shifts.append(out.ridge_shift)
    assert shifts[0] > shifts[1] > shifts[2] > 0
    # σ_T and σ_Q have two and three levels: three levels of any kind do better.
    assert published > shifts[1]
    assert abs(match([RELU] * 2, 1.0, 8, objective="ridge").ridge_shift) < 1e-12


@pytest.mark.parametrize(
    "name, levels, grid, objective",
    [
        ("relu", 12, "free", "exact"),
        ("relu", 16, "uniform", "exact"),
        ("relu", 2, "free", "exact"),
        ("silu", 4, "free", "exact"),
        ("gelu", 16, "free", "exact"),
        ("relu", 3, "free", "ridge"),
        ("silu", 6, "uniform", "ridge"),
    ],
)
def test_same_input_same_output_to_the_last_digits(name, levels, grid, objective):
    """Last digits in τ₀ move a match, exact or not, by rounding only: no step hangs on them."""
    first = match([named(name)] * 2, 1.0, levels, objective, grid)
    second = match([named(name)] * 2, 1.0 - 1e-15, levels, objective, grid)
    for a, b in zip(first.activations, second.activations, strict=True):
        np.testing.assert_allclose(a.thresholds, b.thresholds, atol=1e-9)
        np.testing.assert_allclose(a.levels, b.levels, atol=1e-9)


# Inexact matches all, whose fits end on flat ground, or at a fold where two roots meet.
FLAT = [
    ("cos", 1, 4, "exact", "uniform"),
    ("sigmoid", 1, 8, "ridge", "free"),
    ("tanh", 1, 6, "ridge", "free"),
    ("tanh", 2, 4, "ridge", "uniform"),
    ("sin", 1, 4, "ridge", "free"),
]
EMULATED = """
import json, sys
import ntklc_helpers as nh
out = []
for name, depth, levels, objective, grid in json.loads(sys.argv[1]):
    found = nh.match([nh.activation(name)] * depth, 1.0, levels, objective, grid)
    out.append([[*a.thresholds, *a.levels] for a in found.activations])
print(json.dumps(out))
"""


def test_another_processor_finds_the_same_staircases():
    """Other kernels of BLAS and numpy sum in another order; the answers agree to 1e-9."""
    features = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    emulated = {
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": " ".join(features),
        "OMP_NUM_THREADS": "1",
    }
    running = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", EMULATED, json.dumps(FLAT)],
        env=os.environ | emulated,
        stdout=subprocess.PIPE,
    )
    here = []
    for name, depth, levels, objective, grid in FLAT:
        found = match([named(name)] * depth, 1.0, levels, objective, grid)
        assert not found.exact or objective == "ridge"
        here.append([[*a.thresholds, *a.levels] for a in found.activations])
    there = json.loads(running.communicate()[0])
    assert running.returncode == 0
    for case, ours, theirs in zip(FLAT, here, there, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=str(case))


def test_an_activation_with_few_levels_is_its_own_match():
    out = match([nh.activation("sign"), nh.sigma_t(-0.3, 1.1, 0.7)], 1.3, 2)
    assert out.exact
    assert out.activations[0].thresholds == (0.0,)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activations": []}, "activations must name"),
        ({"activations": ["relux"]}, "unknown activation"),
        ({"activations": RELU}, "activations must name"),
        ({"tau0": 0.0}, "tau0 must be"),
        ({"tau0": float("inf")}, "tau0 must be"),
        ({"levels": 1}, "levels must be a whole number of at least 2"),
        ({"levels": 2.5}, "levels"),
        ({"levels": [8, 8, 8]}, "levels must have 2 entries, as many as activations"),
        ({"levels": "best"}, "levels must be one of paper, script"),
        ({"levels": None}, "levels must be a whole number"),
        ({"levels": [4, "4"]}, "levels must be a whole number"),
        ({"levels": []}, "levels must have 2 entries"),
        ({"objective": "both"}, "objective must be one of"),
        ({"objective": ["exact"]}, "objective must be one of"),
        ({"grid": "log"}, "grid must be one of"),
        ({"levels": 300, "grid": "uniform"}, "levels must be a whole number from 2 to 256"),
        ({"levels": "paper", "grid": "uniform"}, "fixes objective and grid"),
        ({"activations": [nh.activation(lambda x: (x**2).exp(), name="blowup")]}, "blowup"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    given_arguments = {"activations": [RELU] * 2, "tau0": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        match(**given_arguments)


def test_strict_raises_with_the_certificate():
    with pytest.raises(MatchingError, match="exceeds the most that 2 levels can hold"):
        match([RELU] * 2, 1.0, 2, strict=True)
    assert match([RELU] * 2, 1.0, 4, objective="ridge", strict=True).ridge_shift > 0
