"""Trained networks on codes and staircases: the same network nearly, in a file, or refused."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import ntklc_helpers as nh
from ntklc_helpers.compression import ConvertedNetwork, agreement
from ntklc_helpers.compression.operations import Affine, Plain, run
from ntklc_helpers.compression.reading import read
from ntklc_helpers.compression.rounding import code_range
from ntklc_helpers.compression.storage import from_bytes, to_bytes

BITS = ["ternary", 2, 3, 4, 8]


def trained(net, X, y, steps=300, rate=0.01):
    """The network after some steps of Adam on all samples; values for float targets."""
    X = torch.tensor(X, dtype=torch.float32)
    target = torch.tensor(y if np.issubdtype(np.asarray(y).dtype, np.integer) else np.float32(y))
    loss = F.mse_loss if target.is_floating_point() else F.cross_entropy
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(X), target).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def digits():
    train, test = nh.load_digits(split="train"), nh.load_digits(split="test")
    return nh.normalize(train.X), train.labels, nh.normalize(test.X, train.X), test.labels


@pytest.fixture(scope="module")
def dense(digits):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 30), nn.Tanh())
    return trained(net.append(nn.Linear(30, 10)), *digits[:2])


@pytest.fixture(scope="module")
def small(digits, dense):
    return nh.compress(dense, digits[0], levels=8, bits="ternary", seed=3)


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding="same", groups=2)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)

    def forward(self, x):
        return F.relu(x + self.second(F.gelu(self.norm(self.first(x)))))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(True))
        self.block, self.drop = Block(8), nn.Dropout(0.2)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 10)

    def forward(self, x):
        x = self.pool(self.block(self.stem(x)))
        x = F.avg_pool2d(x, 2, stride=1)
        return F.log_softmax(self.head(self.drop(x.mean((2, 3)).view(x.size(0), -1))), dim=1)


@pytest.fixture(scope="module")
def images(digits):
    """A third of the training images, and all test images."""
    both = digits[0][::3], digits[2]
    return [X.reshape(-1, 1, 8, 8).astype(np.float32) * 8 for X in both]


@pytest.fixture(scope="module")
def convolutional(images, digits):
    torch.manual_seed(1)
    return trained(Convolutional(), images[0], digits[1][::3], 80, 0.02)


def test_eight_bits_and_many_levels_are_the_network(digits, dense):
    X, _, X_test, _ = digits
    found = nh.compress(dense, X, levels=256, bits=8)
    close = agreement(found, dense, X_test)
    assert close.classes > 0.99 and close.error < 0.02
    assert found(torch.from_numpy(X_test).float()).shape == (len(X_test), 10)


def test_more_bits_and_levels_change_less(digits, dense):
    X, _, X_test, _ = digits

    def error(levels, bits):
        return agreement(nh.compress(dense, X, levels=levels, bits=bits), dense, X_test).error

    by_bits = [error(64, bits) for bits in BITS]
    assert by_bits == sorted(by_bits, reverse=True)
    by_levels = [error(levels, 8) for levels in (2, 4, 16, 64)]
    assert by_levels == sorted(by_levels, reverse=True)


def test_few_codes_change_less_than_signs(digits, dense, small):
    X, _, X_test, _ = digits
    signs = nh.compress(dense, X, levels=8, sparsity=0.5)
    own = dense(torch.tensor(X_test).float()).argmax(1).numpy()
    changed, by_signs = (np.mean(found.predict(X_test) != own) for found in (small, signs))
    assert changed < by_signs and changed < 0.03


def test_every_neuron_keeps_its_mean(dense, digits):
    """Of all samples where they are too few to hold any out; scales and biases have 11 bits."""
    X = digits[0][:9]
    found = nh.compress(dense, X, levels=4, bits="ternary")
    x = torch.tensor(X).float()
    for last in (1, 3, 5):
        before, after = (run(steps[:last], x) for steps in (read(dense, x).steps, found.steps))
        most = float(before.abs().max())
        np.testing.assert_allclose(before.mean(0), after.mean(0), atol=2**-11 * most)


def test_the_report_is_what_is_in_the_file(small):
    assert [layer.path for layer in small.report] == [f"net[{i}]" for i in range(5)]
    assert [layer.bits for layer in small.report] == ["ternary", None, "ternary", None, 8]
    assert [layer.levels for layer in small.report] == [None, 8, None, 8, None]
    tensors, _ = from_bytes(small.to_bytes())
    assert sum(layer.nbytes for layer in small.report) == sum(a.nbytes for a in tensors.values())
    assert all(0 < layer.error < 0.2 for layer in small.report)


@pytest.mark.parametrize("bits", [*BITS, [4, "ternary", 2]])
def test_saved_and_loaded_it_gives_the_same(digits, dense, tmp_path, bits):
    X, _, X_test, _ = digits
    found = nh.compress(dense, X, levels=5, bits=bits, classes=[f"no. {k}" for k in range(10)])
    size = found.save(tmp_path / "net")
    again = nh.load(tmp_path / "net")
    memory = found.memory()
    assert size == (tmp_path / "net").stat().st_size == memory.packed_file
    assert isinstance(again, ConvertedNetwork) and repr(again) == repr(found)
    assert np.array_equal(again.outputs(X_test), found.outputs(X_test))
    assert again.predict(X_test)[0].startswith("no. ") and again.to_bytes() == found.to_bytes()
    # Scales and biases count, and little else.
    rows, codes = 60 + 30 + 10, memory.weights * memory.bits_per_weight / 8
    assert codes + 4 * rows < size < codes + 4 * rows + 700
    if bits in (2, 3, 4, 8):
        hidden = 64 * 60 + 60 * 30
        assert round(memory.weights * memory.bits_per_weight) <= hidden * bits + 300 * 8


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    rows=st.integers(1, 5),
    columns=st.integers(1, 90),
    zeros=st.sampled_from([0, 0.3, 0.9, 1]),
    seed=st.integers(0),
)
def test_packed_codes_are_found_again(bits, rows, columns, zeros, seed):
    low, high = code_range(bits)
    rng = np.random.default_rng(seed)
    codes = rng.integers(low, high, (rows, columns), np.int8, endpoint=True)
    codes[rng.random(codes.shape) < zeros] = 0
    scale, bias = rng.random((2, rows), np.float32)
    layer = Affine(codes, scale, bias, bits)
    arrays, about = layer.to_arrays()
    assert np.array_equal(Affine.from_arrays(arrays, about).codes, codes)
    if bits != "ternary":
        # Where there are many zeros, the places of the others take less than zeros do.
        assert len(arrays["codes"]) <= -(-codes.size * bits // 8)


def test_of_a_pruned_layer_places_and_numbers_are_kept():
    codes = np.zeros((40, 50), np.int8)
    codes.ravel()[::20] = np.resize([-8, -3, 1, 7], 100)
    layer = Affine(codes, *np.ones((2, 40), np.float32), 4)
    arrays, about = layer.to_arrays()
    # Gaps of 19 by the best of Rice's codes, 1 bit for a sign and 3 for a size.
    assert len(arrays["codes"]) < 100 * (6 + 1 + 3) / 8 + 4 < codes.size * 4 / 8 / 7
    assert np.array_equal(Affine.from_arrays(arrays, about).codes, codes)
    with pytest.raises(ValueError, match="beyond 7"):
        # Where -8 stood, a sign less.
        low = -(-100 * about["packed"][1] // 8)
        forged = arrays["codes"].copy()
        forged[low] ^= 1 << 7
        Affine.from_arrays(arrays | {"codes": forged}, about)


@pytest.mark.parametrize("bits", [8, 4, "ternary"])
def test_what_was_pruned_stays_pruned(digits, dense, bits):
    X, _, X_test, _ = digits
    pruned = deepcopy(dense)
    for layer in (module for module in pruned if isinstance(module, torch.nn.Linear)):
        prune.l1_unstructured(layer, "weight", amount=0.8)
        prune.remove(layer, "weight")
    small = nh.compress(pruned, X, levels=32, bits=[bits, bits, 8])
    linear = [module.weight for module in pruned if isinstance(module, torch.nn.Linear)]
    layers = [step.operation for step in small.steps if isinstance(step.operation, Affine)]
    for weight, layer in zip(linear, layers, strict=True):
        assert not layer.codes[weight.detach().numpy() == 0].any()
    assert agreement(small, pruned, X_test).error < {8: 0.15, 4: 0.2, "ternary": 0.6}[bits]
    whole = nh.compress(dense, X, levels=32, bits=[bits, bits, 8])
    assert len(small.to_bytes()) < len(whole.to_bytes()) * 0.75


def test_a_convolutional_network_of_modules_and_functions(images, convolutional, tmp_path):
    X, X_test = images
    x = torch.from_numpy(X_test)
    before = [p.clone() for p in convolutional.state_dict().values()]
    convolutional.train()
    found = nh.compress(convolutional, X, levels=128, bits=8)
    # Left as it was.
    assert convolutional.training and convolutional.block.norm.training
    assert all(map(torch.equal, before, convolutional.state_dict().values()))
    convolutional.eval()
    close = agreement(found, convolutional, X_test)
    assert close.classes > 0.98 and close.error < 0.05
    kinds = [layer.path for layer in found.report]
    assert kinds == [
        *("net.stem[0]", "net.stem[2]", "net.block.first", "net.block: gelu", "net.block.second"),
        *("net.block: relu", "net.head"),
    ]
    found.save(tmp_path / "net")
    assert np.array_equal(nh.load(tmp_path / "net").outputs(X_test), found.outputs(X_test))
    proba = convolutional(x).exp().detach().numpy()
    np.testing.assert_allclose(found.predict_proba(X_test), proba, atol=0.1)
    few = nh.compress(convolutional, X, levels=16, bits=4)
    assert agreement(few, convolutional, X_test).classes > 0.93
    assert few.memory().packed_file < 0.7 * found.memory().packed_file


def test_what_is_read_is_the_network(images, convolutional):
    x = torch.from_numpy(images[1])
    original = read(convolutional, x)
    assert original.shows
    logits = run(original.steps, x)
    np.testing.assert_allclose(logits.log_softmax(1), convolutional(x).detach(), atol=1e-5)


def test_a_batch_of_images_does_not_enter(images, convolutional):
    found = nh.compress(convolutional, images[0][:300], levels=16, bits="ternary")
    parts = [found.outputs(images[1][i : i + 7]) for i in range(0, 70, 7)]
    np.testing.assert_allclose(np.concatenate(parts), found.outputs(images[1][:70]), atol=1e-4)


def elementwise(x):
    return x * 0.5 + 0.1


class Own(nn.Module):
    def forward(self, x):
        return torch.where(x > 0.3, torch.sin(x), 0.1 * x)


@pytest.mark.parametrize(
    "hidden",
    [
        [Own()],
        [nn.ELU(), nn.Hardtanh()],
        [nn.Identity(), nn.Sequential(), nn.SiLU(), nn.Dropout(), nn.Flatten()],
        [nn.PReLU()],
        [nn.BatchNorm1d(30), nn.Sequential(nn.Softplus())],
    ],
)
def test_activations_of_torch_and_of_ones_own(digits, hidden):
    X, y, X_test, _ = digits
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(64, 30), *deepcopy(hidden), nn.Linear(30, 10))
    trained(net, X, y, 100)
    found = nh.compress(net, X, levels=64, bits=8)
    assert len(found.report) == 3 and agreement(found, net, X_test).classes > 0.97


def test_weights_are_those_that_the_network_uses(digits, dense):
    X, _, X_test, _ = digits
    pruned = deepcopy(dense)
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    found = nh.compress(pruned, X, levels=64, bits=8)
    assert agreement(found, pruned, X_test).classes > 0.97
    double = nn.Sequential(dense[0], nn.PReLU(), *dense[2:])
    double = deepcopy(double).double()
    assert agreement(nh.compress(double, X, levels=64, bits=8), double, X_test).classes > 0.97


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(64, 4)

    def forward(self, x):
        return self.part(x) * self.part(x)


def hooked(*end):
    net = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3), *end)
    net.register_forward_hook(lambda *arguments: -arguments[-1])
    return net


L, M = nn.Linear(64, 8), nn.Linear(8, 3)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(L, nn.Softmax(1), M),
            "net[1], a Softmax, cannot be compressed: only Linear,",
        ),
        (nn.Sequential(L, nn.Sequential(nn.GLU()), nn.Linear(4, 2)), "net[1][0], a GLU, cannot"),
        (nn.Sequential(L, nn.PReLU(8), M), "net[1], a PReLU, cannot be compressed"),
        (nn.Sequential(L, nn.LayerNorm(8), M), "net[1], a LayerNorm, cannot be compressed"),
        (nn.Sequential(nn.BatchNorm1d(64), L), "net[0], a BatchNorm1d, cannot be compressed: it m"),
        (nn.Sequential(L, nn.ReLU(), Doubled(8, 3)), "net[2], a Doubled, cannot be compressed: it"),
        (nn.Sequential(L, nn.ReLU()), "net must end with a Linear layer"),
        (nn.Sequential(Branches(), nn.Sequential(L)), "net[0], a Branches, cannot be compressed"),
        (Two(), "net: mul, a "),
        (hooked(nn.Softmax(1)), "net, a Sequential, cannot be compressed: it must give one tensor"),
        (nn.Sequential(nn.Flatten(), L, nn.PReLU(8), M), "net[2], a PReLU, cannot be compressed"),
        (hooked(), "net, a Sequential, cannot be compressed: it must give one tensor"),
        (nh.RandomMLP(64, [5], ["relu"]), "bits are for networks that were trained"),
        ("net", "net must be a torch.nn.Module, or a fitted MLPClassifier or MLPRegressor"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name_and_place(digits, net, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        nh.compress(net, digits[0], levels=4, bits=4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 5}, "bits must be one of 'ternary', 2, 3, 4, 8, got 5"),
        ({"bits": True}, "bits must be one of"),
        ({"bits": [4, 4]}, "bits must have 3 entries, as many as layers of weights, got 2"),
        ({"levels": 1}, "levels must be a whole number from 2 to 256, got 1"),
        ({"levels": [4]}, "levels must have 2 entries, as many as activations"),
        ({"levels": "paper"}, "levels must be numbers with bits"),
        ({"max_change": 2}, "max_change must be in [0, 1)"),
        ({"max_change": 0.01, "bits": None}, "max_change is of networks compressed with bits"),
        ({"classes": [0, 1]}, "classes must have shape (10,)"),
        ({"classes": [0] * 5 + [1] * 5}, "classes must be different"),
        ({"X": np.ones((5, 64))}, "X must hold samples that differ"),
        ({"X": np.eye(63)}, "X must fit net: net[0] cannot take [(63, 63)]"),
        ({"X": np.ones((2, 5, 64))}, "X must fit net: of (2, 5, 64) it makes (2, 5, 10)"),
        ({"X": np.ones(64)}, "X must have a sample a row, got shape (64,)"),
        ({"X": np.full((5, 64), 1e300)}, "X must be finite in float32"),
        ({"X": np.full((5, 64), np.nan)}, "X must be finite; it holds NaN"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_other_bad_input_is_refused(digits, dense, changed, message):
    arguments = {"net": dense, "X": digits[0][:50], "levels": 4, "bits": 4} | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        nh.compress(**arguments)


def test_a_conversion_that_changes_too_much_is_not_returned(digits, dense):
    X = digits[0]
    found = nh.compress(dense, X, levels=64, bits=8, max_change=0.1)
    assert found.score(X, digits[1]) > 0.95
    noise = np.random.default_rng(0).standard_normal((300, 64)) / 8
    with pytest.raises(ValueError, match=r"max_change is 0.01, but 0\.\d+ of the classes would"):
        nh.compress(dense, noise, levels=2, bits="ternary", max_change=0.01)


def test_odd_questions_to_a_network(digits, dense, small):
    X, _, X_test, y_test = digits
    for wrong in (X_test[:, :-1], X_test[0], X_test[None]):
        with pytest.raises(ValueError, match="X must have"):
            small.predict(wrong)
    with pytest.raises(ValueError, match=r"y must be labels like .*, got .*'a'"):
        small.score(X_test, ["a"] * len(X_test))
    with pytest.raises(ValueError, match="y must have shape"):
        small.score(X_test, y_test[:, None])
    with pytest.raises(TypeError, match="small must be a ConvertedNetwork, got Sequential"):
        agreement(dense, dense, X)
    with pytest.raises(ValueError, match="net must have 10 outputs, got 3"):
        agreement(small, nn.Sequential(nn.Linear(64, 3)), X)
    with pytest.raises(TypeError, match="path must be text or a path, got int"):
        small.save(3)


@pytest.fixture(scope="module")
def two_classes():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("end", [[], [nn.Sigmoid()]])
def test_one_output_is_a_logit_or_a_value_and_never_zeros(two_classes, end):
    X, y = two_classes
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 1))
    trained(net, X, np.where(y, 4.0, -4.0)[:, None], 200)
    with_end = nn.Sequential(*net, *end)
    if not end:
        with pytest.raises(ValueError, match=r"classes must name the two .* or be \(\) where"):
            nh.compress(with_end, X, levels=16, bits=4)
    found = nh.compress(with_end, X, levels=16, bits=4, classes=["no", "yes"])
    assert found.score(X, np.where(y, "yes", "no")) > 0.96
    proba = found.predict_proba(X)
    assert proba.shape == (len(X), 2) and np.array_equal(
        proba[:, 1] > 0.5, found.predict(X) == "yes"
    )
    values = nh.compress(with_end, X, levels=16, bits=4, classes=())
    assert np.corrcoef(values.predict(X), net(torch.tensor(X).float())[:, 0].detach())[0, 1] > 0.98
    with pytest.raises(ValueError, match="outputs are values"):
        values.score(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh", "identity"])
def test_networks_of_scikit_learn(two_classes, activation, tmp_path):
    X, y = two_classes
    names = np.array(["benign", "malign"])[y]
    net = MLPClassifier([20, 10], activation=activation, max_iter=60, random_state=0).fit(X, names)
    found = nh.compress(net, X, levels=16, bits=4)
    assert np.mean(found.predict(X) == net.predict(X)) > 0.97
    np.testing.assert_allclose(found.predict_proba(X), net.predict_proba(X), atol=0.35)
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    for targets in (y, np.stack([y, -2 * y], 1)):
        net = MLPRegressor(
            hidden_layer_sizes=[30], activation=activation, max_iter=100, random_state=0
        )
        net.fit(X, targets)
        found = nh.compress(net, X, levels=32, bits=8, max_change=0.2)
        assert found.classes is None and found.predict(X).shape == targets.shape
        assert np.std(found.predict(X) - net.predict(X)) < 0.1 * np.std(net.predict(X))
        found.save(tmp_path / "net")
        assert np.array_equal(nh.load(tmp_path / "net").predict(X), found.predict(X))
    with pytest.raises(ValueError, match="classes belong to a classifier"):
        nh.compress(net, X, levels=4, bits=4, classes=[0, 1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_labels_are_refused(two_classes):
    X, y = two_classes
    net = MLPClassifier([5], max_iter=5).fit(X, np.stack([y, 1 - y], 1))
    with pytest.raises(TypeError, match="one label a sample, or values"):
        nh.compress(net, X, levels=4, bits=4)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_whole(small, data):
    content = bytearray(small.to_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    with pytest.raises(nh.compression.NetworkFileError):
        ConvertedNetwork.from_bytes(bytes(content))


@pytest.fixture(scope="module")
def files(small, images, convolutional):
    few = nh.compress(convolutional, images[0][:50], levels=3, bits=2)
    return small.to_bytes(), few.to_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_forged_description_is_refused_or_makes_a_network(files, data):
    """With the digest made right again, whatever the description says: no other error."""
    tensors, about = from_bytes(data.draw(st.sampled_from(files)))
    junk = st.one_of(
        *(st.none(), st.booleans(), st.integers(-5, 300), st.just(10**30), st.floats()),
        *(st.text(max_size=3), st.lists(st.integers(-2, 10**9), max_size=3), st.just({})),
    )
    if data.draw(st.booleans()):
        place = data.draw(st.sampled_from([about, *about["operations"]]))
        inner = [v for v in place.values() if isinstance(v, dict) and v]
        place = data.draw(st.sampled_from([place, *inner])) if place else about
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(junk)
    else:
        name = data.draw(st.sampled_from(sorted(tensors)))
        dtype = data.draw(st.sampled_from([np.uint8, np.float32, np.float64, np.int64]))
        tensors[name] = np.array(data.draw(st.lists(st.integers(0, 255), max_size=20)), dtype)
    try:
        network = ConvertedNetwork.from_bytes(to_bytes(tensors, about))
    except nh.compression.NetworkFileError:
        return
    assert network.predict(np.zeros((2, *network.shape))).shape[0] == 2


def test_operations_are_those_of_a_list():
    with pytest.raises(ValueError, match="there is no operation 'eval'"):
        Plain.from_description("eval", {})
    with pytest.raises(ValueError, match="scale must have a finite entry a row"):
        Affine(np.ones((2, 3), np.int8), np.ones(3, np.float32), np.ones(2, np.float32), 2)
