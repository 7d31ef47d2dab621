"""Saved files read in C: the same classes as Python's, damaged ones refused, nothing read beyond them."""

import base64
import json
import shutil
import struct
import subprocess
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from damages import damaged, parts_of, with_digest
from readers import in_shape, quiet, tame
from small_networks import (
    BYTES,
    SHAPES,
    TRAIN_BYTES,
    images,
    inputs,
    layered,
    on_codes,
    one_network,
    random_network,
    trained,
)
from torch.nn.utils import prune

import ntklc_helpers as nh
from ntklc_helpers.compression import ConvertedNetwork, NetworkFileError
from ntklc_helpers.compression.layers import Drawn
from ntklc_helpers.compression.loading import of_bytes
from ntklc_helpers.compression.operations import Affine, Plain, Step
from ntklc_helpers.compression.storage import to_bytes

CC = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler here")
READER = Path(nh.compression.__file__).with_name("reader.h")
NETWORKS = Path(nh.__file__).parents[1] / "book/_static/networks"
VECTORS = json.loads((NETWORKS.parent / "format_vectors.json").read_text(encoding="utf-8"))
FLAGS = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZERS = "-fsanitize=undefined,address -fno-sanitize-recover=all"
# Where a compiler may round otherwise than the format: products and sums in one, and doubles kept
# in 80 bits. Unlike c99, gnu99 lets it do so in assignments too.
ROUNDINGS = [
    "-O2 -mfma -ffp-contract=fast",
    "-O2 -m32 -mfpmath=387",
    "-O2 -std=gnu99 -m32 -mfpmath=387",
]

# Each file and each row of inputs lie in memory of their own length, where the sanitizers watch.
# Of no rows, one is made. COMMA stands in for a locale whose numbers have a comma: localeconv says
# so, and strtod reads no further than a point.
MAIN = """
#include <stdio.h>
#ifdef COMMA
#include <locale.h>
#include <stdlib.h>
#include <string.h>
static struct lconv *with_comma(void) {
    static struct lconv found;
    static char point[] = ",";
    found = *localeconv();
    found.decimal_point = point;
    return &found;
}
static double to_comma(const char *text, char **end) {
    char own[1000];
    size_t n = strcspn(text, "."), comma;
    double found;
    memcpy(own, text, n);
    own[n] = 0;
    comma = strcspn(own, ",");
    if (own[comma]) own[comma] = '.';
    found = strtod(own, end);
    *end = (char *)text + (*end - own);
    return found;
}
#define localeconv with_comma
#define strtod to_comma
#endif
#include "reader.h"
int main(void) {
    uint32_t sizes[2], i;
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
            float *x = malloc(net->inputs * sizeof *x);
            for (i = 0; i < net->inputs; i++) x[i] = (float)(7 * i % 11) / 4 - 1;
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


def runs_here(flags):
    """Whether the compiler and the processor know these: of 32 bits, or of fused operations."""
    target = [flag for flag in flags.split() if flag.startswith("-m")]
    code = "#include <stdlib.h>\nint main(int n, char **v) { return atof(v[0]) * n + n > 9; }"
    command = [CC, *target, "-O2", "-x", "c", "-", "-o"]
    if "-mfma" in target:
        told = Path("/proc/cpuinfo")
        if not (told.is_file() and " fma " in told.read_text()):
            return False
    return not subprocess.run(
        [*command, "/dev/null"], input=code.encode(), capture_output=True
    ).returncode


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What a program in C says of files, each with rows of inputs: places of classes, or a reason."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "main.c").write_text(MAIN)
    made = {}

    def said(pairs, flags=SANITIZERS, room=1 << 24):
        if (flags, room) not in made:
            if not runs_here(flags):
                pytest.skip(f"the compiler or the processor does not know {flags}")
            program = made[flags, room] = folder / f"main{len(made)}"
            own = [f"-DROOM={room}", f"-I{READER.parent}", "-o", program, folder / "main.c"]
            subprocess.run([CC, *FLAGS, *flags.split(), *own], check=True)
        given = b"".join(
            struct.pack("<II", len(file), len(rows)) + file + np.asarray(rows, "<f4").tobytes()
            for file, rows in pairs
        )
        told = subprocess.run([made[flags, room]], input=given, capture_output=True)
        assert told.returncode == 0, told.stderr.decode()[-2000:]
        return told.stdout.decode().splitlines()

    return said


def agrees(read, networks, X, flags=SANITIZERS):
    """Each, or the one in each file, gives the classes that it gives in Python, for its rows or all's."""
    files = [net if isinstance(net, bytes) else net.to_bytes() for net in networks]
    rows = X if isinstance(X, list) else [X] * len(files)
    lines = read([*zip(files, rows, strict=True)], flags)
    for file, x, line in zip(files, rows, lines, strict=True):
        net = of_bytes(file)
        classes = net.classes if isinstance(net, ConvertedNetwork) else net.readout.classes
        assert (classes[places(line)] == net.predict(x)).all()


NONE = np.zeros((0, 1))


def places(line):
    return np.array(line.split(), int)


def test_random_networks_give_the_same_classes(read):
    X = inputs(BYTES).astype(np.float32)
    nets = []
    for about in (
        ([1], 2, 0.0),
        ([60, 40], 4, 0.9),
        ([90, 50, 20], 16, 0.5),
        ([50, 50], "paper", 0.9),
    ):
        for dtype in nh.compression.READOUT_DTYPES:
            net = random_network(*about, dtype=dtype, seed=2**33)
            net.scaling = nh.compression.Scaling(np.linspace(-0.1, 0.1, 64), np.linspace(1, 2, 64))
            nets.append(net)
    agrees(read, nets, X)
    agrees(read, [net.to_bytes("packed") for net in nets], X)


def test_converted_networks_give_the_same_classes(read):
    bits = {"strided": "ternary"}
    nets = [
        on_codes(make(), levels=16, input_levels=17, bits=bits.get(name, 4))
        for name, make in SHAPES.items()
    ]
    rounded = nh.compress(trained(SHAPES["branches"]()), images(TRAIN_BYTES)[:300], bits=3)
    agrees(read, [*nets, rounded], images(BYTES))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_pruned_layers_tell_where_they_are_not_zero(bits, read):
    net = deepcopy(trained(SHAPES["connected"]()))
    for layer in nh.compression.pruning.prunable_layers(net).values():
        prune.l1_unstructured(layer, "weight", amount=0.8)
        prune.remove(layer, "weight")
    small = nh.compress(net, images(TRAIN_BYTES)[:300], levels=16, bits=bits)
    assert b"packed" in parts_of(small.to_bytes())[0]
    agrees(read, [small], images(BYTES))


def test_windows_and_pools_of_every_kind_are_those_of_torch(read):
    rng, nets = (
        np.random.default_rng(5),
        [one_network(np.random.default_rng(k)) for k in range(300)],
    )
    good, bad = [], []
    for net in nets:
        try:
            good.append(of_bytes(net.to_bytes()))
        except NetworkFileError:
            bad.append(net.to_bytes())
    assert len(good) > 60 and len(bad) > 60
    assert not any(map(accepted, read([(file, NONE) for file in bad])))
    rows = [rng.integers(-8, 9, (5, *net.shape)).astype(np.float32) for net in good]
    lines = read([(net.to_bytes(), x) for net, x in zip(good, rows, strict=True)])
    for net, x, line in zip(good, rows, lines, strict=True):
        found = net.outputs(x)
        # Of averages, two scores may be equal but for rounding; a maximum of nothing is infinite.
        near = found.max(1) - found[range(5), places(line)] <= 1e-3
        assert (near | ~np.isfinite(found).all(1)).all()
    assert sum(np.isfinite(net.outputs(x)).all() for net, x in zip(good, rows, strict=True)) > 60


def accepted(line):
    return line.strip().lstrip("-").isdigit()


def of_operations(*operations, shape):
    return ConvertedNetwork([Step(o, (i,)) for i, o in enumerate(operations)], shape, np.arange(2))


def affine(*codes):
    return Affine(np.array(codes, np.int8), np.ones(2, np.float32), np.zeros(2, np.float32), 4)


def test_values_of_any_number_of_sides_are_read(read):
    """Layers over the last of several sides, and sums in which sides are repeated."""
    rng = np.random.default_rng(0)
    codes, ones = rng.integers(-3, 4, (3, 4)).astype(np.int8), np.ones(3, np.float32)
    first, last = Affine(codes, ones, ones, 4), rng.integers(-3, 4, (2, 30)).astype(np.int8)
    steps = [Step(first, (0,)), Step(Plain("add"), (1, 1)), Step(Plain("flatten"), (2,))]
    nets = [ConvertedNetwork([*steps, Step(affine(*last), (3,))], (2, 5, 4), np.arange(2))]
    wide = rng.integers(-3, 4, (1, 4)).astype(np.int8)
    one = Affine(wide, ones[:1], ones[:1], 4)  # (5, 4) to (5, 1), to be added to (5, 4)
    steps = [Step(one, (0,)), Step(Plain("add"), (1, 0)), Step(Plain("flatten"), (2,))]
    nets.append(ConvertedNetwork([*steps, Step(affine(*last[:, :20]), (3,))], (5, 4), np.arange(2)))
    rows = [rng.integers(-8, 9, (20, *net.shape)).astype(np.float32) for net in nets]
    agrees(read, nets, rows)


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


def made_input(net):
    """The row that the program makes where it is given none."""
    size = int(np.prod(net.shape)) if isinstance(net, ConvertedNetwork) else net.p
    return in_shape(net, ((7 * np.arange(size)) % 11)[None] / 4 - 1)


@pytest.mark.parametrize("kind", ["random", "trained", "vectors"])
def test_damaged_files_are_refused(kind, read):
    """No crash, nothing read beyond, refused if and only if nh.load refuses; else the same class."""
    contents = {
        "random": [random_network([20, 10], 4, 0.8).to_bytes("packed")],
        "trained": [(NETWORKS / "mnist_small.safetensors").read_bytes()],
        "vectors": [base64.b64decode(one["file"]) for one in VECTORS["networks"]],
    }[kind]
    files, came = damaged(contents, 6000, seed=1), Counter()
    limits = f"{SANITIZERS} -DNTKLC_MOST_WORK=100000000"
    for file, line in zip(files, read([(file, NONE) for file in files], limits), strict=True):
        with quiet():
            try:
                net = of_bytes(file)
            except NetworkFileError:
                assert line and not accepted(line)
                came["refused"] += 1
                continue
            holder = net if isinstance(net, ConvertedNetwork) else net.readout
            classes = holder and holder.classes
            if classes is None or "room" in line or "too long" in line:
                assert not accepted(line)
                came["values" if classes is None else "limit"] += 1
                continue
            assert accepted(line), line
            found = net.outputs(made_input(net))[0]
            came["read"] += 1
            if tame(file) and np.isfinite(found).all():
                scores = found if len(found) > 1 else np.append(0.0, found)
                assert scores[int(line)] >= scores.max() - 1e-4 * (1 + np.abs(scores).max())
    assert came["refused"] > 3500 and 100 < came["read"] < 2000 and came["limit"] < 100


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
        assert line and not accepted(line)
    with pytest.raises(NetworkFileError):
        of_bytes(gap)


def test_what_would_take_too_long_is_refused(read):
    """A few hundred bytes that ask for 10^13 comparisons."""
    pool = Plain("max_pool2d", {"kernel_size": 4096, "stride": 1, "padding": 2048})
    ends = Plain("mean", {"dim": [2, 3]}), affine([1], [2])
    pooled = of_operations(pool, *ends, shape=(1, 4000, 4000)).to_bytes()
    assert len(pooled) < 1000 and of_bytes(pooled)
    (line,) = read([(pooled, NONE)])
    assert "too long" in line


def test_a_window_that_is_mostly_padding_gives_what_lies_inside(read):
    pools = [
        Plain("max_pool2d", {"kernel_size": 64, "stride": 7, "padding": 32}),
        Plain("avg_pool2d", {"kernel_size": [64, 32], "stride": 9, "padding": [32, 16]}),
        Plain("avg_pool2d", {"kernel_size": 64, "padding": 32, "count_include_pad": False}),
    ]
    nets = []
    for pool in pools:
        steps = pool, Plain("adaptive_avg_pool2d", {"output_size": 1}), Plain("flatten")
        nets.append(of_operations(*steps, affine([3], [-2]), shape=(1, 8, 8)))
    agrees(read, nets, images(BYTES))


def opposite_columns():
    """Columns come in pairs of opposite sign, so that sums are zero but for what is rounded."""
    rng = np.random.default_rng(0)
    half = rng.integers(-1, 2, (30, 20))
    T = nh.compression.TernaryMatrix.from_dense(np.hstack([half, -half]))
    layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.0], [-1.0, 1.0]))
    scaling = nh.compression.Scaling(np.tile(rng.standard_normal(20), 2), np.full(40, 3.0))
    X = np.tile(rng.standard_normal((200, 20)), 2).astype(np.float32)
    return layered([layer], scaling), X


def on_grids(rng):
    """Layers whose levels are tenths and thirds, on a grid or not, so that sums lie on thresholds."""
    layers, p = [], int(rng.integers(1, 12))
    X = rng.integers(-16, 17, (40, p)) / 4
    for _ in range(rng.integers(2, 4)):
        d, m = (int(k) for k in rng.integers(2, 12, 2))
        levels = [
            0.1 * np.arange(m), 0.3 * (np.arange(m) - m / 2) + 0.05, 0.7 * rng.permutation(m) - 1.234,
            rng.standard_normal(m),
        ][rng.integers(4)]  # fmt: skip
        places = np.sort(rng.choice(np.arange(-20, 21), m - 1, replace=False))
        stairs = nh.Quantized(places * rng.choice([0.1, 0.05, 0.35, 0.25]), levels)
        T = nh.compression.TernaryMatrix.from_dense(rng.integers(-1, 2, (d, p)))
        offset = (rng.integers(-4, 5, d) / 10).astype(np.float32) if rng.integers(2) else None
        scale = float(rng.choice([1.0, 0.1, 0.3, 1 / 3]))
        layers.append(nh.compression.TernaryLayer(T, scale, stairs, offset))
        p = d
    return layered(layers), X.astype(np.float32)


def on_values(rng):
    """A layer behind which the thresholds are what it gives: products, then sums, in float32."""
    codes = rng.integers(-7, 8, (12, 5)).astype(np.int8)
    scale, bias = rng.standard_normal((2, 12)).astype(np.float32)
    X = rng.integers(-9, 10, (40, 5)).astype(np.float32)
    found = (X @ codes.T.astype(np.float32)) * scale + bias
    places = np.unique(found[rng.integers(40, size=20), rng.integers(12, size=20)])
    stairs = nh.Quantized(places.astype(float), np.arange(len(places) + 1.0))
    last = affine(*rng.integers(-3, 4, (2, 12)))
    return of_operations(Affine(codes, scale, bias, 4), stairs, last, shape=(5,)), X


def thirds():
    """A staircase whose fourth threshold, -1 + 3 · ⅓ rounded twice, is 0."""
    rows = np.float32([[1], [-3.5]])
    arrays = {"1.rows": rows, "1.codes": np.packbits(np.uint8([1, 1]))}
    about = [{"uniform": [5, -1.0, 1 / 3, 0.0, 1.0]}, {"bits": 2, "shape": [1, 1]}]
    return to_bytes(arrays, {"operations": about, "shape": [1], "classes": 2})


@pytest.mark.parametrize("flags", [SANITIZERS, *ROUNDINGS])
def test_numbers_are_rounded_as_the_format_fixes(flags, read):
    """Whatever the compiler does to products and sums, and on whatever registers."""
    pairs = [opposite_columns(), *(on_grids(np.random.default_rng(k)) for k in range(200))]
    pairs += [on_values(np.random.default_rng(k)) for k in range(50)]
    pairs.append((thirds(), np.float32([[0.0], [1.0], [-0.1]])))
    for one in VECTORS["networks"]:
        file = base64.b64decode(one["file"])
        if one["predictions"] != one["outputs"]:  # as of values
            pairs.append((file, in_shape(of_bytes(file), np.array(one["inputs"]))))
    networks, rows = zip(*pairs, strict=True)
    agrees(read, networks, [*rows], flags)


def test_ties_in_wide_layers_and_of_many_levels(read):
    """Sums of thousands of levels of a tenth that are thresholds; 5,000 levels of two values."""
    rng, nets, rows = np.random.default_rng(0), [], []
    T = rng.integers(-1, 2, (3000, 4))
    X = rng.integers(-3, 4, (40, 4)).astype(np.float32)
    stairs = nh.Quantized(np.linspace(-12, 12, 255), 0.1 * np.arange(256))
    sums = np.searchsorted(stairs.thresholds, X @ T.T, side="left").sum(1)
    matrix = nh.compression.TernaryMatrix.from_dense
    for total in sums[:6]:
        last = nh.Quantized([0.1 * total], [0.0, 1.0])
        layers = [
            nh.compression.TernaryLayer(matrix(T), 1.0, stairs),
            nh.compression.TernaryLayer(matrix(np.ones((1, 3000), int)), 1.0, last),
        ]
        nets.append(layered(layers))
        rows.append(X)
    many = nh.Quantized(np.linspace(-4, 4, 4999), np.where(np.arange(5000) % 2, 0.7, 0.1))
    first = nh.compression.TernaryLayer(matrix(rng.integers(-1, 2, (40, 4))), 1.0, many)
    assert first.grid is not None
    for bound in (0.6, 1.2, -0.6):
        last = nh.Quantized([bound], [0.0, 1.0])
        then = nh.compression.TernaryLayer(matrix(rng.integers(-1, 2, (20, 40))), 1.0, last)
        nets.append(layered([first, then]))
        rows.append(X)
    agrees(read, nets, rows)


def test_levels_whose_differences_no_number_holds_are_on_no_grid(read):
    rng, matrix = np.random.default_rng(0), nh.compression.TernaryMatrix.from_dense
    far = nh.Quantized([0.0], [-1.7e308, 1.7e308])
    layers = [
        nh.compression.TernaryLayer(matrix(rng.integers(-1, 2, (40, 16))), 1.0, far),
        nh.compression.TernaryLayer(
            matrix(rng.integers(-1, 2, (20, 40))), 1.0, nh.Quantized([0.0], [0.0, 1.0])
        ),
    ]
    with quiet():
        agrees(read, [layered(layers)], rng.integers(-4, 5, (50, 16)).astype(np.float32))


@pytest.mark.parametrize("seed", [2**63 - 1, 2**64, 2**160 + 7, 10**399])
def test_seeds_of_any_size_are_read(seed, read):
    drawn = Drawn(0.5, seed, 1)
    stairs = nh.Quantized([0.0], [0.0, 1.0])
    layer = nh.compression.TernaryLayer(drawn.matrix((20, 64)), 1.0, stairs, drawn=drawn)
    agrees(read, [layered([layer])], inputs(BYTES[:50]).astype(np.float32))


def test_numbers_are_read_in_a_locale_with_a_comma(read):
    """A scale of 1.75, read up to its point, is 1."""
    content = base64.b64decode(VECTORS["networks"][0]["file"])
    assert b'"scale":0.25' in parts_of(content)[0]
    agrees(read, [content], BYTES[:200, :4] / 4 - 2, f"{SANITIZERS} -DCOMMA")


def test_what_the_format_refuses_is_refused(read):
    files = [(base64.b64decode(entry["file"]), NONE) for entry in VECTORS["refused"]]
    lines = read(files)
    taken = [e["name"] for e, line in zip(VECTORS["refused"], lines, strict=True) if accepted(line)]
    assert len(lines) == len(files) > 80 and not taken and all(lines)
