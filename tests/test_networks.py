"""Random networks: their weights, their convergence to the limit, and the Gram-product NTK."""

import numpy as np
import pytest
import torch

import ntklc_helpers as nh

RELU, TANH, GELU, ERF = (nh.activation(name) for name in ("relu", "tanh", "gelu", "erf"))
LAWS = [
    ("gaussian", {}),
    ("student_t", {}),
    ("rademacher", {}),
    ("ternary", {"sparsity": 0.0}),
    ("ternary", {"sparsity": 0.5}),
    ("ternary", {"sparsity": 0.9}),
]
P = 30


def data(n=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, P)) / np.sqrt(P)


def network(widths=(40, 50), activations=(RELU, TANH), **options):
    return nh.RandomMLP(P, widths, activations, **{"device": "cpu"} | options)


@pytest.mark.parametrize(("law", "options"), LAWS)
def test_weights_have_the_stated_law(law, options):
    net = nh.RandomMLP(400, [1000], [RELU], weights=law, device="cpu", **options)
    W = net.matrices[0].double().numpy()
    epsilon = options.get("sparsity", 0.0)
    fourth = {"gaussian": 3.0, "student_t": 9.0}.get(law, 1 / (1 - epsilon))
    assert W.shape == (1000, 400)
    assert abs(W.mean()) < 5 / np.sqrt(W.size)
    # A Student-t of 5 degrees of freedom has no eighth moment, so its variance settles slowly.
    assert (W**2).mean() == pytest.approx(1, abs=1e-6 + 5 * np.sqrt((fourth - 1) / W.size))
    if law in ("rademacher", "ternary"):
        size = (1 - epsilon) ** -0.5
        assert set(np.round(np.unique(W) / size, 6)) == ({-1, 1} if epsilon == 0 else {-1, 0, 1})
        share = (W == 0).mean()
        assert share == pytest.approx(epsilon, abs=5 * np.sqrt(epsilon * (1 - epsilon) / W.size))
    else:
        # The quartiles tell a Gaussian from a Student-t scaled to the same variance.
        quartile = {"gaussian": 0.674490, "student_t": 0.726687 * np.sqrt(3 / 5)}[law]
        assert np.quantile(W, 0.75) == pytest.approx(quartile, abs=0.012)


def test_seed_and_layer_alone_fix_the_weights():
    a, b = network(), network(widths=(40, 60), activations=(GELU, GELU))
    assert torch.equal(a.matrices[0], b.matrices[0])
    assert not torch.equal(a.matrices[0], network(seed=1).matrices[0])
    square = nh.RandomMLP(P, [P, P], [RELU, RELU], device="cpu")
    assert not torch.equal(square.matrices[0], square.matrices[1])
    assert torch.equal(network(dtype=torch.float64).matrices[1].float(), a.matrices[1])


def test_features_are_the_recursion():
    net, X = network(tau0=0.9, dtype=torch.float64), data()
    h = X
    tau = 0.9
    for W, activation in zip(net.matrices, net.activations, strict=True):
        moments = nh.gaussian_moments(activation, tau)
        h = (activation(h @ W.numpy().T) - moments.mean) / np.sqrt(len(W))
        tau = np.sqrt(moments.variance)
    np.testing.assert_allclose(net.features(X).numpy(), h, rtol=0, atol=1e-14)
    assert network().features(X).dtype == torch.float32


def test_features_do_not_depend_on_the_batch():
    net, X = network(dtype=torch.float64), data(n=11)
    whole = net.features(torch.from_numpy(X))
    np.testing.assert_allclose(net.features(X, batch_size=4), whole, rtol=0, atol=1e-15)
    np.testing.assert_allclose(net.features(X[3:4])[0], whole[3], rtol=0, atol=1e-15)


@pytest.mark.parametrize("activations", [[RELU], [ERF, TANH], [RELU, GELU, nh.activation("sin")]])
def test_ntk_equals_the_jacobian_product(activations):
    widths = [17, 23, 19][: len(activations)]
    net = network(widths, activations, tau0=0.8, dtype=torch.float64, seed=3)
    x, centres = net.inputs(data()), net.centres

    def output(weights, w, row):
        h = row
        for W, activation, centre in zip(weights, activations, centres, strict=True):
            h = (activation.function(W @ h) - centre) / len(W) ** 0.5
        return w @ h

    jacobian = torch.func.vmap(torch.func.grad(output, argnums=(0, 1)), in_dims=(None, None, 0))
    hidden, last = jacobian(net.matrices, net.readout, x)
    J = torch.cat([g.flatten(1) for g in (*hidden, last)], dim=1)
    expected = (J @ J.T).numpy()
    N = nh.empirical_ntk(net, data())
    np.testing.assert_allclose(N, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_mean_over_networks():
    nets, X = [network(seed=s) for s in range(3)], data()
    for kernel in (nh.empirical_ck, nh.empirical_ntk):
        mean = sum(kernel(net, X) for net in nets) / 3
        np.testing.assert_allclose(kernel(iter(nets), X), mean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("law", "options"), LAWS)
def test_kernels_tend_to_the_limit(law, options):
    X, activations = data(n=30), [RELU, TANH]
    K, N = nh.limit_kernels(X, activations, tau0=1.0)

    def errors(width, seeds):
        nets = [network((width, width), activations, weights=law, seed=s, **options) for s in seeds]
        return [
            np.mean([np.linalg.norm(kernel(net, X) - limit) for net in nets])
            / np.linalg.norm(limit)
            for kernel, limit in ((nh.empirical_ck, K), (nh.empirical_ntk, N))
        ]

    # Fluctuations fall like width^(−½), by 2.8 from 128 to 1024. With p = 30 inputs, three of them
    # seen by a unit at sparsity 0.9, the first layer is far from Gaussian: that part stays.
    narrow, wide = errors(128, range(8)), errors(1024, range(4))
    floor = 0.1 if options.get("sparsity", 0) > 0.6 else 0.0
    for e_narrow, e_wide in zip(narrow, wide, strict=True):
        assert e_wide < 0.5 * e_narrow + floor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, "widths must name at least one layer"),
        ({"widths": [5]}, "activations must have 1 entries, as many as widths, got 2"),
        ({"widths": [5, 0]}, "widths must be a whole number of at least 1"),
        ({"widths": "40"}, "widths must be a whole number"),
        ({"widths": None}, "widths must be a whole number"),
        ({"tau0": 0.0}, "tau0 must be a positive"),
        ({"weights": "cauchy"}, "weights must be one of gaussian, .*, got 'cauchy'"),
        ({"weights": "ternary", "sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": 0.5}, "sparsity belongs to weights='ternary'"),
        (
            {"weights": nh.theory.Gaussian(), "sparsity": 0.5},
            "sparsity belongs to weights='ternary'",
        ),
        ({"weights": nh.theory.Pruned([0.5, 0.5])}, "sparsity must be one number, or one for each"),
        ({"dtype": torch.int8}, "dtype must be a floating-point torch.dtype"),
        ({"device": "no such"}, "device must be one that torch can use"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_networks_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


@pytest.mark.parametrize("degrees", [2.0, 1, np.inf, np.nan, "many"])
def test_student_t_needs_a_variance(degrees):
    with pytest.raises(ValueError, match="degrees_of_freedom'? must be"):
        nh.theory.StudentT(degrees)


def test_words_are_laws_and_laws_are_values():
    words = {
        "gaussian": nh.theory.Gaussian(),
        "student_t": nh.theory.StudentT(5),
        "rademacher": nh.theory.Rademacher(),
    }
    for word, law in words.items():
        named, given = network(weights=word), network(weights=law)
        assert named.law == given.law == law and hash(named.law) == hash(law)
        assert torch.equal(named.matrices[1], given.matrices[1])
    assert (
        network(weights="ternary", sparsity=0.9).law
        == nh.theory.Ternary(0.9)
        != nh.theory.Ternary(0.8)
    )
    assert nh.theory.Pruned([0.5, 0.2]) == nh.theory.Pruned((0.5, 0.2)) != nh.theory.Pruned(0.5)


def test_a_law_of_ones_own():
    class Signs(nh.theory.Gaussian):
        def draw(self, shape, seed, layer):
            return np.sign(super().draw(shape, seed, layer))

    net = network(weights=Signs())
    assert set(np.unique(net.matrices[0])) == {-1, 1}


def test_bad_inputs_name_the_argument():
    net = network()
    with pytest.raises(ValueError, match=f"X must have {P} columns"):
        net.features(np.ones((2, P + 1)))
    with pytest.raises(ValueError, match="X must be finite"):
        nh.empirical_ck(net, np.full((2, P), np.nan))
    with pytest.raises(ValueError, match="net must be a random network or some of them"):
        nh.empirical_ck([], data())
    with pytest.raises(ValueError, match="net must be a random network or some of them"):
        nh.empirical_ntk([net, "net"], data())
    with pytest.raises(ValueError, match="batch_size must be"):
        net.features(data(), batch_size=0)
    jumping = network(activations=(RELU, nh.sigma_t(-1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="net must not have a jump.*'sigma_t'"):
        nh.empirical_ntk(jumping, data())
    assert np.isfinite(nh.empirical_ck(jumping, data())).all()


def test_a_law_for_each_layer():
    law = nh.theory.Layered([nh.theory.Gaussian(), nh.theory.Ternary(0.5)])
    net = nh.RandomMLP(6, [40, 30], ["relu"] * 2, weights=law, seed=3)
    plain = nh.RandomMLP(6, [40, 30], ["relu"] * 2, seed=3)
    ternary = nh.RandomMLP(6, [40, 30], ["relu"] * 2, weights="ternary", sparsity=0.5, seed=3)
    assert torch.equal(net.matrices[0], plain.matrices[0])
    assert torch.equal(net.matrices[1], ternary.matrices[1])
    assert torch.equal(net.readout, plain.readout)
    with pytest.raises(ValueError, match="laws must be one for each of 3 layers"):
        nh.RandomMLP(6, [4] * 3, ["relu"] * 3, weights=law)
    for bad in ([], [3], ["gaussian"]):
        with pytest.raises(ValueError, match="laws must be at least one law"):
            nh.theory.Layered(bad)
