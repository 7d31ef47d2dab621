"""Headers in C: the same classes as Python's, sizes as stated, nothing read or written out of bounds."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_networks import (
    BYTES,
    LOW,
    SHAPES,
    STEP,
    TRAIN_BYTES,
    images,
    inputs,
    on_codes,
    random_network,
    trained,
)
from torch import nn

import ntklc_helpers as nh
from benchmarks import chip
from ntklc_helpers.compression.operations import Affine, Plain, Step, Window

CC = shutil.which("gcc") or shutil.which("cc")
ARM = shutil.which("arm-none-eabi-gcc")
needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler here")
needs_arm = pytest.mark.skipif(ARM is None, reason="arm-none-eabi-gcc is not here")
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZED = ["-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]


def program(folder, names, *flags, compiler=CC):
    """A program that prints, for all bytes that it is given, the class each header finds."""
    calls = "".join(
        f'{{ static {n}_workspace w; printf("%d ", {n}_classify(u, &w)); }}\n' for n in names
    )
    source = (
        "#include <stdio.h>\n"
        + "".join(f'#include "{n}.h"\n' for n in names)
        + f"static uint8_t u[{names[0].upper()}_INPUTS];\n"
        + f"int main(void) {{ while (fread(u, 1, sizeof u, stdin) == sizeof u) {{\n{calls}}}\nreturn 0; }}\n"
    )
    (folder / "main.c").write_text(source)
    made = folder / "main"
    subprocess.run([compiler, *WARNINGS, *flags, "-o", made, folder / "main.c"], check=True)
    return made


def classes_of(command, u, names):
    told = subprocess.run(command, input=u.tobytes(), capture_output=True)
    assert told.returncode == 0, told.stderr.decode()[-2000:]
    return dict(
        zip(names, np.array(told.stdout.split(), int).reshape(-1, len(names)).T, strict=True)
    )


RANDOM = {
    "narrow": ([1], 2, 0.0),
    "four": ([60, 40], 4, 0.9),
    "sixteen": ([90, 50, 20], 16, 0.5),
    "paper": ([50, 50], "paper", 0.9),
}


@pytest.fixture(scope="module")
def random_networks():
    return {name: random_network(*about) for name, about in RANDOM.items()}


@pytest.fixture(scope="module")
def converted():
    exact = {
        name: on_codes(
            make(), levels=16, input_levels=17, bits="ternary" if name == "strided" else 4
        )
        for name, make in SHAPES.items()
    }
    X = images(TRAIN_BYTES)
    plain = ("branches", "maximum_first", "connected")
    rounded = {f"{n}_rounded": nh.compress(trained(SHAPES[n]()), X[:300], bits=3) for n in plain}
    raw = {f"{n}_raw": on_codes(SHAPES[n](), levels=4) for n in ("residual", "connected")}
    return exact, rounded | raw


@needs_cc
def test_random_networks_give_the_same_classes(random_networks, tmp_path):
    """Stored in three ways, the last layer in bytes or floats; under both sanitizers."""
    names, found = {}, {}
    for name, net in random_networks.items():
        wide = random_network(*RANDOM[name], dtype="float32")
        found[name], names[name] = (
            net,
            net.export_c(tmp_path / f"{name}.h", low=LOW, step=STEP, name=name),
        )
        for how in ("two_bits", "seed"):
            key = f"{name}_{how}"
            net.export_c(tmp_path / f"{key}.h", low=LOW, step=STEP, weights=how, name=key)
            found[key] = net
        key = f"{name}_wide"
        wide.export_c(tmp_path / f"{key}.h", low=LOW, step=STEP, name=key)
        found[key] = wide
    assert all(names[name].exact for name in ("narrow", "four", "sixteen"))
    got = classes_of([program(tmp_path, [*found], *SANITIZED)], BYTES, [*found])
    for name, net in found.items():
        assert (got[name] == net.predict(inputs(BYTES))).all(), name


@needs_cc
def test_converted_networks_give_the_same_classes(converted, tmp_path):
    """Residual pairs, strides, dilation, groups, every pooling; exact, rounded, and of raw pixels."""
    exact, others = converted
    both = exact | others
    for name, net in both.items():
        told = net.export_c(tmp_path / f"{name}.h", low=LOW, step=STEP, name=name)
        assert told.exact == (name in exact), name
    got = classes_of([program(tmp_path, [*both], *SANITIZED)], BYTES, [*both])
    for name, net in both.items():
        assert (got[name] == net.predict(images(BYTES))).all(), name


@needs_cc
def test_32_bit_processors_find_the_same(random_networks, converted, tmp_path):
    nets = {"sixteen": random_networks["sixteen"], "branches": converted[0]["branches"]}
    for name, net in nets.items():
        weights = "seed" if name == "sixteen" else "packed"
        net.export_c(tmp_path / f"{name}.h", low=LOW, step=STEP, name=name, weights=weights)
    try:
        made = program(tmp_path, [*nets], "-m32", "-O1", "-fsanitize=undefined")
    except subprocess.CalledProcessError:
        pytest.skip("the C compiler has no libraries of 32 bits")
    got = classes_of([made], BYTES, [*nets])
    assert (got["sixteen"] == nets["sixteen"].predict(inputs(BYTES))).all()
    assert (got["branches"] == nets["branches"].predict(images(BYTES))).all()


@pytest.mark.skipif(chip.missing() is not None, reason=f"{chip.missing()} is not here")
@pytest.mark.parametrize("core", [*chip.BOARDS])
def test_an_emulated_chip_finds_the_same(core, converted, random_networks, tmp_path):
    """On a bare Cortex-M0 and M4 of QEMU's, within the flash and the memory that the linker allows."""
    some, where = BYTES[:40], chip.Chip(core, flash=8 * 1024, ram=1536)
    net = converted[0]["strided"]
    told = net.export_c(tmp_path / "net.h", low=LOW, step=STEP)
    found = chip.run(tmp_path, some.reshape(-1, 8, 8), where)
    assert (found.classes == net.predict(images(some))).all()
    assert told.ram <= found.data <= told.ram + 16 and 0 < found.stack < where.stack
    assert told.flash < found.flash < told.flash + 2500
    # What is computed does not depend on the image, but for where a staircase or a maximum ends.
    assert np.ptp(found.instructions) < 0.1 * found.instructions.mean()
    net = random_networks["four"]
    net.export_c(tmp_path / "net.h", low=LOW, step=STEP, weights="seed")
    seeded = chip.run(tmp_path, some.reshape(-1, 1, 64), where)
    assert (seeded.classes == net.predict(inputs(some))).all()
    net.export_c(tmp_path / "net.h", low=LOW, step=STEP)
    packed = chip.run(tmp_path, some.reshape(-1, 1, 64), where)
    assert (packed.classes == seeded.classes).all()
    assert packed.instructions.mean() < seeded.instructions.mean() and packed.flash > seeded.flash


@needs_arm
def test_sizes_are_as_stated(random_networks, converted, tmp_path):
    """Read-only data are the tables to the byte; the workspace is what the linker makes room for."""
    for net in (random_networks["paper"], converted[0]["residual"]):
        told = net.export_c(tmp_path / "net.h", low=LOW, step=STEP)
        (tmp_path / "chip.c").write_text(
            '#include "net.h"\nnet_workspace work;\nint classify(const uint8_t *u);\n'
            "int classify(const uint8_t *u) { return net_classify(u, &work); }\n"
        )
        flags = ["-mcpu=cortex-m0plus", "-mthumb", "-Os", "-c", "-o", tmp_path / "chip.o"]
        subprocess.run([ARM, *WARNINGS, *flags, tmp_path / "chip.c"], check=True)
        size = [ARM.removesuffix("gcc") + "size", "-A", tmp_path / "chip.o"]
        listed = subprocess.run(size, capture_output=True, text=True, check=True).stdout
        parts = {n: int(k) for n, k in re.findall(r"^\.(\S+)\s+(\d+)", listed, re.MULTILINE)}
        tables = sum(k for n, k in parts.items() if n.startswith("rodata"))
        # The linker aligns each table: up to three bytes behind each of six.
        assert 0 <= tables - told.flash <= 18
        assert told.ram - 4 < parts["bss"] <= told.ram and parts["data"] == 0
        assert parts["text"] < 2500


def test_the_trained_networks_are_small_enough_for_a_chip(tmp_path):
    folder = nh.__path__[0] + "/../book/_static/networks/"
    for name, flash, ram in (("mnist_small", 1400, 900), ("mnist_large", 2400, 1100)):
        told = nh.load(f"{folder}{name}.safetensors").export_c(
            tmp_path / "net.h", low=-0.42407, step=0.012728
        )
        assert told.exact and told.flash < flash and told.ram < ram
        assert told.inputs == (28, 28, 1) and told.classes == tuple(range(10))


def mnist():
    try:
        return nh.load_images("mnist", "train").X, nh.load_images("mnist", "test").X
    except nh.data.DataError:
        pytest.skip("MNIST is not here")


@needs_cc
@pytest.mark.parametrize("name", ["mnist_small", "mnist_large"])
def test_a_thousand_images_of_mnist(name, tmp_path):
    X, X_test = (part.astype(np.float32) for part in mnist())
    mean, spread = np.float32(X.mean(dtype=np.float64)), np.float32(X.std(dtype=np.float64))
    u = np.rint(255 * X_test[:1000]).astype(np.uint8)
    net = nh.load(f"{nh.__path__[0]}/../book/_static/networks/{name}.safetensors")
    net.export_c(tmp_path / "net.h", low=-mean / spread, step=1 / (255 * float(spread)))
    got = classes_of([program(tmp_path, ["net"], "-O2")], u, ["net"])["net"]
    assert (got == net.predict(((X_test[:1000] - mean) / spread).reshape(-1, 1, 28, 28))).all()


@needs_cc
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_small_network(data, tmp_path_factory):
    """Layers of any signs, scale, offset and staircase, on bytes of any low and step."""
    draw, rng = data.draw, np.random.default_rng(data.draw(st.integers(0, 2**32)))
    widths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    p, layers, before = draw(st.integers(1, 9)), [], None
    low, step = draw(st.floats(-3, 3)), draw(st.floats(0.01, 2))
    u = rng.integers(0, 256, (200, p)).astype(np.uint8)
    h = inputs(u, low, step)
    for d in widths:
        signs = rng.integers(-1, 2, (d, h.shape[1]))
        m = draw(st.integers(2, 9))
        sums = h @ signs.T
        offset = (
            rng.standard_normal(d).astype(np.float32) * sums.std() if draw(st.booleans()) else None
        )
        thresholds = np.sort(rng.choice(np.linspace(-2, 2, 1001), m - 1, replace=False)) * (
            sums.std() or 1.0
        )
        levels = rng.permutation(m) * 0.25 - 0.5 if draw(st.booleans()) else rng.standard_normal(m)
        stairs = nh.Quantized(thresholds, levels)
        matrix = nh.compression.TernaryMatrix.from_dense(signs)
        layers.append(nh.compression.TernaryLayer(matrix, draw(st.floats(0.1, 3)), stairs, offset))
        before = nh.CompressedNetwork(layers)
        h = before.features(inputs(u, low, step))
    readout = nh.compression.Readout.from_weights(
        rng.standard_normal((widths[-1], 3)), rng.standard_normal(3), ["a", "b", "c"]
    )
    kind = draw(st.sampled_from(["int8", "float16", "float32"]))
    net = nh.CompressedNetwork(layers, readout.rounded(kind))
    folder = tmp_path_factory.mktemp("any")
    net.export_c(
        folder / "net.h", low=low, step=step, weights=draw(st.sampled_from(["packed", "two_bits"]))
    )
    got = classes_of([program(folder, ["net"], *SANITIZED)], u, ["net"])["net"]
    scores = np.sort(net.outputs(inputs(u, low, step)).astype(np.float64), axis=1)
    clear = scores[:, -1] - scores[:, -2] > 1e-5 * np.abs(scores).max()
    assert clear.mean() > 0.5
    wanted = net.predict(inputs(u, low, step))
    assert (np.array(["a", "b", "c"])[got] == wanted)[clear].all()


@needs_cc
def test_a_sum_on_a_threshold_does_not_exceed_it(tmp_path):
    """Where floats round nothing, ties are as in Python; where they may round one away, that is told."""
    u = np.stack(np.meshgrid(*[np.arange(0, 40, 4)] * 3), axis=-1).reshape(-1, 3).astype(np.uint8)
    rng, names = np.random.default_rng(0), ("whole", "tenths")
    signs = np.array([[1, 1, -1], [-1, 0, 1], [1, -1, 1], [0, 0, 1]])
    nets = {}
    for name, step in zip(names, (0.25, 0.1), strict=True):
        stairs = nh.Quantized(step * np.arange(-8, 12, 2), rng.permutation(11) * 0.5)
        layer = nh.compression.TernaryLayer(
            nh.compression.TernaryMatrix.from_dense(signs), 1.0, stairs
        )
        readout = nh.compression.Readout.from_weights(
            rng.standard_normal((4, 5)), np.zeros(5), range(5)
        )
        nets[name] = nh.CompressedNetwork([layer], readout.rounded("int8"))
        told = nets[name].export_c(tmp_path / f"{name}.h", low=-4 * step, step=step, name=name)
        assert told.exact == (name == "whole")
    got = classes_of([program(tmp_path, names, *SANITIZED)], u, names)
    assert (got["whole"] == nets["whole"].predict(inputs(u, -1.0, 0.25))).all()


@needs_cc
def test_rows_may_come_one_at_a_time(converted, tmp_path):
    """The image need not be in memory: a row is not looked at again, and there is no class before the last."""
    converted[0]["strided"].export_c(tmp_path / "net.h", low=LOW, step=STEP)
    (tmp_path / "rows.c").write_text(
        '#include <stdio.h>\n#include <string.h>\n#include "net.h"\n'
        "int main(void) { net_workspace w; uint8_t row[8], y; net_start_input(&w);\n"
        "for (y = 0; y < 8; y++) { if (net_class(&w) != -1 || fread(row, 1, 8, stdin) != 8) return 1;\n"
        "net_take_row(&w, row, 0); memset(row, 255, 8); }\n"
        'net_take_row(&w, row, 0); printf("%d ", net_class(&w)); return 0; }\n'
    )
    made = tmp_path / "rows"
    subprocess.run([CC, *WARNINGS, *SANITIZED, "-o", made, tmp_path / "rows.c"], check=True)
    wanted = converted[0]["strided"].predict(images(BYTES[:5]))
    assert [classes_of([made], u, ["net"])["net"][0] for u in BYTES[:5]] == wanted.tolist()


@needs_cc
def test_channels_have_inputs_of_their_own(tmp_path):
    """Colour images, each channel standardised for itself, on levels and as they are."""
    rng = np.random.default_rng(0)
    u = rng.integers(0, 256, (120, 3, 6, 5)).astype(np.uint8)
    low, step = np.array([-1.5, -1.0, -2.0]), np.array([0.013, 0.011, 0.017])
    X = (low[:, None, None] + step[:, None, None] * u).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(120, 10))
    found = {}
    for name, options in (("levels", {"input_levels": 16}), ("raw", {})):
        ready = nh.compression.prepare_qat(net, X, levels=16, bits=4, **options).eval()
        found[name] = nh.compress(ready, X)
        told = found[name].export_c(tmp_path / f"{name}.h", low=low, step=step, name=name)
        assert told.exact == bool(options) and told.inputs == (6, 5, 3)
    got = classes_of([program(tmp_path, [*found], *SANITIZED)], u, [*found])
    for name, small in found.items():
        assert (got[name] == small.predict(X)).all()


@needs_cc
def test_inputs_that_fill_their_numbers(tmp_path):
    """From just above -1 to just below 1: 255 steps are beyond 32 bits until -1 is added."""
    filters = np.zeros((3, 1, 2, 2), np.int8)
    filters[:, 0, 0, 0] = 1
    ones, codes = np.ones(3, np.float32), np.arange(-27, 27, dtype=np.int8).reshape(2, 27)
    operations = (
        Affine(filters, ones, 0 * ones, 4, Window(padding=(1, 1))),
        nh.Quantized([0.0], [0.0, 1.0]),
        Plain("flatten"),
        Affine(codes, ones[:2], 0 * ones[:2], 8),
    )
    steps = [Step(operation, (i,)) for i, operation in enumerate(operations)]
    net = nh.compression.ConvertedNetwork(steps, (1, 2, 2), np.arange(2))
    low, step = -(1 - 1e-10), 2 * (1 - 1e-10) / 255
    net.export_c(tmp_path / "net.h", low=low, step=step)
    u = np.random.default_rng(0).choice(np.uint8([0, 127, 128, 255]), (50, 4))
    got = classes_of([program(tmp_path, ["net"], *SANITIZED)], u, ["net"])
    assert (got["net"] == net.predict(inputs(u, low, step).reshape(-1, 1, 2, 2))).all()


@needs_cc
def test_scaled_columns(tmp_path):
    """A scaling of one step a column is whole; steps of the columns' own make another whole."""
    rng = np.random.default_rng(0)
    u = rng.integers(0, 256, (400, 6)).astype(np.uint8)
    centre, scale = rng.standard_normal(6), np.array([1.0, 2.0, 0.5, 4.0, 1.0, 3.0])
    stairs = nh.Quantized([-1.0, 0.0, 1.0], [0.0, 0.25, 0.5, 0.75])
    matrix = nh.compression.TernaryMatrix.from_dense(rng.integers(-1, 2, (20, 6)))
    layer = nh.compression.TernaryLayer(matrix, 0.7, stairs)
    readout = nh.compression.Readout.from_weights(
        rng.standard_normal((20, 3)), np.zeros(3), [3, 5, 9]
    ).rounded("int8")
    net = nh.CompressedNetwork([layer], readout, scaling=nh.compression.Scaling(centre, scale))
    steps = {"own": 0.02 * scale, "one": 0.02}
    for name, step in steps.items():
        told = net.export_c(tmp_path / f"{name}.h", low=-1.0, step=step, name=name)
        assert told.exact == (name == "own")
    got = classes_of([program(tmp_path, [*steps], *SANITIZED)], u, [*steps])
    for name, step in steps.items():
        wanted = net.predict(inputs(u, -1.0, step))
        assert (readout.classes[got[name]] == wanted).all()


def test_what_cannot_be_is_refused(random_networks, converted, tmp_path):
    net, image = random_networks["narrow"], converted[0]["strided"]
    path = tmp_path / "net.h"

    def refuses(what, match, network=net, error=ValueError, **options):
        with pytest.raises(error, match=match):
            network.export_c(path if what is None else what, **options)
        assert not path.exists()

    refuses(3, "path must be text or a path", error=TypeError)
    refuses(tmp_path / "none" / "net.h", "none", error=OSError)
    refuses(None, "name must be one that C takes", name="2net")
    refuses(None, "name must be one that C takes", name="a-b")
    refuses(None, "weights must be one of", weights="dense")
    refuses(None, "step must be positive", step=0.0)
    refuses(None, "step must be finite", step=np.nan)
    refuses(None, "low must be one number, or 64", low=[1.0, 2.0])
    refuses(None, "low and step must leave inputs", low=1e300)
    refuses(None, "needs weights drawn from a seed", network=image, weights="seed")
    bare = nh.CompressedNetwork(net.layers)
    refuses(None, "no readout yet", network=bare)
    values = nh.CompressedNetwork(
        net.layers,
        nh.compression.readout.fit_ridge(bare.features(inputs(BYTES)), BYTES[:, :2] * 1.0),
    )
    refuses(None, "outputs are values", network=values)
    none = nh.compression.ConvertedNetwork(image.steps, image.shape)
    refuses(None, "outputs are values", network=none)


def refused_network(module, shape, match, tmp_path):
    X = np.random.default_rng(0).standard_normal((60, *shape)).astype(np.float32)
    small = nh.compress(module.eval(), X, bits=4, classes=np.arange(10))
    with pytest.raises(ValueError, match=match):
        small.export_c(tmp_path / "net.h")


def test_operations_that_are_not_whole_are_named(tmp_path):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
            self.last = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

        def forward(self, x):
            return self.last(self.a(x) + self.b(x))

    class Twice(Sums):
        def forward(self, x):
            return self.last(torch.relu(self.a(x)) + x)

    refused_network(Sums(), (1, 6, 6), r"cannot write .*taken more than once", tmp_path)
    refused_network(Twice(), (1, 6, 6), r"cannot write .*taken more than once", tmp_path)
    parts = nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10)
    refused_network(nn.Sequential(*parts), (1, 6, 6), r"net\[1\].*takes sums", tmp_path)
    parts = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 10)
    refused_network(nn.Sequential(*parts), (1, 6, 6), r"net\[2\].*does not divide 4 × 4", tmp_path)


def test_the_header_says_what_it_is(random_networks, tmp_path):
    small = random_networks["four"]
    labels = ["*/ int x;", "ö", *"cdefghij"]
    readout = small.readout
    told = nh.CompressedNetwork(
        small.layers,
        nh.compression.Readout(
            readout.weights, readout.scale, readout.bias, np.array(sorted(labels))
        ),
    ).export_c(tmp_path / "net.h", weights="seed")
    text = (tmp_path / "net.h").read_text()
    assert text.isascii() and "int x" not in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert f"{told.flash} bytes of tables, {told.ram} bytes of workspace" in text
    assert (
        json.loads(f'"{text.split("Classes, from 0: ")[1].split(chr(34))[1]}"') == told.classes[0]
    )
    assert not re.search(r"\b(float|double|malloc|memcpy)\b", text)
    assert text.count("#include") == 1 and "ntklc" not in text.lower()
