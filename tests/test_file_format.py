"""The page that specifies the file: its vectors are what the package writes, and both readers follow."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import readers
import torch
import vectors
from books import ROOT
from damages import framed, parts_of
from readers import in_shape, text_of
from small_networks import one_network

import ntklc_helpers as nh
from ntklc_helpers.compression import NetworkFileError
from ntklc_helpers.compression.loading import of_bytes

TOLD = json.loads(readers.VECTORS.read_text(encoding="utf-8"))
PAGE = (ROOT / "book/file_format.md").read_text(encoding="utf-8")
NAMES = [one["name"] for one in TOLD["networks"]]


def content_of(one):
    return base64.b64decode(one["file"])


def told(value):
    """Files as what they hold: another zlib packs a description in other bytes."""
    if isinstance(value, dict) and "file" in value:
        content = content_of(value)
        try:
            return {**value, "file": parts_of(content)}
        except (ValueError, zlib.error):
            return value
    return value


def test_the_vectors_are_what_the_package_writes():
    made = json.loads(vectors.text())
    assert made.keys() == TOLD.keys()
    for key, value in made.items():
        if isinstance(value, list):
            assert [*map(told, value)] == [*map(told, TOLD[key])], key
        else:
            assert value == TOLD[key]


@pytest.mark.parametrize("one", TOLD["networks"], ids=NAMES)
def test_python_gives_what_the_vectors_say(one):
    network = of_bytes(content_of(one))
    X = in_shape(network, np.array(one["inputs"]))
    assert network.outputs(X).tolist() == one["outputs"]
    assert network.predict(X).tolist() == one["predictions"]
    if "features" in one:
        assert network.features(X).tolist() == one["features"]


@pytest.mark.parametrize("one", TOLD["networks"], ids=NAMES)
def test_javascript_gives_what_the_vectors_say(javascript, one):
    run = """([file, inputs]) => {
        const network = ntklc.read(bytes(file));
        return inputs.map((x) => ['outputs', 'predict', 'features'].map((what) => {
            const found = network[what](x);
            return ArrayBuffer.isView(found) ? Array.from(found) : found;
        }));
    }"""
    found = javascript.page.evaluate(run, [one["file"], one["inputs"]])
    outputs, predictions, features = (list(each) for each in zip(*found, strict=True))
    assert outputs == one["outputs"] and predictions == one["predictions"]
    assert features == one.get("features", features)


def test_many_sums_of_the_vectors_lie_on_a_threshold():
    """A reader that takes the upper level there fails: all thresholds a little lower is that."""
    one = TOLD["networks"][0]
    network = of_bytes(content_of(one))
    moved = []
    for layer in network.layers:
        stairs = layer.activation
        lower = nh.Quantized(np.array(stairs.thresholds) - 1e-6, stairs.levels)
        moved.append(nh.compression.TernaryLayer(layer.weights, layer.scale, lower))
    other = nh.CompressedNetwork(moved).features(one["inputs"])
    assert np.mean(other != np.array(one["features"])) > 0.1


@pytest.mark.parametrize("one", TOLD["matrices"], ids=lambda one: f"{one['seed']}")
def test_matrices_by_their_seed(javascript, one):
    T = nh.theory.draw_ternary((3, 5), one["sparsity"], one["seed"], one["stream"])
    assert T.tolist() == one["rows"]
    given = [one["sparsity"], str(one["seed"]), str(one["stream"])]
    run = "([s, a, b]) => Array.from(ntklc.drawTernary(3, 5, s, BigInt(a), BigInt(b)))"
    assert javascript.page.evaluate(run, given) == sum(one["rows"], [])


def generated(seed, stream, n):
    """Outputs of the generator as the page writes it down, in whole numbers of Python alone."""
    mask, entropy = 2**32 - 1, []
    for number in (seed, stream):
        digits = [number & mask]
        while number := number >> 32:
            digits.append(number & mask)
        entropy += digits
    h = 0x43B0D7E5

    def hashed(x, factor=0x931E8875):
        nonlocal h
        x, h = x ^ h, h * factor & mask
        x = x * h & mask
        return x ^ x >> 16

    def mix(x, y):
        z = (0xCA01F9DD * x - 0x4973F715 * y) & mask
        return z ^ z >> 16

    pool = [hashed((entropy + [0] * 4)[i]) for i in range(4)]
    for i in range(4):
        for j in range(4):
            if i != j:
                pool[j] = mix(pool[j], hashed(pool[i]))
    for digit in entropy[4:]:
        for j in range(4):
            pool[j] = mix(pool[j], hashed(digit))
    h = 0x8B51F9DD
    g = [hashed(pool[i % 4], 0x58F38DED) for i in range(8)]
    G = [g[2 * i] + (g[2 * i + 1] << 32) for i in range(4)]
    factor, whole = 0x2360ED051FC65DA44385DF649FCCF645, 2**128 - 1
    inc = 2 * ((G[2] << 64) + G[3]) + 1 & whole
    state = ((inc + (G[0] << 64) + G[1]) * factor + inc) & whole
    for _ in range(n):
        state = (state * factor + inc) & whole
        x, turn = (state >> 64) ^ (state & 2**64 - 1), state >> 122
        yield (x >> turn | x << (64 - turn)) & 2**64 - 1


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 7), (2**64 - 1, 2**40), (2**200 + 9, 3)])
def test_the_page_writes_the_generator_down(seed, stream):
    raw = np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(5)
    assert list(generated(seed, stream, 5)) == raw.tolist()
    constants = set(re.findall(r"0x[0-9a-f]+", PAGE))
    assert constants == {
        *("0x43b0d7e5", "0x931e8875", "0xca01f9dd", "0x4973f715", "0x8b51f9dd", "0x58f38ded"),
        "0x2360ed051fc65da44385df649fccf645",
    }


@pytest.mark.parametrize("one", TOLD["refused"], ids=lambda one: one["name"])
def test_what_must_be_refused_is(javascript, one, tmp_path):
    (tmp_path / "net").write_bytes(content_of(one))
    with pytest.raises(NetworkFileError) as caught:
        nh.load(tmp_path / "net")
    assert str(caught.value).startswith(f"{tmp_path / 'net'}: ")
    (verdict,) = javascript.verdicts([content_of(one)])
    assert len(verdict["reason"]) > 10


def test_the_header_on_the_page_is_that_of_the_file():
    (header,) = re.findall(r'^(\{"__metadata__".*)$', PAGE, re.MULTILINE)
    content = (ROOT / "book/_static/networks/mnist_large.safetensors").read_bytes()
    assert content[8:].startswith(header.encode())
    body = content[8 + len(header) :]
    assert framed(body) == content and content[34:50].decode() in header


def test_the_page_names_every_operation_and_option():
    from ntklc_helpers.compression.operations import OPTIONS, PLAIN

    for name in [*PLAIN, *(option for options in OPTIONS.values() for option in options)]:
        assert f"`{name}`" in PAGE


def test_windows_and_pools_of_every_kind_are_those_of_torch(javascript):
    rng = np.random.default_rng(5)
    run = "([file, x]) => Array.from(ntklc.read(bytes(file)).outputs(numbers(x)))"
    taken = 0
    for _ in range(150):
        network = one_network(rng)
        content = network.to_bytes()
        x = rng.integers(-8, 9, network.shape).astype(np.float64)
        (verdict,) = javascript.verdicts([content])
        try:
            ours = of_bytes(content).outputs(x[None])[0]
        except NetworkFileError:
            assert "reason" in verdict
            continue
        assert "reason" not in verdict, (network.steps, verdict)
        theirs = javascript.page.evaluate(run, [text_of(content), text_of(x.tobytes())])
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-4)
        with torch.no_grad():
            assert network(torch.from_numpy(x[None]).float()).shape == (1, 2)
        taken += 1
    assert 30 < taken < 150
