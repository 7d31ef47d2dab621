"""Saved files read in C: the same classes as Python's, damaged ones refused, nothing read beyond them."""

import base64
import json
import shutil
import struct
import subprocess
import zlib
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from damages import damaged, with_digest
from small_networks import (
    BYTES,
    SHAPES,
    TRAIN_BYTES,
    images,
    inputs,
    on_codes,
    random_network,
    trained,
)
from torch.nn.utils import prune

import ntklc_helpers as nh
from ntklc_helpers.compression import ConvertedNetwork, Readout
from ntklc_helpers.compression.layers import Drawn
from ntklc_helpers.compression.operations import Affine
from ntklc_helpers.compression.storage import to_bytes

CC = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler here")
READER = Path(nh.compression.__file__).with_name("reader.h")
NETWORKS = Path(nh.__file__).parents[1] / "book/_static/networks"
FLAGS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZERS = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all"]

# Each file and each row of inputs lie in memory of their own length, where the sanitizers watch.
MAIN = """
#include <stdio.h>
#include "reader.h"
int main(void) {
    uint32_t sizes[2];
    ntklc_network *net = malloc(sizeof *net);
    void *memory = malloc(ROOM);
    while (fread(sizes, 4, 2, stdin) == 2) {
        uint8_t *file = malloc(sizes[0] ? sizes[0] : 1);
        ntklc_arena room = {memory, ROOM, 0};
        const char *reason;
        if (fread(file, 1, sizes[0], stdin) != sizes[0]) return 2;
        reason = ntklc_read(file, sizes[0], &room, net);
        if (reason) printf("%s", reason);
        else {
            float *x = calloc(net->inputs, sizeof *x);
            if (!sizes[1]) printf("%d ", ntklc_predict(net, x, &room));
            for (; sizes[1]; sizes[1]--) {
                if (fread(x, sizeof *x, net->inputs, stdin) != net->inputs) return 2;
                printf("%d ", ntklc_predict(net, x, &room));
            }
            free(x);
        }
        putchar('\\n');
        free(file);
    }
    free(memory);
    free(net);
    return 0;
}
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What a program in C says of files, each with rows of inputs: places of classes, or a reason."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "main.c").write_text(MAIN)
    made = {}

    def said(pairs, room=1 << 24):
        if room not in made:
            made[room] = folder / f"main{room}"
            own = [f"-DROOM={room}", f"-I{READER.parent}", "-o", made[room], folder / "main.c"]
            subprocess.run([CC, *FLAGS, *SANITIZERS, *own], check=True)
        given = b"".join(
            struct.pack("<II", len(file), len(rows)) + file + rows.astype("<f4").tobytes()
            for file, rows in pairs
        )
        told = subprocess.run([made[room]], input=given, capture_output=True)
        assert told.returncode == 0, told.stderr.decode()[-2000:]
        return told.stdout.decode().splitlines()

    return said


NONE = np.zeros((0, 1))


def described(file):
    """The description of a file, as it is compressed."""
    start = 8 + struct.unpack("<Q", file[:8])[0]
    return file[start + 4 : start + 4 + struct.unpack("<I", file[start : start + 4])[0]]


def places(line):
    return np.array(line.split(), int)


def test_random_networks_give_the_same_classes(read):
    X = inputs(BYTES).astype(np.float32)
    pairs, nets = [], []
    for about in (
        ([1], 2, 0.0),
        ([60, 40], 4, 0.9),
        ([90, 50, 20], 16, 0.5),
        ([50, 50], "paper", 0.9),
    ):
        for dtype in nh.compression.READOUT_DTYPES:
            net = random_network(*about, dtype=dtype, seed=2**33)
            net.scaling = nh.compression.Scaling(np.linspace(-0.1, 0.1, 64), np.linspace(1, 2, 64))
            pairs += [(net.to_bytes(how), X) for how in ("packed", "seed")]
            nets += [net, net]
    for net, line in zip(nets, read(pairs), strict=True):
        assert (net.readout.classes[places(line)] == net.predict(X)).all()


def test_converted_networks_give_the_same_classes(read):
    X = images(BYTES)
    bits = {"strided": "ternary"}
    nets = [
        on_codes(make(), levels=16, input_levels=17, bits=bits.get(name, 4))
        for name, make in SHAPES.items()
    ]
    rounded = nh.compress(trained(SHAPES["branches"]()), images(TRAIN_BYTES)[:300], bits=3)
    for net, line in zip(
        [*nets, rounded], read([(n.to_bytes(), X) for n in (*nets, rounded)]), strict=True
    ):
        assert (places(line) == net.predict(X)).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_pruned_layers_tell_where_they_are_not_zero(bits, read):
    X, net = images(BYTES), deepcopy(trained(SHAPES["connected"]()))
    for layer in nh.compression.pruning.prunable_layers(net).values():
        prune.l1_unstructured(layer, "weight", amount=0.8)
        prune.remove(layer, "weight")
    small = nh.compress(net, images(TRAIN_BYTES)[:300], levels=16, bits=bits)
    assert b"packed" in zlib.decompress(described(small.to_bytes()), wbits=-15)
    (line,) = read([(small.to_bytes(), X)])
    assert (places(line) == small.predict(X)).all()


def test_what_is_no_classifier_is_refused_with_a_reason(read):
    net = random_network([3], 2, 0.0)
    bare = nh.CompressedNetwork(net.layers).to_bytes()
    values = nh.compression.readout.fit_ridge(net.features(inputs(BYTES)), BYTES[:, :2] * 1.0)
    content = net.to_bytes()
    files = [
        bare,
        nh.CompressedNetwork(net.layers, values).to_bytes(),
        b"",
        content[:-1],
        content + b" ",
    ]
    files.append(with_digest(content.replace(b' 2"', b' 3"', 1)))
    said = ["no readout", "values", "not a network", "digest", "digest", "version"]
    for line, words in zip(read([(file, NONE) for file in files]), said, strict=True):
        assert words in line
    assert "room" in read([(content, NONE)], room=64)[0]


@pytest.mark.parametrize("kind", ["random", "trained"])
def test_damaged_files_are_refused(kind, read):
    """5,000 of each kind, half of them with a digest that fits: no crash, nothing read beyond, refused as by nh.load."""
    content = (NETWORKS / "mnist_small.safetensors").read_bytes()
    if kind == "random":
        content = random_network([20, 10], 4, 0.8).to_bytes("packed")
    rng, files = np.random.default_rng(1), [content]
    for _ in range(2500):
        spoilt = damaged(content, rng)
        files += [spoilt, with_digest(spoilt)]
    lines = read([(file, NONE) for file in files])
    accepted = [line.strip().isdigit() for line in lines]
    assert accepted[0] and len(lines) == 5001 and 2 < sum(accepted) < 300
    network = nh.CompressedNetwork if kind == "random" else nh.compression.ConvertedNetwork
    otherwise = 0
    for file, good in zip(files, accepted, strict=True):
        try:
            network.from_bytes(file)
            otherwise += not good
        except nh.compression.NetworkFileError:
            otherwise += good
    # A name that was damaged and that one of them does not ask for, or text that is not ASCII.
    assert otherwise <= 10


def test_what_was_made_to_be_read_beyond_its_end_is_refused(read):
    """A gap that takes more signs than there are, and a header that ends before it begins."""
    row = np.zeros((1, 4096), np.int8)
    row[0, -1] = 1
    layer = Affine(row, *np.ones((2, 1), np.float32), "ternary")
    arrays, about = layer.to_arrays()
    # All 4,096 are said to be zeros; the first gap leads to the last of them.
    arrays["codes"] = np.concatenate([np.zeros(512, np.uint8), np.zeros(255, np.uint8), [1]])
    about |= {"packed": [True, 1, 4096], "shape": [1, 4096]}
    listed = {f"0.{name}": array.astype(array.dtype) for name, array in arrays.items()}
    listed["0.codes"] = listed["0.codes"].astype(np.uint8)
    gap = to_bytes(listed, {"operations": [about], "shape": [4096], "classes": 2})
    headless = with_digest(b"\0" * 8 + gap[8:34] + b"0" * 16 + b' 2"')
    for line in read([(gap, NONE), (headless, NONE)]):
        assert line and not line.strip().isdigit()
    with pytest.raises(nh.compression.NetworkFileError):
        ConvertedNetwork.from_bytes(gap)


def test_sums_of_floats_are_taken_in_the_order_of_the_format(read):
    """Columns come in pairs of opposite sign, so that sums are zero but for what is rounded."""
    rng = np.random.default_rng(0)
    half = rng.integers(-1, 2, (30, 20))
    T = nh.compression.TernaryMatrix.from_dense(np.hstack([half, -half]))
    layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.0], [-1.0, 1.0]))
    weights = rng.standard_normal((30, 3))
    net = nh.CompressedNetwork([layer], Readout.from_weights(weights, np.zeros(3), [0, 1, 2]))
    net.scaling = nh.compression.Scaling(np.zeros(40), np.full(40, 3.0))
    X = np.tile(rng.standard_normal((200, 20)), 2).astype(np.float32)
    (line,) = read([(net.to_bytes(), X)])
    assert (places(line) == net.predict(X)).all()


@pytest.mark.parametrize("seed", [2**63 - 1, 2**63, 2**63 + 1000, 2**64])
def test_a_seed_is_read_as_it_is_or_refused(seed, read):
    T = Drawn(0.5, seed, 1).matrix((20, 64))
    layer = nh.compression.TernaryLayer(
        T, 1.0, nh.Quantized([0.0], [0.0, 1.0]), drawn=Drawn(0.5, seed, 1)
    )
    weights = np.random.default_rng(0).standard_normal((20, 3))
    net = nh.CompressedNetwork([layer], Readout.from_weights(weights, np.zeros(3), [0, 1, 2]))
    X = inputs(BYTES[:50]).astype(np.float32)
    small = seed < 2**63
    (line,) = read([(net.to_bytes("seed"), X if small else NONE)])
    if small:
        assert (places(line) == net.predict(X)).all()
    else:
        assert "seed" in line


def test_what_the_format_refuses_is_refused(read):
    vectors = json.loads((NETWORKS.parent / "format_vectors.json").read_text())
    files = [(base64.b64decode(entry["file"]), NONE) for entry in vectors["refused"]]
    lines = read(files)
    taken = [e["reason"] for e, line in zip(vectors["refused"], lines, strict=True) if not line]
    assert len(lines) == len(files) > 40 and not taken
    assert not any(line.strip().lstrip("-").isdigit() for line in lines)
