"""Test vectors of the file format: `python tests/vectors.py` writes them anew.

Small networks with inputs and what comes out, matrices by their seed, and files that must be refused.
All in one file of JSON, files in base64, for a reader in any language.
"""

from __future__ import annotations

import base64
import json
import struct
import sys

import numpy as np
from damages import body_of, described, framed, parts_of, with_digest, with_packed
from readers import VECTORS, in_shape

import ntklc_helpers as nh
from ntklc_helpers.compression import ConvertedNetwork, Readout, Scaling, TernaryLayer
from ntklc_helpers.compression.layers import Drawn
from ntklc_helpers.compression.loading import of_bytes
from ntklc_helpers.compression.operations import Affine, Plain, Step, Window
from ntklc_helpers.compression.rounding import code_range
from ntklc_helpers.compression.storage import from_bytes, to_bytes


def drawn(shape, sparsity, seed, stream, scale, stairs, offset=None):
    how = Drawn(sparsity, seed, stream)
    return TernaryLayer(how.matrix(shape), scale, stairs, offset, how)


def layered():
    """By what is shown: networks of ternary layers, and how their weights are kept."""
    even = nh.Quantized([-0.5, 0.25, 1.0], [-1.5, -0.5, 0.5, 1.5])
    aside = nh.Quantized([0.0, 1.0], [0.3125, 1.0625, 1.8125])
    uneven = nh.Quantized([-0.75, 0.5], [0.0, 1.0, 3.5])
    rng = np.random.default_rng(0)

    def readout(d, classes, dtype="float32", kind=np.float32):
        K = len(classes) if classes is not None else 2
        weights = rng.integers(-8, 9, (d, K)) / 8
        names = None if classes is None else np.array(classes)
        made = Readout(
            weights.astype(np.float32), np.ones(K, kind), np.arange(K, dtype=kind) / 4, names
        )
        return made.rounded(dtype)

    one = [drawn((5, 4), 0.5, 7, 1, 0.5, even), drawn((6, 5), 0.25, 7, 2, 0.25, even)]
    two = [drawn((9, 4), 0.9, 2**70 + 3, 0, 1.0, aside), drawn((3, 9), 0.0, 0, 9, 0.125, uneven)]
    offset = np.float32([0.25, -0.5, 0.0, 1.0, 0.125, -2.0])
    three = [drawn((6, 7), 0.75, 1, 1, 0.5, uneven, offset), drawn((4, 6), 0.3, 1, 2, 0.25, even)]
    scaling = Scaling([0.5, 0.0, -1.0, 2.0, 0.0, 0.25, 1.0], [1.0, 2.0, 0.5, 4.0, 1.0, 3.0, 0.1])
    return {
        "two layers by seed, levels on a grid through a half": (
            nh.CompressedNetwork(one, readout(6, [3, 5, 8])),
            "seed",
        ),
        "the same, packed": (nh.CompressedNetwork(one, readout(6, [3, 5, 8])), "packed"),
        "a seed beyond 64 bits, a grid beside zero, classes by name": (
            nh.CompressedNetwork(two, readout(3, ["é", "no", "yes"], "int8")),
            "seed",
        ),
        "levels on no grid, offsets, scaling, values in float64": (
            nh.CompressedNetwork(three, readout(4, None, kind=np.float64), scaling=scaling),
            "packed",
        ),
        "weights of the readout in float16": (
            nh.CompressedNetwork(one[:1], readout(5, [0, 1], "float16")),
            "seed",
        ),
    }


def tied():
    """Levels in tenths, on grids through zero and beside it: sums lie on thresholds but for rounding."""
    through = nh.Quantized([-0.3, 0.1, 0.4], [-0.1, 0.0, 0.1, 0.2])
    beside = nh.Quantized([-0.6, -0.2, 0.3], [0.07, 0.37, 0.67, 1.27])
    last, offset = nh.Quantized([0.3], [-0.5, 1.0]), np.linspace(-1, 1, 8).astype(np.float32)
    layers = [
        drawn((40, 6), 0.2, 5, 1, 0.1, through),
        drawn((30, 40), 0.4, 5, 2, 0.3, beside),
        drawn((8, 30), 0.4, 5, 3, 1 / 3, last, offset),
    ]
    weights = np.random.default_rng(4).integers(-8, 9, (8, 3)) / 8
    return nh.CompressedNetwork(layers, Readout.from_weights(weights, np.zeros(3), [2, 1, 0]))


def operated():
    """Networks of operations: every one, and codes of every kind."""
    rng = np.random.default_rng(1)

    def affine(shape, bits, window=None, plain=False, pruned=0.0):
        low, high = code_range(bits)
        codes = rng.integers(low, high, shape, np.int8, endpoint=True)
        if pruned:
            codes[rng.random(shape) < pruned] = 0
        scale, bias = (rng.integers(-16, 17, (2, shape[0])) / 8).astype(np.float32)
        if plain:  # too fine for 11 bits, so that they are kept in float32
            scale += np.float32(2**-12)
        return Affine(codes, scale, bias, bits, window)

    def steps(*operations):
        made = []
        for i, operation in enumerate(operations):
            operation, inputs = operation if isinstance(operation, tuple) else (operation, (i,))
            made.append(Step(operation, inputs))
        return made

    uniform = nh.Quantized([-1.0, -0.5, 0.0, 0.5], [-1.0, -0.5, 0.0, 0.5, 1.0])
    uneven = nh.Quantized([-1.0, 0.25], [-0.5, 0.0, 2.0])
    small = steps(affine((6, 5), "ternary"), uniform, affine((4, 6), 3), uneven, affine((1, 4), 8))
    conv = Window((2, 1), (1, 2), (1, 2), 2)
    images = steps(
        uniform,
        affine((4, 1, 3, 2), 4, conv),
        uneven,
        affine((4, 4, 1, 1), 2, Window(), plain=True),
        (Plain("add"), (4, 2)),
        Plain("max_pool2d", {"kernel_size": 2, "stride": [1, 2], "padding": 1, "ceil_mode": True}),
        Plain(
            "avg_pool2d",
            {"kernel_size": [2, 2], "stride": 1, "padding": 1, "count_include_pad": False},
        ),
        Plain("adaptive_max_pool2d", {"output_size": [2, None]}),
        Plain("adaptive_avg_pool2d", {"output_size": [2, 3]}),
        Plain("flatten"),
        affine((3, 24), "ternary"),
    )
    pooled = steps(
        affine((3, 2, 2, 2), 8, Window()), uneven, Plain("mean", {"dim": [2, 3]}), affine((2, 3), 4)
    )
    cut = steps(
        affine((8, 9), 8, pruned=0.9), uniform, affine((9, 8), 4, pruned=0.5), uneven,
        affine((5, 9), 2, pruned=0.8),
    )  # fmt: skip
    return {
        "one logit that stands for two classes, codes of three kinds": ConvertedNetwork(
            small, (5,), np.array(["no", "yes"])
        ),
        "convolutions, pools and a sum": ConvertedNetwork(images, (2, 7, 6), np.arange(3)),
        "a mean over images, and values": ConvertedNetwork(pooled, (2, 5, 5)),
        "layers that were pruned, half and most of them": ConvertedNetwork(cut, (9,), np.arange(5)),
    }


def inputs_of(shape):
    """On a grid of quarters, so that sums are exact, and many of them lie on a threshold."""
    size = int(np.prod(shape))
    rng = np.random.default_rng(2)
    return np.vstack([np.zeros(size), rng.integers(-8, 9, (5, size)) / 4])


def entry(name, content):
    network = of_bytes(content)
    shape = network.shape if isinstance(network, ConvertedNetwork) else (network.p,)
    X = inputs_of(shape)
    given = in_shape(network, X)
    made = {"name": name, "file": base64.b64encode(content).decode(), "shape": list(shape)}
    made |= {"inputs": X.tolist(), "outputs": network.outputs(given).tolist()}
    if isinstance(network, nh.CompressedNetwork):
        made["features"] = network.features(given).tolist()
    return made | {"predictions": network.predict(given).tolist()}


def matrices():
    made = []
    for seed, stream, sparsity in [
        (0, 0, 0.0),
        (1, 2, 0.5),
        (2**32, 3, 0.9),
        (2**130 + 1, 2**33, 0.3),
    ]:
        T = nh.theory.draw_ternary((3, 5), sparsity, seed, stream)
        about = {"seed": seed, "stream": stream, "sparsity": sparsity}
        made.append(about | {"rows": T.tolist()})
    return made


def changed(content, change, *more):
    """With another description, and its digest right."""
    told, rest = parts_of(content)
    about = json.loads(told)
    change(about, *more)
    return described(json.dumps(about, separators=(",", ":")).encode(), rest)


def with_array(content, name, array):
    tensors, about = from_bytes(content)
    return to_bytes(tensors | {name: array}, about)


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(about):
        for key in path:
            about = about[key]
        about[last] = value

    return change


def another(content, old, new):
    """With another word in the description."""
    told, rest = parts_of(content)
    assert old in told
    return described(told.replace(old, new, 1), rest)


def listed(content, *entries):
    """With more arrays listed, of no bytes."""
    return changed(content, lambda about: about["arrays"].extend(entries))


def in_header(content, old, new):
    """With another word in the header."""
    body = body_of(content)
    header = content[8 : len(content) - len(body)]
    assert old in header
    header = header.replace(old, new, 1)
    return with_digest(len(header).to_bytes(8, "little") + header + body)


def unfinished(content):
    """A description in codes of 9 bits, of which there are more than letters."""
    told, rest = parts_of(content)
    bits = "".join(f"{n:0{width}b}"[::-1] for n, width in [(1, 1), (2, 2), (0, 5), (0, 5), (15, 4)])
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    # Lengths of 9 are told by a bit 1, the only distance's length of 1 by a bit 0.
    bits += "".join("100" if length in (1, 9) else "000" for length in order)
    bits += "1" * 257 + "0" + "".join(f"{code:09b}" for code in (*told, 256))
    return with_packed(np.packbits([int(bit) for bit in bits], bitorder="little").tobytes(), rest)


def pool(content, **options):
    """With these options of a pool beside those that it has."""
    return changed(content, lambda about: about["operations"][5]["options"].update(options))


def mistold(seeds, named, logit):
    """Files whose text, arrays or labels are none."""
    escaped = b'"layers"', b'"no":"\\x41","layers"'
    halved = b'"layers"', b'"no":"\\u00g1","layers"'
    half = b'"layers"', b'"no":"\xe2\x82","layers"'
    beyond, one = np.full((3, 1), 0x110000, "u4"), np.zeros(4)
    alone = with_array(seeds, "scaling.centre", one)
    return [
        ("a word that is no text", in_header(seeds, b' 2"}', b' 2","":1}'), "words of the header are texts"),
        ("a header of parts", in_header(seeds, b'"data_offsets":[0,', b'"data_offsets":[1,'), "the array is all of the body"),
        ("codes that are not all used", unfinished(seeds), "a code of DEFLATE leaves nothing unused"),
        ("an escape of another language", another(seeds, *escaped), "no escape of JSON"),
        ("an escape of other digits", another(seeds, *halved), "no escape of JSON"),
        ("half a character", another(seeds, *half), "no UTF-8"),
        ("a name twice, of nothing", listed(seeds, ["", "u1", 0], ["", "u1", 0]), "arrays have different names"),
        ("a dtype of a blank", listed(seeds, ["", "1 ", 0]), "no such dtype"),
        ("33 sides", listed(seeds, ["", "u1", *[0] * 33]), "at most 32 sides"),
        ("an array that is no list", listed(seeds, {"": 0, "u1": 0}), "an entry is a list"),
        ("a centre alone", alone, "scaling has two arrays"),
        ("a third of a scaling", with_array(with_array(alone, "scaling.scale", one + 1), "scaling.more", one), "scaling has two arrays"),
        ("letters beyond the last", with_array(named, "readout.classes", beyond), "code points end at 10FFFF"),
        ("labels of three sides", with_array(named, "readout.classes", np.full((3, 1, 1), 65, "u4")), "labels are (K, length)"),
        ("labels beyond i8", changed(logit, put("classes", [1, 2**63])), "labels are of i8"),
        ("labels of one number", another(changed(logit, put("classes", [0, 1])), b"[0,1]", b"[0,-0]"), "classes are different"),
        ("labels but for zeros", changed(logit, put("classes", ["a", "a\0"])), "zeros at the end do not count"),
        ("sides beyond all", changed(logit, put("operations", 0, "shape", [10**400, 5])), "fewer than 2^28 numbers"),
    ]  # fmt: skip


def misused(images, pooled):
    """Files of operations that there are not."""
    three = [3, 3, 3]
    return [
        ("a pool's mean", pool(images, dim=[2, 3]), "no such option"),
        ("a pool's size", pool(images, output_size=2), "no such option"),
        ("a pool of three sides", pool(images, kernel_size=three), "a number, or two at most"),
        ("a kernel of nothing", pool(images, kernel_size=0), "at least 1"),
        ("a padding of all", pool(images, padding=2), "at most half of the kernel"),
        ("a padding of null", pool(images, padding=None), "no number"),
        ("1 for ceil_mode", pool(images, ceil_mode=1), "no truth value"),
        ("a maximum without borders", pool(images, count_include_pad=True), "no such option"),
        ("two options in one", pool(images, **{"stride padding": 1}), "no such option"),
        ("a divisor of 0", changed(images, put("operations", 6, "options", "divisor_override", 0)), "at least 1"),
        ("a pool to one of two sizes", changed(images, put("operations", 7, "options", "output_size", [2])), "a number, or two"),
        ("a pool to null", changed(images, put("operations", 7, "options", "output_size", None)), "no number"),
        ("a mean of other sides", changed(pooled, put("operations", 2, "options", "dim", [3, 2])), "dim is [2, 3]"),
        ("options that are none", changed(images, put("operations", 9, "options", None)), "no object"),
        ("two for one", changed(images, put("operations", 9, "inputs", [9, 9])), "it takes one value"),
        ("one for two", changed(images, put("operations", 4, "inputs", [4])), "it takes two values"),
        ("4.0 bits", changed(pooled, put("operations", 3, "bits", 4.0)), "no whole number"),
        ("a window of three", changed(pooled, put("operations", 0, "window", {"stride": three})), "pairs"),
        ("a staircase without steps", changed(images, put("operations", 0, "uniform", [3, 0.0, 0.0, 0.0, 1.0])), "not increasing"),
    ]  # fmt: skip


def otherwise(content):
    """The same network, written as others may: in other words and in other places."""
    told, rest = parts_of(content)
    about = json.loads(told)
    about["operations"][5]["options"] |= {"stride": [1, 2], "dilation": [1], "kernel_size": [2]}
    about["operations"][6]["options"] |= {"divisor_override": None, "ceil_mode": False}
    about["operations"][6]["options"]["stride"] = 1
    about["operations"][9]["options"] = {}
    about = {"ä": ["\ud800", "𝄞", 1e300, None], **dict(reversed(about.items()))}
    text = json.dumps(about, indent=1, ensure_ascii=False).encode(errors="surrogatepass")
    text = text.replace(b"\xed\xa0\x80", b"\\ud800").replace(b'"bits"', b'"b\\u0069ts"', 1)
    made = described(text, rest, 0)
    old = b'{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % ((len(body_of(made)),) * 2)
    new = b'{ "shape" : [%d], "data_offsets": [0, %d], "dtype":"U8" } }   ' % (
        (len(body_of(made)),) * 2
    )
    return in_header(made, old, new)


def refused(files):
    """(name, file, why) of files that no reader may take."""
    seeds, packed = (files[name] for name in [*files][:2])
    named, logit, images, pooled = (files[[*files][k]] for k in (2, 5, 6, 7))
    told, rest = parts_of(seeds)
    body = body_of(seeds)
    beyond = struct.pack("<I", 2**31) + body[4:]
    utf16 = described(told.decode().encode("utf-16"), rest)
    stuffed = described(told, rest)
    behind = body_of(stuffed)
    end = 4 + int.from_bytes(behind[:4], "little")
    behind = struct.pack("<I", end - 4 + 1) + behind[4:end] + b"\0" + behind[end:]
    operation = ("operations", 0)
    window = {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 2], "groups": 3}
    return [
        ("cut off", seeds[:-1], "the digest is of the whole file"),
        ("a bit changed", seeds[:-3] + bytes([seeds[-3] ^ 4]) + seeds[-2:], "the digest is another"),
        ("a digest changed", seeds.replace(seeds[34:38], b"AAAA", 1), "the digest is another"),
        ("text", b"# No network at all, and longer than any header", "no header"),
        ("nothing", b"", "no header"),
        ("version 1", framed(body, version="1"), "another version"),
        ("version 3", framed(body, version="3"), "another version"),
        ("description beyond the end", framed(beyond), "the description is longer than the file"),
        ("bytes behind the description", framed(behind), "DEFLATE ends before the description does"),
        ("description in UTF-16", utf16, "JSON is UTF-8"),
        ("no JSON", described(told[:-1], rest), "no JSON"),
        ("a byte too many", described(told, rest + b"\0"), "more than the arrays that are listed"),
        ("a byte too few", described(told, rest[:-1]), "arrays reach beyond the end"),
        ("an unknown dtype", changed(seeds, put("arrays", 0, 1, "f3")), "no such dtype"),
        ("a name twice", changed(seeds, put("arrays", 1, 0, "0.levels")), "arrays have different names"),
        ("no layers", changed(seeds, put("layers", [])), "at least one layer"),
        ("2.0 for 2", changed(seeds, put("layers", 0, "drawn", "seed", 2.0)), "no whole number"),
        ("1 for true", changed(packed, put("layers", 0, "packed", "codes_zeros", 1)), "no truth value"),
        ("a negative seed", changed(seeds, put("layers", 0, "drawn", "seed", -1)), "seed at least 0"),
        ("sparsity 1", changed(seeds, put("layers", 0, "drawn", "sparsity", 1)), "sparsity below 1"),
        ("scale 0", changed(seeds, put("layers", 0, "scale", 0)), "scale positive"),
        ("too many numbers", changed(seeds, put("layers", 0, "shape", [2**19, 2**19])), "beyond 2^28"),
        ("layers that do not fit", changed(seeds, put("layers", 0, "shape", [6, 4])), "6 outputs, 5 inputs"),
        ("a gap too many", changed(packed, lambda a: a["layers"][0]["packed"].update(count=1)), "unary"),
        ("equal thresholds", with_array(seeds, "0.thresholds", np.zeros(3)), "not increasing"),
        ("infinite levels", with_array(seeds, "0.levels", np.array([0, 1, 2, np.inf])), "not finite"),
        ("levels too few", with_array(seeds, "0.levels", np.zeros(3)), "one level more than thresholds"),
        ("levels in float32", with_array(seeds, "0.levels", np.zeros(4, "f4")), "levels are f8"),
        ("a readout of other width", with_array(seeds, "readout.weights", np.zeros((7, 3), "f4")), "6 features"),
        ("a bias that is NaN", with_array(named, "readout.bias", np.full(3, np.nan, "f4")), "not finite"),
        ("5 bits", changed(logit, put("operations", 2, "bits", 5)), "codes of 2, 3, 4, 8 bits or ternary"),
        ("bits behind the codes", last_bit(logit, "2.codes"), "unused bits are 0"),
        ("a position beyond", changed(logit, put("operations", 0, "shape", [6, 1])), "streams do not fit"),
        ("an unknown operation", changed(images, put("operations", 9, "name", "eval")), "no such operation"),
        ("an unknown option", changed(images, put("operations", 9, "options", {"end_dim": 2})), "no such option"),
        ("a later value", changed(images, put("operations", 4, "inputs", [4, 6])), "inputs come before"),
        ("groups that do not divide", changed(images, put("operations", 1, "window", window)), "channels"),
        ("images that do not fit", changed(images, put("shape", [3, 7, 6])), "3 channels for 2"),
        ("no images", changed(images, put("shape", [84])), "a convolution takes images"),
        ("equal classes", changed(logit, put("classes", ["a", "a"])), "classes are different"),
        ("classes of two kinds", changed(logit, put("classes", ["a", 1])), "all numbers or all text"),
        ("no weights at the end", changed(logit, lambda a: a["operations"].append({"name": "flatten"})), "ends in weights"),
        ("one level", changed(images, put(*operation, "uniform", [1, 0.0, 1.0, 0.0, 1.0])), "2 levels at least"),
        ("units too large", changed(images, put("operations", 1, "units", [113, 0])), "units from -112 to 112"),
        *mistold(seeds, named, logit), *misused(images, pooled),
    ]  # fmt: skip


def last_bit(content, name):
    array = from_bytes(content)[0][name].copy()
    spare = 8 * len(array) - 3 * 4 * 6
    array = np.append(array, np.uint8(1)) if spare == 0 else array | np.uint8(1)
    return with_array(content, name, array)


def vectors():
    files = {name: net.to_bytes(weights) for name, (net, weights) in layered().items()}
    files |= {name: net.to_bytes() for name, net in operated().items()}
    files["levels in tenths, and sums on thresholds"] = tied().to_bytes()
    files["convolutions, pools and a sum, written otherwise"] = otherwise([*files.values()][6])
    told = [
        {"name": name, "file": base64.b64encode(content).decode(), "reason": why}
        for name, content, why in refused(files)
    ]
    return {
        "format": "ntklc",
        "version": 2,
        "networks": [entry(name, content) for name, content in files.items()],
        "matrices": matrices(),
        "refused": told,
    }


def text():
    """As it is written: a line an entry."""
    parts = []
    for key, value in vectors().items():
        shown = json.dumps(value)
        if isinstance(value, list):
            shown = "[\n" + ",\n".join(json.dumps(one) for one in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    VECTORS.write_text(text(), encoding="utf-8")
    sys.exit(0)
