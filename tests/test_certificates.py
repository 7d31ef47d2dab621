"""What m levels cannot do: bounds against brute force, and proofs against what was found."""

import numpy as np
import pytest
from scipy.optimize import minimize

import ntklc_helpers as nh
from ntklc_helpers.matching.bounds import (
    ANGLES,
    least_gain,
    linear_share_bound,
    projection_bound,
    quadratic_frontier,
    quadratic_share_bound,
)
from ntklc_helpers.matching.certificates import certify, certify_all, joint_bound, least_norm
from ntklc_helpers.matching.layerwise import Network, network_shares
from ntklc_helpers.matching.match import match
from ntklc_helpers.matching.solve import Demand, fit
from ntklc_helpers.matching.staircases import Layer, Staircase, demanded_shares, fit_layer

RELU = nh.activation("relu")


def named(name):
    return nh.activation(name, slope=0.1) if name == "leaky_relu" else nh.activation(name)


def shares_of(names, tau0):
    acts = [named(name) for name in names]
    scales = [tau0, *(layer.tau for layer in nh.propagate(acts, tau0)[:-1])]
    moments = [nh.gaussian_moments(a, t) for a, t in zip(acts, scales, strict=True)]
    return np.stack([demanded_shares(g) for g in moments])


def layer(name, tau, m):
    return Layer(named(name), nh.gaussian_moments(named(name), tau), m)


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
    bound = projection_bound(ANGLES[angle])[m - 1]
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
        fit_layer(layer(name, tau, 4))[0].shares()[0]
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
    bound = projection_bound(angle, weight)[m - 1]
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
        fit_layer(layer(name, tau, 4))[0].shares()[0]
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
        network = Network(tuple(random_staircase(rng, m, m + 1) for _ in range(depth)))
        goal = network.shares()[0] * np.array([1.3, 0.7, 1.3, 0.7, 0.7, 1.0])
        network, _ = fit(network, Demand(goal))
        assert nothing_is_proved(network, m)


@pytest.mark.parametrize("name, depth", [("silu", 5), ("leaky_relu", 3)])
def test_no_network_that_holds_nearly_all_it_can_is_proved_impossible(name, depth):
    assert nothing_is_proved(match_stairs(name, depth), 16)


def nothing_is_proved(network, m):
    shares = np.stack([stair.shares()[0] for stair in network.layers])
    counts = [m] * len(shares)
    return certify(shares, counts) is None and certify_all(shares, counts) is None


@pytest.mark.parametrize("depth", [4, 5])
def test_chain_proof_reaches_all_depths_of_the_sweep(depth):
    """The original is refuted with its own levels' number, and not with twice as many."""
    shares = shares_of(["silu"] * depth, 1.0)
    assert certify_all(shares, [16] * depth).kind == "chain"
    assert certify_all(shares, [32] * depth) is None


def test_certificate_holds_wherever_an_exact_match_exists():
    for names, tau0, m in ((["relu"] * 3, 1.0, 6), (["gelu"] * 2, 3.0, 8), (["tanh"] * 2, 1.0, 8)):
        out = match([named(n) for n in names], tau0, m)
        assert out.exact and out.proof is None
        shares = shares_of(names, tau0)
        assert certify(shares, [m] * len(names)) is None
        if max(out.relative_error.values()) < 1e-9:
            assert certify_all(shares, [m] * len(names)) is None and out.certificate == ""


def test_levels_needed_may_lie_between_the_counts_given():
    """Two levels in one layer and sixteen in the other: fewer than sixteen in both would do."""
    shares = shares_of(["relu"] * 2, 1.0)
    proof = certify(shares, [2, 16])
    needed = proof.levels_needed
    assert proof.kind == "joint" and "layers of (2, 16) levels" in proof.text
    assert 2 < needed < 16
    assert certify(shares, [needed] * 2) is None and certify(shares, [needed - 1] * 2) is not None


def test_certificates_are_compared_by_value():
    proofs = [match([RELU], 1.0, m).proof for m in (2, 2, 3)]
    assert proofs[0] == proofs[1] != proofs[2]


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
        moved = start.unknowns + 0.1 * rng.normal(size=start.unknowns.shape)
        _, residual = fit(start.at(start.ordered(moved)), Demand(target, np.abs(target)))
        assert residual > 1e-3


def match_stairs(name, depth):
    scales = [1.0, *(layer.tau for layer in nh.propagate([named(name)] * depth, 1.0)[:-1])]
    return Network(tuple(fit_layer(layer(name, tau, 16))[0] for tau in scales))
