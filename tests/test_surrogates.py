"""Training with surrogate derivatives: the kernel against autograd, drawn networks, quadrature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import ntklc_helpers as nh
from ntklc_helpers.theory.hermite import crossing
from ntklc_helpers.theory.moments import surrogate_moments

WINDOW = nh.Quantized([-1.0, 0.5, 1.0], [0.0, 1.0, 0.3, 0.1])
CLIPPED = nh.Quantized([-0.8, 0.8], [0.0, 1.25, 0.0])
IDENTITY = nh.Quantized([0.0], [1.0, 1.0])


def samples(n=8, p=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) / np.sqrt(p) * rng.uniform(0.7, 1.3, (n, 1))


def staircases(draw=st):
    def made(levels, at):
        at = np.sort(at)
        return nh.Quantized(at + 1e-3 * np.arange(len(at)), levels[: len(at) + 1])

    numbers = draw.floats(-2, 2).map(lambda x: round(x, 3))
    return draw.builds(
        made,
        draw.lists(numbers, min_size=5, max_size=5),
        draw.lists(numbers, min_size=1, max_size=4),
    )


# --- its moments, and the expectation in it


@settings(max_examples=40, deadline=None)
@given(staircases(), staircases(), st.floats(0.3, 2), st.floats(0.3, 2), st.floats(-0.95, 0.95))
def test_the_expectation_by_quadrature(sigma, surrogate, a, b, rho):
    """E[σ'(u)ς(v)] is d/dm E[σ(u + m) ς(v)] at 0: a sum over jumps of E[ς(v)|u]."""
    given_u = np.sqrt(1 - rho**2)

    def mean_given(theta):
        edges = np.concatenate([[-np.inf], np.asarray(surrogate.thresholds), [np.inf]])
        below = norm.cdf((edges / b - rho * theta / a) / given_u)
        return np.diff(below) @ np.asarray(surrogate.levels)

    expected = sum(
        jump * norm.pdf(theta / a) / a * mean_given(theta)
        for theta, jump in zip(sigma.thresholds, sigma.jumps, strict=True)
    )
    c, A, B = np.array([[rho * a * b]]), np.array([a**2]), np.array([b**2])
    found = crossing(sigma, surrogate, c, A, B)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-9)


def test_the_expectation_of_drawn_pairs():
    rng, h = np.random.default_rng(0), 0.01
    u, v = rng.multivariate_normal([0, 0], [[1.3, 0.5], [0.5, 0.7]], 4_000_000).T
    stairs = nh.match(["relu"], 1.0, 4).activations[0]
    drawn = (stairs(u + h) - stairs(u - h)) / (2 * h) * WINDOW(v)
    found = crossing(stairs, WINDOW, np.array([[0.5]]), np.array([1.3]), np.array([0.7]))
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(found[0, 0] - drawn.mean()) < 4 * error + h**2


@settings(max_examples=30, deadline=None)
@given(staircases(), st.floats(0.3, 3), st.sampled_from(["relu", "tanh", "abs", "gelu"]))
def test_moments_by_quadrature(surrogate, tau, name):
    sigma = nh.activation(name)
    inside = [t / tau for t in (*surrogate.thresholds, *sigma.breakpoints) if abs(t) < 9 * tau]

    def mean(f):
        return quad(lambda x: f(tau * x) * norm.pdf(x), -9, 9, points=inside, limit=200)[0]

    def steep(t):
        return float(sigma.derivative(t) * surrogate(t))

    found = surrogate_moments(sigma, surrogate, tau)
    first = mean(lambda t: float(surrogate(t)))
    second = mean(lambda t: t / tau**2 * float(surrogate(t)))
    np.testing.assert_allclose(found, [first, second, mean(steep)], atol=1e-7)


def test_a_jump_under_a_jump_counts_with_both_sides():
    step, half = nh.activation("step"), nh.Quantized([0.0], [0.0, 1.0])
    # As the limit of windows to either side, in the mean.
    sides = [nh.Quantized([e], [0.0, 1.0]) for e in (-1e-9, 1e-9)]
    powers = [surrogate_moments(step, one, 1.3)[2] for one in (half, *sides)]
    assert powers[0] == pytest.approx(np.mean(powers[1:]), rel=1e-12)
    assert powers[1] > 0 == powers[2]


# --- the kernel


def surrogate_jacobian(net, X, surrogates):
    """Gradients of each output in all weights, by torch's own backward pass with a rule of ours."""

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, activation, surrogate):
            ctx.save_for_backward(u)
            ctx.rule = activation.derivative if surrogate is None else surrogate
            return activation(u)

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.rule(ctx.saved_tensors[0]), None, None

    weights = [W.clone().requires_grad_() for W in (*net.matrices, net.readout)]
    h = torch.tensor(X)
    layers = zip(weights, net.activations, net.centres, surrogates, strict=False)
    for W, activation, centre, surrogate in layers:
        h = (Step.apply(h @ W.T, activation, surrogate) - centre) / len(W) ** 0.5
    rows = [torch.autograd.grad(f, weights, retain_graph=True) for f in h @ weights[-1]]
    return torch.stack([torch.cat([g.ravel() for g in row]) for row in rows]).numpy()


@pytest.mark.parametrize("surrogates", [[WINDOW, CLIPPED], [None, WINDOW], [CLIPPED, None]])
@pytest.mark.parametrize("law", ["gaussian", nh.theory.Pruned(0.6)])
def test_the_finite_kernel_is_autograd_s(surrogates, law):
    X = samples()
    net = nh.RandomMLP(20, [13, 11], ["tanh", "gelu"], weights=law, dtype=torch.float64)
    kept = np.concatenate(
        [
            np.ravel(np.ones(shape) if mask is None else mask) * law.gain
            for mask, shape, law in zip(
                net.masks, [(13, 20), (11, 13), (1, 11)], net.laws, strict=True
            )
        ]
    )
    true, other = (surrogate_jacobian(net, X, one) * kept for one in ([None, None], surrogates))
    found = nh.empirical_ntk(net, X, surrogates)
    np.testing.assert_allclose(found, true @ other.T, atol=1e-10)
    assert not np.allclose(found, found.T)


def test_with_derivatives_of_its_own_it_is_the_ntk():
    X, names = samples(), ["relu", "erf", "gelu", "tanh"]
    expected = nh.limit_kernels(X, names)[1]
    np.testing.assert_allclose(nh.surrogate_ntk(X, names, [None] * 4), expected, atol=1e-12)
    net = nh.RandomMLP(20, [15], ["relu"], dtype=torch.float64)
    relu = nh.Quantized([0.0], [0.0, 1.0])
    np.testing.assert_allclose(nh.empirical_ntk(net, X, [relu]), nh.empirical_ntk(net, X))


def smoothed(steps, width):
    """A staircase rounded off: what it is in the mean over a Gaussian of that width."""

    def function(t):
        total = torch.full_like(t, steps.levels[0])
        for at, jump in zip(steps.thresholds, steps.jumps, strict=True):
            total = total + jump * torch.special.ndtr((t - at) / width)
        return total

    return nh.activation(function, name="smoothed")


def rounded_off(X, stairs, surrogates, width):
    """Θ of smoothed staircases, whose inputs are as those of staircases with more variance."""
    activations, variance = [smoothed(one, width) for one in stairs], np.sum(X**2, axis=1)
    K = theta = X @ X.T
    for i, (one, surrogate) in enumerate(zip(stairs, surrogates, strict=True)):
        theta = theta * crossing(one, surrogate, K, variance + width**2, variance)
        K, _ = nh.limit_kernels(X, activations[: i + 1], tau0=1.0, ntk=False)
        theta, variance = theta + K, K.diagonal()
    return theta


def test_the_limit_is_the_mean_of_wide_networks():
    """Of networks whose steps are rounded off, for others have no gradient; and theirs tends to it
    as the rounding goes."""
    X, stairs = samples(6), nh.match(["relu"] * 2, 1.0, 4).activations
    surrogates = [WINDOW, CLIPPED]
    nets = (
        nh.RandomMLP(20, [3000, 3000], [smoothed(one, 0.4) for one in stairs], 1.0, seed=seed)
        for seed in range(12)
    )
    drawn = nh.empirical_ntk(nets, X, surrogates)
    limit = rounded_off(X, stairs, surrogates, 0.4)
    assert np.linalg.norm(drawn - limit) < 0.02 * np.linalg.norm(limit)
    exact = nh.surrogate_ntk(X, stairs, surrogates, tau0=1.0)
    gaps = [
        np.linalg.norm(rounded_off(X, stairs, surrogates, width) - exact) / np.linalg.norm(exact)
        for width in (0.4, 0.04, 0.004)
    ]
    assert gaps[0] > 0.05 and gaps[1] < 0.3 * gaps[0] and gaps[2] < 0.01


def test_a_step_of_descent_moves_networks_of_steps_by_it():
    """f moves by −ηΘr: networks with jumps themselves, which move by single neurons that jump."""
    from ntklc_helpers.experiments.training_curves import FullBatch

    X, stairs = samples(6), nh.match(["relu"] * 2, 1.0, 4).activations
    surrogates, Y = (
        [WINDOW, CLIPPED],
        torch.randn(6, 50, generator=torch.Generator().manual_seed(3)),
    )
    moved, rate = 0.0, 0.5
    for seed in range(12):
        net = nh.RandomMLP(20, [3000, 3000], stairs, 1.0, seed=seed)
        batch = FullBatch(net, 50, surrogates, [1.0] * 3)
        ((_, f),) = batch.descend(torch.tensor(X).float(), Y, [rate], rate)
        moved = moved + f.numpy() / rate / 12
    found = nh.surrogate_ntk(X, stairs, surrogates, tau0=1.0) @ Y.numpy()
    noise = np.linalg.norm(moved - found) / np.linalg.norm(found)
    along = np.vdot(moved, found) / np.vdot(found, found)
    assert noise < 0.2 and abs(along - 1) < 0.03


def test_symmetric_on_samples_of_one_length_and_not_elsewhere():
    X, stairs = samples(10), nh.match(["relu"] * 2, 1.0, 4).activations
    found = nh.surrogate_ntk(X, stairs, [WINDOW, CLIPPED], tau0=1.0)
    assert np.abs(found - found.T).max() > 1e-3
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = nh.surrogate_ntk(X, stairs, [WINDOW, CLIPPED])
    np.testing.assert_allclose(found, found.T, atol=1e-12)


def test_between_samples_it_is_the_same():
    X, stairs = samples(10), nh.match(["relu"] * 2, 1.0, 4).activations
    square = nh.surrogate_ntk(X, stairs, [WINDOW, CLIPPED], tau0=1.0)
    part = nh.surrogate_ntk(X[:4], stairs, [WINDOW, CLIPPED], Z=X[4:], tau0=1.0)
    np.testing.assert_allclose(part, square[:4, 4:], atol=1e-12)


def test_rates_are_those_of_the_layers():
    """A layer that does not learn adds nothing: of a readout alone the conjugate kernel is left."""
    X, names = samples(), ["relu", "erf"]
    K, N = nh.limit_kernels(X, names)
    parts = [nh.surrogate_ntk(X, names, [None] * 2, rates=np.eye(3)[i]) for i in range(3)]
    np.testing.assert_allclose(parts[2], K, atol=1e-12)
    np.testing.assert_allclose(sum(parts), N, atol=1e-12)


# --- coefficients, equivalents and matching


def test_coefficients_of_surrogates_give_the_equivalent():
    """Of Θ, whose error falls with the dimension as the NTK's does."""
    stairs = nh.match(["relu"] * 2, 1.0, 6).activations
    surrogates, errors = [nh.Quantized([-0.3, 2.0], [0.1, 1.0, 0.5])] * 2, []
    for p in (150, 600):
        mixture = nh.GaussianMixture.preset("means", p=p, n_classes=2)
        sample = mixture.sample(p, seed=0)
        coefficients = nh.propagate(stairs, mixture.tau0, surrogates)[-1]
        exact = nh.surrogate_ntk(sample.X, stairs, surrogates, tau0=mixture.tau0)
        equivalent = nh.ntk_equivalent(sample.X, mixture.statistics(sample), coefficients)
        asymmetry = np.linalg.norm(exact - exact.T, 2) / np.linalg.norm(exact, 2)
        errors.append([nh.relative_error((exact + exact.T) / 2, equivalent), asymmetry])
    assert (np.array(errors[1]) < 0.7 * np.array(errors[0])).all() and errors[1][0] < 0.2
    with pytest.raises(ValueError, match="order must be 'limit' for coefficients with surrogates"):
        nh.ntk_equivalent(sample.X, mixture.statistics(sample), coefficients, order="finite")


@pytest.mark.parametrize("names", [["relu"] * 3, ["tanh"] * 2, ["gelu", "erf"], ["abs", "relu"]])
@pytest.mark.parametrize("levels", [8, 16])
def test_matched_in_the_ntk(names, levels):
    found = nh.match(names, 1.0, levels, "ntk")
    plain = nh.match(names, 1.0, levels)
    assert found.activations == plain.activations and found.exact == plain.exact
    kept = ("beta1", "beta3", "kappa") if found.exact else ("beta1", "kappa")
    assert all(found.relative_error[name] < 1e-9 for name in kept)
    # β₂ is where α₂ and α₄ are, of the levels alone.
    assert found.exact_ntk == (max(found.relative_error[b] for b in ("beta2", "beta3")) < 1e-9)
    if names == ["relu"] * 3:
        assert found.exact_ntk and found.certificate == ""


def test_the_kernel_that_was_matched_is_the_original_s():
    """On a mixture of growing dimension Θ of steps tends to N of ReLU; without a match its diagonal,
    and with it the smallest eigenvalues, do not."""
    found, gaps = nh.match(["relu"] * 2, 1.0, 16, "ntk"), []
    for p in (100, 400):
        X = nh.GaussianMixture.preset("mixed", p=p, n_classes=2).sample(2 * p, seed=0).X
        N, row = nh.limit_kernels(X, ["relu"] * 2, tau0=1.0)[1], []
        for surrogates in (found.surrogates, [nh.Quantized([0.0], [0.0, 1.0])] * 2):
            off = nh.surrogate_ntk(X, found.activations, surrogates, tau0=1.0) - N
            row += [np.linalg.norm(off, 2) / np.linalg.norm(N, 2), abs(off.trace() / N.trace())]
        gaps.append(row)
    (wide, diagonal, *_), (wider, smaller, _, other) = gaps
    assert wider < 0.7 * wide and smaller < 0.5 * diagonal
    assert other > 0.01 and smaller < 0.2 * other


def test_surrogates_that_cannot_be():
    X = samples()
    for call, message in [
        (lambda: nh.surrogate_ntk(X, ["sign"], [None]), "surrogates must name a derivative for"),
        (lambda: nh.surrogate_ntk(X, ["sign"], [nh.activation("tanh")]), "surrogates must hold a"),
        (lambda: nh.surrogate_ntk(X, ["sign"], [lambda t: 1 / t]), "surrogates must hold a deriv"),
        (lambda: nh.surrogate_ntk(X, ["relu"], [WINDOW]), "surrogates are of staircases"),
        (lambda: nh.surrogate_ntk(X, ["sign"], [WINDOW] * 2), "surrogates must have 1 entries"),
        (lambda: nh.surrogate_ntk(X, ["sign"], [WINDOW], rates=[1]), "rates must have 2 entries"),
        (lambda: nh.surrogate_ntk(X, ["sign"], [WINDOW], Z=X[:, :3]), "Z must have 20 columns"),
        (lambda: nh.match(["sign"], 1.0, 4, "ntk"), "activations must not have a jump"),
        (lambda: nh.propagate(["sign"], 1.0, [None]), "surrogates must name a derivative"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    cnn = nh.theory.RandomCNN((3, 3, 1), [nh.Conv(2), "erf", nh.Flatten()], [4])
    with pytest.raises(ValueError, match="net must be a RandomMLP to have surrogates"):
        nh.empirical_ntk(cnn, np.ones((2, 3, 3, 1)), [None])
    with pytest.raises(nh.MatchingError, match="impossible"):
        nh.match(["relu"] * 3, 1.0, 3, "ntk", strict=True)
