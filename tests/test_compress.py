"""Compressed networks: the same function as the network they stand for, in memory and on disk."""

import base64
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import ntklc_helpers as nh
from ntklc_helpers.compression.storage import NetworkFileError, from_bytes, to_bytes

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
        above = u[:, :, None] - layer.activation.thresholds
        ties.append(np.count_nonzero(np.abs(above) < 1e-12, axis=(1, 2)))
        h = np.array(layer.activation.levels)[np.count_nonzero(above > 1e-12, axis=2)]
    # The first layer adds floats: where these should cancel, rounding decides.
    whole = ties[0] == 0
    assert np.mean(whole) > 0.9 and ties[1][whole].sum() > 100 and ties[2][whole].sum() > 100
    np.testing.assert_allclose(small.features(X)[whole], h[whole], atol=1e-8, rtol=1e-7)


def test_features_do_not_depend_on_the_batch(small, digits):
    X = digits[2]
    whole = small.features(X)
    for rows in (slice(0, 1), slice(5, 8), slice(250, 260), slice(0, 257)):
        assert np.array_equal(small.features(X[rows]), whole[rows])


def test_scores_do_not_depend_on_the_batch(small, digits):
    X = digits[2]
    whole = small.outputs(X)
    for rows in (slice(0, 1), slice(5, 8), slice(250, 260), slice(0, 257)):
        assert np.array_equal(small.outputs(X[rows]), whole[rows])
    readout, features = small.readout, small.features(X).astype(float)
    want = features @ (readout.weights * readout.scale) + readout.bias
    np.testing.assert_allclose(whole, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 90), st.sampled_from([1, 3, 64, 300]), st.booleans())
def test_bytes_give_what_their_numbers_give(seed, p, n, scaled):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n + 2, p), dtype=np.uint8)
    scaling = nh.compression.Scaling.of(pixels)
    net = nh.RandomMLP(p, [40, 30], ["relu"] * 2, seed=seed % 99)
    small = nh.compress(net, scaling(pixels.astype(float)), levels=4, sparsity=0.5)
    small.scaling = scaling if scaled else None
    layer = small.layers[0]
    rows = pixels.astype(float) if not scaled else scaling(pixels.astype(float))
    above = (layer.scale * rows @ layer.weights.to_dense().T)[:, :, None]
    far = (np.abs(above - layer.activation.thresholds) > 1e-9).all(axis=(1, 2))
    found = small.features(pixels)
    assert np.array_equal(found[far], small.features(pixels.astype(float))[far])
    assert far.any() and np.array_equal(small.features(pixels[1:2]), found[1:2])


def test_bytes_heed_the_scaling_that_is_set(small, digits):
    pixels = np.rint(16 * nh.load_digits(split="test").X).astype(np.uint8)
    net = nh.CompressedNetwork(small.layers, small.readout)
    found = []
    for scale in (np.full(64, 30.0), np.full(64, 60.0), np.linspace(30, 60, 64)):
        net.scaling = nh.compression.Scaling(pixels.mean(axis=0), scale)
        found.append(net.predict(pixels))
        assert np.array_equal(found[-1], net.predict(pixels.astype(float)))
    assert (found[0] != found[1]).any()


def test_a_scaling_of_rows_is_that_of_normalize(digits):
    rows = nh.load_digits(split="train").X
    scaling = nh.compression.Scaling.of(rows)
    np.testing.assert_allclose(scaling(rows), nh.normalize(rows), rtol=1e-13, atol=1e-15)
    with pytest.raises(ValueError, match="rows must hold two different rows"):
        nh.compression.Scaling.of(np.ones((3, 2)))


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
    # Rows are filled up to sixteens, and columns too.
    assert memory.resident_weights == 16 * 80 + 20 * 80 + 20 * 64
    share = nonzero / memory.weights
    assert memory.published_bits == pytest.approx(share * (memory.weights + 600) + 210)


def arrays_held(thing, seen):
    """Bytes of the memory behind all arrays that hang on an object, each once."""
    if id(thing) in seen or isinstance(thing, type):
        return 0
    seen[id(thing)] = thing
    if isinstance(thing, np.ndarray):
        return thing.nbytes if thing.base is None else arrays_held(thing.base, seen)
    names = getattr(type(thing), "__slots__", ())
    slots = [getattr(thing, name, None) for name in names if name != "__weakref__"]
    parts = thing if isinstance(thing, list | tuple) else [*getattr(thing, "__dict__", {}).values()]
    return sum(arrays_held(part, seen) for part in [*parts, *slots])


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_weights_take_a_quarter_of_a_byte_however_many_samples_were_seen(sparsity):
    X = nh.normalize(np.random.default_rng(0).normal(size=(256, 400)))
    net = nh.compress(nh.RandomMLP(400, [800] * 3, ["relu"] * 3), X, levels=16, sparsity=sparsity)
    for n in (1, 256, 3):
        net.features(X[:n])
    memory = net.memory()
    assert memory.resident_weights == memory.weights / 4
    # Places of a tenth that is not zero would take 0.2 bytes a weight more.
    assert memory.resident < arrays_held(net, {}) < memory.resident + 0.1 * memory.weights


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
        nh.CompressedNetwork.from_bytes(bytes(content))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_forged_description_is_refused_or_makes_a_network(small, data):
    """With the digest made right again, whatever the description says: no other error."""
    tensors, about = from_bytes(small.to_bytes(data.draw(st.sampled_from(["packed", "seed"]))))
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
        network = nh.CompressedNetwork.from_bytes(to_bytes(tensors, about))
    except NetworkFileError:
        return
    assert network.features(np.zeros((1, network.p))).shape == (1, network.widths[-1])


def forged_file(text, rest=b"", version=2, length=None):
    """A file by its specification, made without the package: any description, a right digest."""
    packer = zlib.compressobj(wbits=-15)
    told = packer.compress(text) + packer.flush()
    length = len(told) if length is None else length
    body = np.frombuffer(length.to_bytes(4, "little") + told + rest, np.uint8)
    blank = safetensors.numpy.save({"": body}, {"ntklc": f"{'0' * 16} {version}"})
    return blank.replace(b"0" * 16, digest_of(blank), 1)


def digest_of(content):
    return base64.b64encode(hashlib.sha256(content).digest()[:12])


def test_a_file_is_what_its_specification_says(small):
    """Read without the package: header, digest, description, arrays one after another."""
    content = small.to_bytes("packed")
    size = int.from_bytes(content[:8], "little")
    digest, version = json.loads(content[8 : 8 + size])["__metadata__"]["ntklc"].split()
    blank = content.replace(digest.encode(), b"0" * 16, 1)
    assert digest_of(blank).decode() == digest and version == "2"
    length = int.from_bytes(content[8 + size :][:4], "little")
    told, rest = content[12 + size :][:length], content[12 + size + length :]
    about, tensors = json.loads(zlib.decompress(told, wbits=-15)), from_bytes(content)[0]
    for name, kind, *shape in about["arrays"]:
        array = np.frombuffer(rest, "<" + kind, np.prod(shape, dtype=int))
        np.testing.assert_array_equal(array.reshape(shape), tensors[name])
        rest = rest[array.nbytes :]
    assert not rest and len(tensors) == len(about["arrays"])


@pytest.mark.parametrize(
    "content",
    [
        forged_file(b"{}"),
        forged_file(b"[]"),
        forged_file(b"\xff"),
        forged_file(b"[" * 100_000),
        forged_file(b'{"arrays":[["a","u1",-1]]}'),
        forged_file(b'{"arrays":[["a","u1",4]]}', b"abc"),
        forged_file(b'{"arrays":[["a","u1",2]]}', b"abc"),
        forged_file(b'{"arrays":[["a","O",1]]}', b"abcdefgh"),
        forged_file(b'{"arrays":[["a","f8",1099511627776,1099511627776]]}', b"abcdefgh"),
        forged_file(b'{"arrays":[]}', length=3),
        forged_file(b'{"arrays":[]}', length=2**32 - 1),
        forged_file(b'{"arrays":[]}', version="x"),
        forged_file(b'{"arrays":[],"layers":' + b" " * 2**25 + b"[]}"),
    ],
)
def test_a_forged_container_is_refused(content):
    with pytest.raises(NetworkFileError, match="not a compressed network|of version"):
        from_bytes(content)


def test_another_version_and_other_files_are_named(small, tmp_path):
    path = tmp_path / "net"
    path.write_bytes(forged_file(b"{}", version=7))
    with pytest.raises(NetworkFileError, match=r"net: of version 7; this package reads version 2"):
        nh.load(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(NetworkFileError, match="net: not a compressed network"):
        nh.load(path)
    with pytest.raises(FileNotFoundError):
        nh.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "forged",
    [
        {"shape": [2**15, 2**15]},
        {"shape": [2**40, 64]},
        {"shape": [10**30, 64]},
        {"scale": 10**400},
        {"scale": "1"},
        {"drawn": {"sparsity": 0.5, "seed": 1, "stream": 1}, "shape": [2**19, 2**19]},
        {"packed": {"codes_zeros": True, "rice_bits": 0, "count": 0}, "shape": [2**14, 2**14]},
    ],
)
def test_absurd_sizes_in_a_forged_file_are_refused(small, forged):
    tensors, about = from_bytes(small.to_bytes("packed"))
    about["layers"][0] |= forged
    with pytest.raises(NetworkFileError, match="not a compressed network"):
        nh.CompressedNetwork.from_bytes(to_bytes(tensors, about))


def test_saving_goes_through_a_link_and_keeps_the_mode(small, tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    small.save(link)
    assert link.is_symlink() and target.read_bytes() == small.to_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    # What a temporary name can be foretold to be, does not matter.
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / f"net.{os.getpid()}.tmp").symlink_to(other)
    small.save(tmp_path / "net")
    assert other.read_bytes() == b"precious"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "new")
    small.save(dangling)
    assert (tmp_path / "new").read_bytes() == small.to_bytes()


def test_threads_may_save_to_one_path(small, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: small.save(tmp_path / "net"), range(60)))
    assert set(sizes) == {len(small.to_bytes())}
    assert list(tmp_path.iterdir()) == [tmp_path / "net"]


def _predict(network_and_rows):
    network, X = network_and_rows
    return network.predict(X)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers_predict_after_their_parent_did(small, digits):
    X = digits[2]
    expected = small.predict(X)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(_predict, [(small, X), (small, X[:1])]).get(timeout=120)
    assert np.array_equal(found[0], expected) and np.array_equal(found[1], expected[:1])


def test_it_can_be_imported_where_nothing_can_be_written(tmp_path):
    package = tmp_path / "ntklc_helpers"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(nh.__file__).parent, package, ignore=skip)
    # Not even by root: a file stands where the folder of compiled code would be.
    for folder in package.rglob("*/"):
        (folder / "__pycache__").touch()
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"), "/dev/null")
    environment = os.environ | nowhere | {"PYTHONPATH": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    code = "import ntklc_helpers; print(ntklc_helpers.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and str(tmp_path) in done.stdout, done.stderr


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
        ours = layer.activation(z)
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


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


class Kinked(nn.Module):
    """A kink, named or not."""

    def __init__(self, breakpoints=None):
        super().__init__()
        self.breakpoints = breakpoints

    def forward(self, x):
        return torch.maximum(x, torch.zeros_like(x))


class Backward(nn.Linear):
    def forward(self, x):
        return super().forward(-x)


def hooked(module):
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def bytes_of(net, X, **options):
    return nh.compress(net, X, levels=4, sparsity=0.5, **options).to_bytes()


def test_what_changes_nothing_is_left_out(digits):
    X, (one, act, last) = digits[0], (*sequential(64, 20), nn.Linear(20, 10))
    plain = bytes_of(nn.Sequential(one, act, last), X)
    nested = [nn.Sequential(nn.Flatten(), one), nn.Sequential(nn.Dropout(), act, nn.Identity())]
    for end in ([], [nn.Softmax(dim=1)], [nn.Softmax(-1)], [nn.LogSoftmax(dim=1)], [nn.Dropout()]):
        net = nn.Sequential(*nested, last, *end).train()
        assert bytes_of(net, X) == plain
        assert net.training and nested[1].training
    assert bytes_of(nn.Sequential(one, act, last).double(), X) == plain


def test_one_module_may_stand_in_several_places(digits):
    X, act = digits[0], nn.ReLU()
    net = nn.Sequential(nn.Linear(64, 20), act, nn.Linear(20, 20), act)
    assert nh.compress(net, X, levels=4).widths == (20, 20)


def test_a_batch_norm_is_folded_into_the_layer_before(digits):
    X = digits[0]
    one, act = sequential(64, 20)
    norm = nn.BatchNorm1d(20)
    for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        values.uniform_(0.5, 2.0)
    net = nn.Sequential(one, norm, act, nn.Linear(20, 3))
    (layer,) = nh.compress(net, X, levels=16).layers
    u = nn.Sequential(one, norm).eval()(torch.from_numpy(X).float()).detach().numpy()
    z = layer.scale * X @ layer.weights.to_dense().T + layer.offset
    np.testing.assert_allclose(z.mean(axis=0), u.mean(axis=0), atol=1e-4)
    assert z.std(axis=0).mean() == pytest.approx(u.std(axis=0).mean(), rel=1e-4)


def test_weights_are_those_that_the_network_uses(digits):
    """After pruning by hooks, or under a parametrisation, `weight` is only made when it runs."""
    X, (one, act) = digits[0], sequential(64, 20)
    prune.l1_unstructured(one, "weight", 0.75)
    with torch.no_grad():
        one.weight_orig.neg_()
    (layer,) = nh.compress(nn.Sequential(one, act), X, sparsity=0.5).layers
    used = (one.weight_orig * one.weight_mask).detach().numpy()
    assert np.array_equal(layer.weights.to_dense(), np.sign(used))
    normed = weight_norm(sequential(64, 20)[0])
    (layer,) = nh.compress(nn.Sequential(normed, act), X, sparsity=0.0).layers
    assert np.array_equal(layer.weights.to_dense(), np.sign(normed.weight.detach().numpy()))


@pytest.mark.parametrize(
    ("module", "same"),
    [
        (nn.ELU(0.5), nh.activation("elu", alpha=0.5)),
        (nn.ReLU6(), nh.activation("relu6")),
        (nn.Softplus(beta=5), nh.activation("softplus", beta=5)),
        (nn.PReLU(init=0.1), nh.activation("leaky_relu", slope=np.float32(0.1))),
        (Sine(), nh.activation("sin")),
        (Kinked([0.0]), RELU),
    ],
)
def test_activations_of_torch_and_of_ones_own(digits, module, same):
    X, one = digits[0], nn.Linear(64, 20)
    (layer,) = nh.compress(nn.Sequential(one, module), X, levels=8).layers
    u = X @ one.weight.detach().numpy().T + one.bias.detach().numpy()
    (step,) = nh.match([same], np.sqrt(np.mean(u**2)), 8, grid="uniform").activations
    np.testing.assert_allclose(layer.activation.levels, step.levels, rtol=1e-4, atol=1e-6)


LINEAR = nn.Linear(64, 5)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Conv2d(1, 2, 3), nn.ReLU()], r"net\[0\], a Conv2d, .*compress what follows"),
        ([nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3)], r"net\[0\], a Unflatten, .* a Linear"),
        (
            [LINEAR, nn.Sequential(nn.Softmax(dim=1), nn.ReLU())],
            r"net\[1\]\[0\], a Softmax, .*elem",
        ),
        ([LINEAR, nn.ReLU(), nn.Linear(5, 2), nn.Softmax(dim=0)], r"net\[3\], a Softmax, .*else"),
        ([LINEAR, nn.ReLU(), nn.BatchNorm1d(5)], r"net\[2\], a BatchNorm1d, .*only a Linear"),
        ([LINEAR, nn.BatchNorm1d(5, track_running_stats=False)], r"net\[1\], a BatchNorm1d"),
        ([LINEAR, nn.LayerNorm(5)], r"net\[1\], a LayerNorm, .*elementwise"),
        ([LINEAR, nn.PReLU(5)], r"net\[1\], a PReLU, .*elementwise"),
        ([LINEAR, Kinked()], r"net\[1\], a Kinked, .*`breakpoints`"),
        ([LINEAR, nn.Linear(5, 2)], r"net\[1\], a Linear, .*elementwise"),
        ([LINEAR, nn.ReLU(), nn.ReLU()], r"net\[2\], a ReLU, .*only a Linear"),
        ([Backward(64, 5), nn.ReLU()], r"net\[0\], a Backward, .*something else than its type"),
        ([hooked(nn.Linear(64, 5)), nn.ReLU()], r"net\[0\], a Linear, .*something else"),
        ([LINEAR, hooked(nn.ReLU())], r"net\[1\], a ReLU, .*something else"),
        ([hooked(nn.Sequential(LINEAR)), nn.ReLU()], r"net\[0\], a Sequential, .*nothing else"),
        ([LINEAR], "at least one Linear layer followed by an activation"),
        ([], "at least one Linear layer"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name_and_place(digits, modules, message):
    with pytest.raises(TypeError, match=message):
        nh.compress(nn.Sequential(*modules), digits[0])


@pytest.fixture(scope="module")
def two_classes():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("end", [[], [nn.Sigmoid()]])
def test_one_output_is_the_logit_of_the_second_class(two_classes, end):
    X, y = two_classes
    net = nn.Sequential(*sequential(30, 64), nn.Linear(64, 1))
    x, target = torch.from_numpy(X).float(), torch.from_numpy(y[:, None]).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x), target).backward()
        optimizer.step()
    classes = None if end else [0, 1]
    small = nh.compress(nn.Sequential(net, *end), X, levels=16, sparsity=0.3, classes=classes)
    assert small.widths == (64,) and small.readout.classes.tolist() == [0, 1]
    assert small.score(X, y) > 0.93
    with pytest.raises(ValueError, match="classes must name the two that net's one output tells"):
        nh.compress(net, X)
    words = nh.compress(net, X, levels=16, sparsity=0.3, classes=["ill", "well"])
    assert words.score(X, np.array(["ill", "well"])[y]) == small.score(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_classifiers_of_scikit_learn_keep_their_labels(two_classes, digits, tmp_path, activation):
    options = {
        "activation": activation,
        "max_iter": 60,
        "random_state": 0,
        "learning_rate_init": 0.01,
    }
    for X, y in (two_classes, digits[:2]):
        labels = np.array([f"class {i}" for i in range(10)])[y]
        net = MLPClassifier((64,), **options).fit(X, labels)
        small = nh.compress(net, X, levels=16, sparsity=0.3)
        assert small.score(X, labels) > net.score(X, labels) - 0.06
        small.save(tmp_path / "net")
        assert np.array_equal(nh.load(tmp_path / "net").predict(X), small.predict(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_values_and_several_labels_are_refused(two_classes):
    X, y = two_classes
    values = MLPRegressor(hidden_layer_sizes=(5,), max_iter=2).fit(X, y)
    several = MLPClassifier((5,), max_iter=2).fit(X, np.column_stack([y, 1 - y]))
    for net, message in [
        (values, "MLPRegressor"),
        (several, "MLPClassifier"),
        (MLPClassifier(), "fitted"),
    ]:
        with pytest.raises(TypeError, match=message):
            nh.compress(net, X)


def test_other_bad_input_is_refused(digits, small):
    X, y, _, _ = digits
    net = nh.RandomMLP(64, [20], [RELU], 1.0)
    trained, hidden = (
        nn.Sequential(*sequential(64, 5), nn.Linear(5, 3)),
        nn.Sequential(*sequential(64, 5)),
    )
    for call, error, message in [
        (lambda: nh.compress(nn.Linear(2, 2), X), TypeError, "got Linear"),
        (lambda: nh.compress(net, X[:, :5]), ValueError, "X must have 64 columns"),
        (lambda: nh.compress(trained, X[:, :5]), ValueError, r"X must fit net: net\[0\] is Linear"),
        (lambda: nh.compress(trained, X[:1]), ValueError, "X must hold samples that differ"),
        (lambda: nh.compress(trained, 0 * X), ValueError, "X must hold samples that differ"),
        (
            lambda: nh.compress(net, 3 * X),
            ValueError,
            "tau0=1; its rows have root mean square norm 3",
        ),
        (lambda: nh.compress(net, X, sparsity=1.0), ValueError, "sparsity must be in"),
        (lambda: nh.compress(net, X, seed=-1), ValueError, "seed must be"),
        (lambda: nh.compress(net, X, levels=1), ValueError, "levels must be"),
        (lambda: nh.compress(net, X, weights="kept"), ValueError, "weights must be one of drawn"),
        (lambda: nh.compress(net, X, classes=[0, 1]), ValueError, "classes belong to a trained"),
        (
            lambda: nh.compress(trained, X, levels="paper"),
            ValueError,
            "a Matching is for a RandomMLP",
        ),
        (lambda: nh.compress(trained, X, levels=[2, 3]), ValueError, "levels must have 1 entries"),
        (lambda: nh.compress(trained, X, classes=[0, 1]), ValueError, "classes must have shape"),
        (lambda: nh.compress(hidden, X, classes=[0, 1]), ValueError, "ends with a Linear layer"),
        (lambda: nh.compress(net, X, 4).predict(X), ValueError, "call fit_readout first"),
        (lambda: nh.compress(net, X, 4).fit_readout(X, y[:-1]), ValueError, "y must have shape"),
        (lambda: small.features(X[:, :3]), ValueError, "X must have 64 columns"),
        (lambda: small.features(X, device="nowhere"), ValueError, "device must be"),
        (
            lambda: setattr(
                small,
                "readout",
                nh.compression.Readout.from_weights(np.ones((3, 2)), [0, 0], [0, 1]),
            ),
            ValueError,
            "must take 60 features",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_a_law_of_another_variance_is_refused(digits):
    law = nh.theory.Pruned(0.5, rescale=False)
    net = nh.RandomMLP(64, [20], [RELU], weights=law)
    with pytest.raises(ValueError, match="weights of variance 1"):
        nh.compress(net, digits[0])


def test_a_score_is_of_labels_one_a_row(small, digits):
    X, y = digits[2:]
    for wrong, message in [
        (y[:, None], "y must have shape"),
        (None, "y must"),
        (y[1:], "y must have shape"),
        (y.astype(str), "y must be labels like"),
        (y + 0.5, "y must be whole numbers or text"),
    ]:
        with pytest.raises(ValueError, match=message):
            small.score(X, wrong)
    named = nh.CompressedNetwork(small.layers).fit_readout(*(digits[0], digits[1].astype(str)))
    assert named.score(X, y.astype(str)) == np.mean(small.predict(X) == y) == small.score(X, y)


def test_layers_that_do_not_fit_are_refused():
    T = nh.compression.TernaryMatrix.from_dense(np.eye(3, dtype=np.int8))
    step = nh.Quantized([0.0], [0.0, 1.0])
    for arguments, message in [
        ((T, 0.0, step), "scale must be a positive"),
        ((T, 1.0, step, np.zeros(2)), "offset must have one entry per neuron"),
        ((T, 1.0, step, [0, np.nan, 0]), "offset must be finite"),
        ((T, 1.0, RELU), "activation must be a Quantized"),
        ((T, 1.0, nh.Quantized(np.arange(65536), np.arange(65537))), "at most 65536 levels"),
    ]:
        with pytest.raises(ValueError, match=message):
            nh.compression.TernaryLayer(*arguments)
    other = nh.compression.TernaryMatrix.from_dense(np.ones((2, 2), np.int8))
    layers = [nh.compression.TernaryLayer(M, 1.0, step) for M in (T, other)]
    with pytest.raises(ValueError, match="3 outputs are followed by 2 inputs"):
        nh.CompressedNetwork(layers)
    for wrong in ([], None, "layers", layers[0]):
        with pytest.raises(ValueError, match="layers must be a sequence of at least one"):
            nh.CompressedNetwork(wrong)
    assert layers[0] == layers[0] and layers[0] != layers[1]


def test_a_network_by_torch_is_the_network_at_hand(digits):
    """Its own staircases at its own scale, and its own weights, drawn or not."""
    X = 3 * digits[0]
    net = nh.RandomMLP(64, [90, 70, 50], [RELU] * 3, tau0=3.0, seed=1)
    found = nh.match([RELU] * 3, 3.0, 8, grid="uniform")
    for options in ({}, {"weights": "projected"}, {"grid": "free", "levels": 3}):
        small = nh.compress(net, X, **{"levels": found} | options)
        by_torch, wanted = small.features(X, device="cpu"), small.features(X)
        # A first-layer sum may be rounded across a threshold; no other difference is possible.
        differ = np.abs(by_torch - wanted).max(axis=1) > 1e-6
        assert differ.mean() < 0.02


@pytest.mark.parametrize("levels", [127, 255, 256])
def test_as_many_levels_as_int8_has_numbers(digits, levels):
    X = digits[0]
    net = nh.RandomMLP(64, [40, 30], [nh.activation("sigmoid")] * 2, seed=1)
    small = nh.compress(net, X, levels=levels, sparsity=0.0)
    h = X
    for layer in small.layers:
        h = layer.activation(layer.scale * h @ layer.weights.to_dense().T)
    # Sums that are a threshold but for rounding fall on either side here.
    assert np.mean(np.abs(small.features(X) - h) > 1e-7) < 0.005


def test_more_pieces_than_a_byte_counts(digits):
    """A staircase may go down and up again, so that it has more pieces than levels."""
    X, y = digits[:2]
    T = nh.compression.TernaryMatrix.from_dense(nh.theory.draw_ternary((30, 64), 0.5, 0))
    zigzag = nh.Quantized(np.linspace(-2, 2, 600), np.arange(601) % 7)
    small = nh.CompressedNetwork([nh.compression.TernaryLayer(T, 1.0, zigzag)])
    expected = zigzag(X @ T.to_dense().T)
    assert np.array_equal(small.features(X), expected)
    assert np.array_equal(small.features(X[:2]), expected[:2])


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
