"""What m levels cannot do: bounds against brute force, and proofs against what was found."""

import numpy as np
import pytest
from scipy.optimize import minimize

import ntklc_helpers as nh
from ntklc_helpers.bounds import (
    ANGLES,
    least_gain,
    quadratic_frontier,
    quadratic_share_bound,
    reach,
)
from ntklc_helpers.certificates import certify, certify_all, joint_bound, least_norm
from ntklc_helpers.chains import _affine, _contributions, _directions, _lines, _room, refuted
from ntklc_helpers.fitting import fit_layer, fit_network, network_shares
from ntklc_helpers.matching import match
from ntklc_helpers.quantizers import Staircase, demanded_shares, linear_share_bound

RELU = nh.activation("relu")


def named(name):
    return nh.activation(name, slope=0.1) if name == "leaky_relu" else nh.activation(name)


def shares_of(names, tau0):
    acts = [named(name) for name in names]
    scales = [tau0, *(layer.tau for layer in nh.propagate(acts, tau0)[:-1])]
    moments = [nh.gaussian_moments(a, t) for a, t in zip(acts, scales, strict=True)]
    return np.stack([demanded_shares(g) for g in moments])


def random_staircase(rng, m, thresholds):
    pieces = np.concatenate([np.arange(m), rng.integers(0, m, thresholds + 1 - m)])
    return Staircase(np.sort(rng.normal(size=thresholds)), pieces, rng.normal(size=m))


def test_linear_share_bound_is_the_published_lloyd_max_table():
    # Distortions of the optimal Gaussian quantiser, Max (1960), table I, to its four digits.
    for m, distortion in {2: 1 - 2 / np.pi, 4: 0.1175, 8: 0.03454, 16: 0.009497}.items():
        assert 1 - linear_share_bound(m) == pytest.approx(distortion, abs=6e-5)
    # Panter and Dite: m² (1 − R) → π√3/2, up to a relative error of order 1/m.
    assert 400**2 * (1 - linear_share_bound(400)) == pytest.approx(np.pi * 3**0.5 / 2, rel=6e-3)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("angle", [0, 7, 16, 25, 32])
def test_no_staircase_beats_the_quantiser_bound_and_the_best_comes_near(m, angle):
    theta, rng = ANGLES[angle], np.random.default_rng(angle)

    def held(z, stair):
        if np.any(np.diff(z[: len(stair.x)]) <= 0):
            return 0.0
        u, w, _ = stair.at(z).shares()[0]
        return -((np.cos(theta) * u + np.sin(theta) * w) ** 2)

    best = 0.0
    # An optimal quantiser of the parabola cuts ξ at up to 2 (m − 1) places, one value twice.
    fold = np.concatenate([np.arange(m)[::-1], np.arange(1, m)])
    for pieces in [np.arange(m), fold] * 4:
        x = np.sort(rng.normal(size=len(pieces) - 1)) * 1.5
        stair = Staircase(x, pieces, rng.normal(size=m))
        stair = Staircase(x, pieces, np.sort(stair.levels))
        out = minimize(held, stair.unknowns, (stair,), "Nelder-Mead", options={"maxiter": 800})
        best = max(best, -out.fun)
    bound = reach(ANGLES[angle])[m - 1]
    assert best <= bound
    assert best > bound - 0.03


def test_quadratic_frontier_is_outside_every_random_staircase():
    rng = np.random.default_rng(0)
    for m in (2, 3, 5):
        shares = [random_staircase(rng, m, m + 1).shares()[0] for _ in range(500)]
        r1, r2 = np.square(shares).T[:2]
        assert np.all(r2 <= quadratic_frontier(r1, m))
        assert np.all(r1 <= linear_share_bound(m)) and np.all(r2 <= quadratic_share_bound(m))


def test_joint_bound_is_above_every_network_of_fitted_staircases():
    # Layers that hold nearly all they can, so that the bound has something to bound.
    rng = np.random.default_rng(2)
    fits = [
        fit_layer(named(name), nh.gaussian_moments(named(name), tau), 4)[0].shares()[0]
        for name in ("relu", "gelu", "softplus", "leaky_relu")
        for tau in (0.5, 1.0, 2.0)
    ]
    nearest = 0.0
    for _ in range(15):
        layers = [fits[i] for i in rng.integers(0, len(fits), 3)]
        alpha1, _, alpha3 = network_shares(layers)[:3]
        bound = joint_bound(alpha1, [4] * 3)
        assert alpha3 <= bound
        nearest = max(nearest, alpha3 / bound)
    assert nearest > 0.5


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("weight", [1.5, 4.0, 20.0])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_no_staircase_beats_the_weighted_bound_and_the_best_comes_near(m, weight, angle):
    rng = np.random.default_rng(m)

    def held(z, stair):
        if np.any(np.diff(z[: len(stair.x)]) <= 0):
            return 0.0
        u, w, g = stair.at(z).shares()[0]
        return -((np.cos(angle) * u + np.sin(angle) * w) ** 2) / (2 * g + weight)

    best = 0.0
    # ξ/(ξ² − 1 + λ) rises, and falls again on both sides.
    fold = np.clip(np.abs(np.arange(-m, 2 * m) - m // 2), 0, m - 1)
    for pieces in [np.arange(m), fold] * 3:
        stair = random_staircase(rng, m, len(pieces) - 1)
        stair = Staircase(stair.x * 1.5, pieces, np.sort(stair.levels))
        out = minimize(held, stair.unknowns, (stair,), "Nelder-Mead", options={"maxiter": 800})
        best = max(best, -out.fun)
    bound = reach(angle, weight)[m - 1]
    assert best <= bound
    # The bound forgets that σ has mean 0, which costs nothing where f is odd.
    assert best > (0.93 if angle == 0 else 0.8) * bound


def test_gain_of_tanh_is_nearly_the_least_there_is():
    """With 32 levels tanh is below the bound at r₁; with its own infinitely many it is not."""
    u, _, g = demanded_shares(nh.gaussian_moments(nh.activation("tanh"), 1.0))
    sixteen, most = least_gain(np.array([u**2]), 16)[0], least_gain(np.array([u**2]), 32)[0]
    assert 0.98 * g < most < g < sixteen < 1.02 * g


def test_least_norm_is_below_every_network_of_fitted_staircases():
    rng = np.random.default_rng(4)
    fits = [
        fit_layer(named(name), nh.gaussian_moments(named(name), tau), 4)[0].shares()[0]
        for name in ("tanh", "erf", "sin", "sigmoid")
        for tau in (0.3, 1.0, 2.0)
    ]
    nearest = 0.0
    for depth in (1, 2, 3) * 6:
        layers = np.stack([fits[i] for i in rng.integers(0, len(fits), depth)])
        bound, gain = (
            least_norm(float(np.prod(layers[:, 0] ** 2)), [4] * depth),
            layers[:, 2].prod(),
        )
        assert bound <= gain
        nearest = max(nearest, bound / gain)
    assert nearest > 0.9


def test_no_network_of_staircases_is_proved_impossible_with_its_own_counts():
    """Staircases moved to where α₁ and α₃ are large and α₂ and α₄ small: the proofs' own limits."""
    rng = np.random.default_rng(7)
    for m, depth in ((2, 1), (3, 1), (2, 2), (4, 2), (3, 3)):
        layers = [random_staircase(rng, m, m + 1) for _ in range(depth)]
        target = network_shares([layer.shares()[0] for layer in layers])
        goal = target * np.array([1.3, 0.7, 1.3, 0.7, 0.7, 1.0])
        layers, _ = fit_network(layers, goal, np.ones(6), [0, 1, 2, 3, 4, 5])
        shares = np.stack([layer.shares()[0] for layer in layers])
        assert certify(shares, [m] * depth) is None
        assert certify_all(shares, [m] * depth) is None


def test_contributions_make_up_the_coefficients():
    rng = np.random.default_rng(3)
    shares = np.stack([random_staircase(rng, 4, 6).shares()[0] for _ in range(4)])
    (a, b, (alpha1, alpha4)), ranks = _contributions(shares), np.arange(1, 5)
    made = [1, b.sum(), a.sum(), alpha4 / alpha1, (5 - ranks) @ b, (5 + ranks) @ a]
    value = network_shares(shares)
    value[3] = abs(value[3])
    np.testing.assert_allclose(alpha1 * np.array(made), value, rtol=1e-12)
    assert b[0] == pytest.approx(a[0] / 2, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_contributions_that_are_free_leave_the_sums_alone(depth):
    along_a, along_b = _directions(depth)
    ranks = np.stack([np.ones(depth), np.arange(1, depth + 1)], axis=1)
    assert along_a.shape == along_b.shape == (2 * depth - 5 if depth > 2 else 0, depth)
    assert np.all(along_a @ ranks == 0) and np.all(along_b @ ranks == 0)
    assert np.all(along_a[:, 0] == 2 * along_b[:, 0])
    free = np.hstack([along_a[:, 2:], along_b[:, 3:]])
    np.testing.assert_array_equal(free, np.eye(len(free)))


def test_no_box_around_a_network_is_emptied():
    """Networks of staircases that hold nearly all they can: their own boxes must survive."""
    rng, nearest = np.random.default_rng(5), np.inf
    for name, depth in (("silu", 5), ("leaky_relu", 3)):
        layers = np.stack([stair.shares()[0] for stair in match_stairs(name, depth)])
        a, b, ends = _contributions(layers)
        own = np.append(a[2:], b[3:])
        along_a, along_b = _directions(depth)
        reach = rng.uniform(0, 1, (2, 40, len(own))) ** 3 * own * rng.choice([0, 0.1, 1], (40, 1))
        ranges = [_affine(-reach[0], reach[1], *x) for x in ((along_a, a), (along_b, b))]
        boxes = [tuple(np.maximum(end, 0) for end in x) for x in ranges]
        rooms = _room(*boxes, ends, _lines(layers, [16] * depth))
        assert np.all(rooms >= 1)
        nearest = min(nearest, rooms.min())
    assert nearest < 1.02


@pytest.mark.parametrize("depth", [4, 5])
def test_chain_proof_reaches_all_depths_of_the_sweep(depth):
    """The original is refuted with its own levels' number, and not with twice as many."""
    shares = shares_of(["silu"] * depth, 1.0)
    assert refuted(shares, [16] * depth)
    assert not refuted(shares, [32] * depth)


def test_certificate_holds_wherever_an_exact_match_exists():
    for names, tau0, m in ((["relu"] * 3, 1.0, 6), (["gelu"] * 2, 3.0, 8), (["tanh"] * 2, 1.0, 8)):
        out = match([named(n) for n in names], tau0, m)
        assert out.exact and out.proof is None
        shares = shares_of(names, tau0)
        assert certify(shares, [m] * len(names)) is None
        if max(out.relative_error.values()) < 1e-9:
            assert certify_all(shares, [m] * len(names)) is None and out.certificate == ""


def test_certificate_names_bound_and_levels():
    out = match([RELU] * 2, 1.0, 2)
    assert not out.exact and out.proof.kind == "linear" and out.proof.levels_needed == 3
    assert out.proof.bound == pytest.approx((2 / np.pi) ** 2)
    assert "exceeds the most that 2 levels can hold" in out.certificate
    shares = np.array([[0.0, 1.0, 2.0]])
    assert certify(shares, [16]).kind == "quadratic"


@pytest.mark.parametrize(
    "names, tau0, kind",
    [
        (["tanh"], 1.0, "norm"),
        (["erf"] * 3, 1.0, "norm"),
        (["silu"] * 2, 1.0, "chain"),
        (["silu"] * 3, 1.0, "chain"),
        (["softplus"] * 2, 3.0, "chain"),
    ],
)
def test_what_the_conjugate_kernel_does_not_see_may_be_impossible(names, tau0, kind):
    out = match([named(name) for name in names], tau0, 16)
    assert out.exact and out.proof is None and out.proof_all.kind == kind
    assert max(out.relative_error.values()) > 1e-3
    assert out.certificate.startswith(
        "exact for the conjugate kernel; all coefficients: impossible"
    )
    if kind == "norm":
        needed = out.proof_all.levels_needed
        assert certify_all(shares_of(names, tau0), [needed - 1] * len(names)) is not None
        assert certify_all(shares_of(names, tau0), [needed] * len(names)) is None


def test_chain_proof_survives_an_attack():
    """Newton's method on all six coefficients from many starts with 16 levels finds no root."""
    shares = shares_of(["silu"] * 2, 1.0)
    assert certify_all(shares, [16] * 2).kind == "chain"
    target, rng = network_shares(shares), np.random.default_rng(0)
    start = match_stairs("silu", 2)
    for _ in range(4):
        moved = [
            layer.at(layer.ordered(layer.unknowns + 0.1 * rng.normal(size=layer.unknowns.shape)))
            for layer in start
        ]
        _, residual = fit_network(moved, target, np.abs(target), [0, 1, 2, 3, 4, 5])
        assert residual > 1e-3


def match_stairs(name, depth):
    act = named(name)
    scales = [1.0, *(layer.tau for layer in nh.propagate([act] * depth, 1.0)[:-1])]
    return [fit_layer(act, nh.gaussian_moments(act, t), 16)[0] for t in scales]
