"""The reader in JavaScript: the same numbers as in Python, and the same files refused."""

import hashlib
import os
import zlib

import numpy as np
import pytest
import readers
from damages import damaged

import ntklc_helpers as nh
from ntklc_helpers.compression.loading import of_bytes


@pytest.fixture(scope="module")
def images():
    """Training images, and a thousand to test on; digits stand in where there is no MNIST."""
    train = nh.load_images("mnist" if os.environ.get("NTKLC_DATA") else "digits", "train", n=1000)
    test = nh.load_images(train.name, "test")
    order = np.random.default_rng(0).permutation(len(test.labels))[:1000]
    return nh.normalize(train.X, train.X), train.labels, nh.normalize(test.X, train.X)[order]


@pytest.fixture(scope="module")
def files(images):
    return readers.networks(*images[:2])


def test_the_classes_of_a_thousand_images_are_the_same(javascript, files, images):
    assert len(files) >= 6
    for name, content in files.items():
        rows = readers.disagreements(javascript, content, images[2])
        assert len(rows) == 0, f"{name}: {rows}"


def test_features_are_the_same_to_the_last_bit(javascript, files, images):
    X = images[2][:20]
    for name, content in files.items():
        network = of_bytes(content)
        if not isinstance(network, nh.CompressedNetwork):
            continue
        read = "ntklc.read(bytes(file))"
        run = f"([file, x]) => Array.from({read}.features(numbers(x)))"
        for x, ours in zip(X, network.features(X), strict=True):
            given = [readers.text_of(content), readers.text_of(x.tobytes())]
            assert np.array_equal(javascript.page.evaluate(run, given), ours), name


def test_a_trained_network_of_convolutions_gives_the_same_scores(javascript):
    """Sums of levels a power of two apart are exact: so are the outputs."""
    rng = np.random.default_rng(0)
    for content in readers.own_files().values():
        network = of_bytes(content)
        x = rng.choice([-0.42421296, 0.0, 1.5, 2.8214867], (1, 1, 28, 28)).astype(np.float32)
        run = "([file, x]) => Array.from(ntklc.read(bytes(file)).outputs(numbers(x)))"
        given = [readers.text_of(content), readers.text_of(x.astype("<f8").tobytes())]
        assert np.array_equal(javascript.page.evaluate(run, given), network.outputs(x)[0])


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 + 5, 10**60])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.97, 1 - 2**-31])
def test_the_generator_is_the_same(javascript, seed, sparsity):
    shape, stream = (17, 31), seed % 7
    run = "([r, c, s, seed, k]) => Array.from(ntklc.drawTernary(r, c, s, BigInt(seed), BigInt(k)))"
    found = javascript.page.evaluate(run, [*shape, sparsity, str(seed), stream])
    assert np.array_equal(found, nh.theory.draw_ternary(shape, sparsity, seed, stream).ravel())


def test_digests_and_inflated_bytes_are_the_same(javascript):
    rng = np.random.default_rng(0)
    run = "(t) => Array.from(ntklc.sha256(bytes(t)))"
    inflate = "(t) => Array.from(ntklc.inflate(bytes(t)))"
    for size in [0, 1, 55, 56, 63, 64, 65, 1000, 70_000]:
        data = rng.choice([0, 1, 2, 255], size, p=[0.7, 0.2, 0.05, 0.05]).astype("u1").tobytes()
        found = javascript.page.evaluate(run, readers.text_of(data))
        assert bytes(found) == hashlib.sha256(data).digest()
        for level, strategy in [
            (0, 0),
            (1, 0),
            (9, 0),
            (9, zlib.Z_HUFFMAN_ONLY),
            (9, zlib.Z_FIXED),
        ]:
            packer = zlib.compressobj(level, wbits=-15, strategy=strategy)
            packed = packer.compress(data) + packer.flush()
            assert bytes(javascript.page.evaluate(inflate, readers.text_of(packed))) == data


def test_damaged_files_are_refused_by_both_for_a_reason(javascript, files):
    """Of some the digest is right; what both read gives the same outputs."""
    small = [c for c in [*files.values(), *readers.own_files().values()] if len(c) < 20_000]
    given = damaged([*small, *readers.vector_files()], 600, seed=1)
    told = javascript.verdicts(given)
    assert list(readers.differences(given, told)) == []
    reasons = {one["reason"] for one in told if "reason" in one}
    assert len(reasons) > 50 and sum("reason" in one for one in told) > 450


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("[1, 2]", "x must be 784 numbers, 1 x 28 x 28, in one list"),
        ("null", "x must be 784 numbers"),
        ("'x'.repeat(784)", "x must be 784 numbers"),
        ("new Array(784).fill('1')", "x must be finite numbers"),
        ("new Array(784).fill(NaN)", "x must be finite numbers"),
        ("new Array(784).fill(1e39)", "x must be finite numbers, none of them too large"),
    ],
)
def test_odd_inputs_are_refused_in_words(javascript, x, message):
    content = readers.own_files()["mnist_small, trained convolutions"]
    run = f"(file) => {{ try {{ ntklc.read(bytes(file)).predict({x}); return 'none'; }}"
    found = javascript.page.evaluate(
        run + " catch (e) { return e.message; } }", readers.text_of(content)
    )
    assert found.startswith(message)


def test_what_is_no_file_is_refused_in_words(javascript):
    run = "(x) => { try { ntklc.read(x); return 'none'; } catch (e) { return e.message; } }"
    assert javascript.page.evaluate(run, "text") == "content must be a Uint8Array or an ArrayBuffer"
    empty = "() => { try { ntklc.read(new ArrayBuffer(0)); } catch (e) { return e.message; } }"
    assert "not a compressed network" in javascript.page.evaluate(empty)


def test_a_page_may_set_a_lower_limit(javascript):
    T = nh.compression.TernaryMatrix.from_dense(nh.theory.draw_ternary((40, 50), 0.5, 1))
    drawn = nh.compression.layers.Drawn(0.5, 1, 0)
    layer = nh.compression.TernaryLayer(T, 1.0, nh.Quantized([0.0], [0.0, 1.0]), None, drawn)
    content = readers.text_of(nh.CompressedNetwork([layer]).to_bytes())
    run = "([file, most]) => { try { return ntklc.read(bytes(file), { most }).kind; }"
    run += " catch (e) { return e.message; } }"
    assert javascript.page.evaluate(run, [content, 2000]) == "layers"
    found = javascript.page.evaluate(run, [content, 1999])
    assert found == "a layer must not ask for more than 1999 numbers"
