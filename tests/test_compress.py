"""Compressed networks: the same function as the network they stand for, in memory and on disk."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ntklc_helpers as nh
from ntklc_helpers.compressed import _from_bytes
from ntklc_helpers.storage import NetworkFileError, from_bytes, to_bytes

RELU = nh.activation("relu")


@pytest.fixture(scope="module")
def digits():
    train, test = nh.load_digits(split="train"), nh.load_digits(split="test")
    return (
        nh.normalize(train.X),
        train.labels,
        nh.normalize(test.X, train.X),
        test.labels,
    )


@pytest.fixture(scope="module")
def small(digits):
    X, y, _, _ = digits
    net = nh.RandomMLP(64, [70, 80, 60], [RELU] * 3, 1.0, seed=1)
    return nh.compress(net, X, levels=16, sparsity=0.8, seed=4).fit_readout(X, y)


@pytest.mark.parametrize(
    ("levels", "grid"),
    [
        (2, "uniform"),
        (16, "uniform"),
        (40, "uniform"),
        (6, "free"),
        ("paper", "uniform"),
        ([4, 8, 3], "uniform"),
    ],
)
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_it_is_the_random_network_with_ternary_weights_and_staircases(
    digits, levels, grid, sparsity
):
    X = digits[0]
    net = nh.RandomMLP(64, [90, 70, 50], [RELU] * 3, 1.0, seed=1)
    small = nh.compress(net, X, levels, sparsity, seed=9, grid=grid)
    peer = nh.RandomMLP(
        64,
        net.widths,
        small.matching.activations,
        1.0,
        "ternary",
        sparsity,
        seed=9,
        dtype=torch.float64,
    )
    want = peer.features(X).numpy()
    # Features are float32: half a unit of rounding, and no entry on another level.
    np.testing.assert_allclose(small.features(X), want, atol=1e-8, rtol=1e-7)


def test_ties_do_not_pass_a_threshold(digits):
    """Symmetric staircases have a threshold at 0, where sums of whole codes often are."""
    X = digits[0]
    net = nh.RandomMLP(64, [90, 70, 50], [nh.activation("tanh")] * 3, 1.0)
    small = nh.compress(net, X, levels=16, sparsity=0.0, seed=9)
    h, ties = X, []
    for layer in small.layers:
        u = layer.scale * h @ layer.weights.to_dense().T
        above = u[:, :, None] - layer.thresholds
        ties.append(np.count_nonzero(np.abs(above) < 1e-12, axis=(1, 2)))
        h = layer.levels[np.count_nonzero(above > 1e-12, axis=2)]
    # The first layer adds floats: where these should cancel, rounding decides.
    whole = ties[0] == 0
    assert np.mean(whole) > 0.9 and ties[1][whole].sum() > 100 and ties[2][whole].sum() > 100
    np.testing.assert_allclose(small.features(X)[whole], h[whole], atol=1e-8, rtol=1e-7)


def test_hidden_layers_after_the_first_run_on_integers(small):
    kinds = [(layer.bounds.dtype.kind, layer.values.dtype) for layer in small._prepared]
    assert kinds == [("f", np.int8), ("i", np.int8), ("i", np.float32)]


def test_features_do_not_depend_on_the_batch(small, digits):
    X = digits[2]
    whole = small.features(X)
    for rows in (slice(0, 1), slice(5, 8), slice(250, 260), slice(0, 257)):
        assert np.array_equal(small.features(X[rows]), whole[rows])


@pytest.mark.parametrize("weights", ["packed", "seed", "smallest"])
def test_saved_and_loaded_it_predicts_the_same(small, digits, tmp_path, weights):
    path = tmp_path / "net.safetensors"
    size = small.save(path, weights)
    again = nh.load(path)
    assert size == path.stat().st_size
    assert np.array_equal(again.features(digits[2]), small.features(digits[2]))
    assert np.array_equal(again.predict(digits[2]), small.predict(digits[2]))
    assert again.to_bytes(weights) == path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_memory_is_what_is_on_disk(small, tmp_path):
    memory = small.memory()
    assert memory.packed_file == small.save(tmp_path / "a", "packed")
    assert memory.seed_file == small.save(tmp_path / "b", "seed") < memory.packed_file
    assert memory.weights == 64 * 70 + 70 * 80 + 80 * 60
    assert memory.dense_file == 4 * (memory.weights + 60 * 10 + 10)
    assert memory.entropy_per_weight < memory.bits_per_weight
    nonzero = sum(np.count_nonzero(layer.weights.to_dense()) for layer in small.layers)
    assert memory.resident_weights == 2 * nonzero + 8 * (2 * (70 + 80 + 60) + 3)
    share = nonzero / memory.weights
    assert memory.published_bits == pytest.approx(share * (memory.weights + 600) + 210)


def test_a_file_that_cannot_be_written_leaves_nothing(small, tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError):
        small.save(target)
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(ValueError, match="weights must be one of smallest, packed, seed"):
        small.save(tmp_path / "x", "zip")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), weights=st.sampled_from(["packed", "seed"]))
def test_a_damaged_file_is_refused_whole(small, data, weights):
    content = bytearray(small.to_bytes(weights))
    how = data.draw(st.sampled_from(["flip", "cut", "grow", "swap"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[at:]
    elif how == "grow":
        content += data.draw(st.binary(min_size=1, max_size=9))
    else:
        content[at] = (content[at] + data.draw(st.integers(1, 255))) % 256
    with pytest.raises(NetworkFileError):
        _from_bytes(bytes(content))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_forged_description_is_refused_or_makes_a_network(small, data):
    """With the digest made right again, whatever the description says: no other error."""
    tensors, about = from_bytes(small.to_bytes(data.draw(st.sampled_from(["packed", "seed"]))))
    del about["digest"], about["version"]
    junk = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 300),
        st.floats(),
        st.text(max_size=3),
        st.lists(st.integers(-2, 90), max_size=3),
    )
    if data.draw(st.booleans()):
        layer = data.draw(st.sampled_from(about["layers"]))
        place = data.draw(
            st.sampled_from([layer, *(v for v in layer.values() if isinstance(v, dict))])
        )
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(junk)
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        dtype = data.draw(st.sampled_from([np.uint8, np.float32, np.float64, np.int64]))
        tensors[name] = np.array(data.draw(st.lists(st.integers(0, 255), max_size=20)), dtype)
    try:
        network = _from_bytes(to_bytes(tensors, about))
    except NetworkFileError:
        return
    assert network.features(np.zeros((1, network.p))).shape == (1, network.widths[-1])


def test_another_version_and_other_files_are_named(small, tmp_path):
    path = tmp_path / "net"
    path.write_bytes(to_bytes({}, {"layers": [], "version": 7}))
    with pytest.raises(NetworkFileError, match=r"net: of version 7; this package reads version 1"):
        nh.load(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(NetworkFileError, match="net: not a compressed network"):
        nh.load(path)
    with pytest.raises(FileNotFoundError):
        nh.load(tmp_path / "absent")


# --- from torch modules ---


def sequential(*sizes, act=nn.ReLU, bias=True, seed=0):
    torch.manual_seed(seed)
    modules = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        modules += [nn.Linear(fan_in, fan_out, bias=bias), act()]
    return modules


@pytest.mark.parametrize(
    "act",
    [
        nn.ReLU,
        nn.LeakyReLU,
        nn.Tanh,
        nn.Sigmoid,
        nn.GELU,
        nn.SiLU,
        nn.Softplus,
        lambda: nn.GELU("tanh"),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_sequential_keeps_the_moments_of_every_pre_activation(digits, act, bias):
    X = digits[0]
    net = nn.Sequential(*sequential(64, 60, 50, act=act, bias=bias))
    small = nh.compress(net, X, levels=16, sparsity=0.5)
    h, ours = torch.from_numpy(X).float(), X
    for module, layer in zip(net[::2], small.layers, strict=True):
        u = module(h).detach().double().numpy()
        z = layer.scale * ours @ layer.weights.to_dense().T + layer.offset
        np.testing.assert_allclose(z.mean(axis=0), u.mean(axis=0), atol=1e-4 * np.abs(u).max())
        assert z.std(axis=0).mean() == pytest.approx(u.std(axis=0).mean(), rel=1e-4)
        h = torch.from_numpy(u).float()
        h = net[1](h)
        ours = nh.Quantized(tuple(layer.thresholds), tuple(layer.levels))(z)
    np.testing.assert_allclose(small.features(X), ours, rtol=1e-5, atol=1e-6)


def test_projection_keeps_the_signs_of_the_largest_weights(digits):
    net = nn.Sequential(*sequential(64, 50))
    (layer,) = nh.compress(net, digits[0], sparsity=0.75).layers
    W, T = net[0].weight.detach().numpy(), layer.weights.to_dense()
    assert np.count_nonzero(T) == round(0.25 * W.size)
    assert (np.sign(W)[T != 0] == T[T != 0]).all()
    assert np.abs(W)[T != 0].min() >= np.abs(W)[T == 0].max()


def test_a_trained_sequential_keeps_its_readout_and_most_of_its_accuracy(digits):
    X, y, Xt, yt = digits
    net = nn.Sequential(*sequential(64, 128), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    inputs, targets = torch.from_numpy(X).float(), torch.from_numpy(y)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(8 * inputs), targets).backward()
        optimizer.step()
    dense = np.mean(net(8 * torch.from_numpy(Xt).float()).argmax(1).numpy() == yt)
    small = nh.compress(net, 8 * X, levels=16, sparsity=0.3)
    assert dense > 0.9
    assert small.score(8 * Xt, yt) > dense - 0.05
    assert small.memory().seed_file is None
    with pytest.raises(ValueError, match="needs weights drawn from a seed"):
        small.to_bytes("seed")


def test_drawn_weights_of_a_sequential_can_be_saved_as_a_seed(digits, tmp_path):
    X, y, Xt, _ = digits
    net = nn.Sequential(*sequential(64, 80, 80, bias=False))
    small = nh.compress(net, X, levels=8, sparsity=0.9, seed=3, weights="drawn").fit_readout(X, y)
    assert all(layer.offset is None for layer in small.layers)
    small.save(tmp_path / "net", "seed")
    assert np.array_equal(nh.load(tmp_path / "net").predict(Xt), small.predict(Xt))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [nn.Conv2d(1, 2, 3), nn.ReLU()],
            r"module 0 is Conv2d\(1, 2.*where a Linear layer is needed",
        ),
        (
            [nn.Linear(64, 5), nn.ReLU(), nn.Dropout()],
            r"module 2 is Dropout.*a Linear layer is needed",
        ),
        (
            [nn.Linear(64, 5), nn.Softmax(dim=1)],
            r"module 1 is Softmax.*an activation that is known",
        ),
        ([nn.Linear(64, 5), nn.Linear(5, 2)], r"module 1 is Linear.*an activation that is known"),
        ([nn.Linear(64, 5), nn.ReLU(), nn.ReLU()], "module 2 is ReLU"),
        ([nn.Linear(64, 5)], "at least one Linear layer followed by an activation"),
        ([], "at least one Linear layer"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(digits, modules, message):
    with pytest.raises(TypeError, match=message):
        nh.compress(nn.Sequential(*modules), digits[0])


def test_other_bad_input_is_refused(digits, small):
    X, y, _, _ = digits
    net = nh.RandomMLP(64, [20], [RELU], 1.0)
    for call, error, message in [
        (lambda: nh.compress(nn.Linear(2, 2), X), TypeError, "got Linear"),
        (lambda: nh.compress(net, X[:, :5]), ValueError, "X must have 64 columns"),
        (
            lambda: nh.compress(net, 3 * X),
            ValueError,
            r"tau0=1; its rows have root mean square norm 3",
        ),
        (lambda: nh.compress(net, X, sparsity=1.0), ValueError, "sparsity must be in"),
        (lambda: nh.compress(net, X, seed=-1), ValueError, "seed must be"),
        (lambda: nh.compress(net, X, levels=1), ValueError, "levels must be whole numbers"),
        (lambda: nh.compress(net, X, weights="kept"), ValueError, "weights must be 'drawn'"),
        (
            lambda: nh.compress(nn.Sequential(*sequential(64, 5)), X, levels="paper"),
            ValueError,
            "is for a RandomMLP",
        ),
        (
            lambda: nh.compress(nn.Sequential(*sequential(64, 5)), X, levels=[2, 3]),
            ValueError,
            "one count or 1",
        ),
        (lambda: nh.compress(net, X).predict(X), ValueError, "call fit_readout first"),
        (lambda: nh.compress(net, X).fit_readout(X, y[:-1]), ValueError, "one label per row of X"),
        (lambda: small.features(X[:, :3]), ValueError, "X must have 64 columns"),
        (
            lambda: setattr(
                small, "readout", nh.Readout.from_weights(np.ones((3, 2)), [0, 0], [0, 1])
            ),
            ValueError,
            "must take 60 features",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_layers_that_do_not_fit_are_refused():
    T = nh.TernaryMatrix.from_dense(np.eye(3, dtype=np.int8))
    for arguments, message in [
        ((T, 1.0, [0.0], [0.0]), "levels must have one entry more than thresholds"),
        ((T, 1.0, [1.0, 0.0], [0.0, 1, 2]), "strictly increasing"),
        ((T, 0.0, [0.0], [0.0, 1]), "scale must be a positive"),
        ((T, 1.0, [0.0], [0.0, 1], np.zeros(2)), "offset must have one entry per neuron"),
        ((T, 1.0, np.arange(256.0), np.arange(257.0)), "levels must be at most 256"),
    ]:
        with pytest.raises(ValueError, match=message):
            nh.TernaryLayer(*arguments)
    other = nh.TernaryMatrix.from_dense(np.ones((2, 2), np.int8))
    layers = [nh.TernaryLayer(M, 1.0, [0.0], [0.0, 1]) for M in (T, other)]
    with pytest.raises(ValueError, match="3 outputs are followed by 2 inputs"):
        nh.CompressedNetwork(layers)
    with pytest.raises(ValueError, match="at least one layer"):
        nh.CompressedNetwork([])


def test_a_random_network_can_keep_its_own_weights(digits):
    X, y, _, _ = digits
    net = nh.RandomMLP(64, [90, 70], [RELU] * 2, 1.0, seed=1, dtype=torch.float64)
    small = nh.compress(net, X, levels=16, sparsity=0.8, weights="projected")
    for W, layer in zip(net.matrices, small.layers, strict=True):
        T = layer.weights.to_dense()
        largest = np.abs(W.numpy()) > np.quantile(np.abs(W.numpy()), 0.8)
        assert np.mean((T != 0) == largest) > 0.999
        assert (np.sign(W.numpy())[T != 0] == T[T != 0]).all()
        assert layer.drawn is None and layer.scale == pytest.approx(0.2**-0.5)
