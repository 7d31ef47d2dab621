"""MNIST from disk, from the cache and from a download; the digits; what goes wrong and how."""

import contextlib
import gzip
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import DIGITS, idx_bytes, images_of, write_mnist

import ntklc_helpers as nh
from ntklc_helpers.data import balanced_rows
from ntklc_helpers.data import files as datafiles
from ntklc_helpers.data.files import DataError, MissingDataError, read_idx

real_data = pytest.mark.skipif(
    not os.environ.get("NTKLC_DATA"), reason="NTKLC_DATA is not set: no real MNIST to test against"
)
# Of the decompressed originals.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A small MNIST on disk, found through the variable."""
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    return write_mnist(tmp_path)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Neither the variable, nor a cache, nor a server that answers."""
    monkeypatch.delenv("NTKLC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datafiles, "MNIST_URL", "http://127.0.0.1:9/")
    return tmp_path / "cache"


# --- what is loaded


def test_rows_are_the_images_of_the_classes_in_order(mnist):
    data = nh.load_mnist("test", classes=(3, 0))
    expected = [0, 2, 5, 6, 8, 3, 7]  # threes, then noughts, each in file order
    assert np.rint(data.X[:, 0] * 255).astype(int).tolist() == expected
    np.testing.assert_array_equal(data.X, images_of(DIGITS)[expected].reshape(7, 784) / 255)
    assert data.labels.tolist() == [0] * 5 + [1] * 2
    assert (data.X.dtype, data.labels.dtype) == (np.float64, np.int64)
    assert (data.classes, data.name, data.note) == ((3, 0), "mnist", "")


@pytest.mark.parametrize("compress", [False, True])
def test_plain_and_gzipped_files_are_the_same(tmp_path, monkeypatch, mnist, compress):
    write_mnist(tmp_path / "other", compress=compress)
    expected = nh.load_mnist(classes=(0, 1, 3)).X
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path / "other"))
    np.testing.assert_array_equal(nh.load_mnist(classes=(0, 1, 3)).X, expected)


@pytest.mark.parametrize(
    ("n", "counts"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (6, [2, 2, 2]), (8, [3, 2, 3]), (10, None)]
)
def test_a_draw_is_as_balanced_as_the_classes_allow(mnist, n, counts):
    data = nh.load_mnist(classes=(3, 0, 1), n=n, seed=4)
    assert np.bincount(data.labels).tolist() == (counts or [5, 2, 3])
    assert (np.diff(data.labels) >= 0).all()
    drawn = np.rint(data.X[:, 0] * 255).astype(int)
    assert len(set(drawn)) == n
    np.testing.assert_array_equal(DIGITS[drawn], np.array([3, 0, 1])[data.labels])


def test_the_seed_decides_the_draw():
    draws = [nh.load_digits("all", (6, 8), 50, seed).X for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    data = nh.load_digits()
    np.testing.assert_array_equal(data.labels, np.sort(digits))
    np.testing.assert_array_equal(data.X * 16, images[np.argsort(digits, kind="stable")])


def test_the_parts_of_the_digits_share_no_image():
    train, test = (nh.load_digits(split=split).X for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 1797


@real_data
@pytest.mark.parametrize("name", SHA256)
def test_real_files_are_the_originals(name):
    folder = Path(os.environ["NTKLC_DATA"]) / "MNIST/raw"
    plain = folder / name
    content = (
        plain.read_bytes()
        if plain.is_file()
        else gzip.decompress((folder / f"{name}.gz").read_bytes())
    )
    assert hashlib.sha256(content).hexdigest() == SHA256[name]


@real_data
def test_real_mnist():
    train, test = nh.load_mnist(), nh.load_mnist("test")
    assert (train.X.shape, test.X.shape) == ((60000, 784), (10000, 784))
    # Published counts of the ten digits, and the usual mean and deviation of the pixels.
    assert np.bincount(train.labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert np.bincount(test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    assert (round(train.X.mean(), 4), round(train.X.std(), 4)) == (0.1307, 0.3081)
    pair = nh.load_mnist(classes=(6, 8), n=3200)
    assert np.bincount(pair.labels).tolist() == [1600, 1600]


# --- normalize


def test_normalize_centres_and_scales():
    X = np.random.default_rng(0).normal(3.0, 5.0, (40, 7))
    Z = nh.normalize(X)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-15)
    assert np.mean((Z**2).sum(axis=1)) == pytest.approx(1, rel=1e-14)
    np.testing.assert_allclose(nh.normalize(2 * X - 9), Z, atol=1e-14)


def test_normalize_by_a_reference_is_one_affine_map():
    rng = np.random.default_rng(0)
    train, test = rng.normal(1, 2, (30, 5)), rng.normal(1, 2, (8, 5))
    together = nh.normalize(np.concatenate([train, test]), reference=train)
    np.testing.assert_array_equal(nh.normalize(test, train), together[30:])
    np.testing.assert_allclose(nh.normalize(train), together[:30], atol=1e-15)


@pytest.mark.parametrize(
    ("X", "reference", "message"),
    [
        (np.array([[1.0, np.nan], [0, 1]]), None, "X must be finite"),
        (np.eye(2), np.array([[np.inf, 1], [0, 1]]), "reference must be finite"),
        (np.arange(3.0), None, r"X must have 2 dimension\(s\)"),
        (np.eye(2), np.eye(3), r"reference must have 2 columns, got shape \(3, 3\)"),
        (np.full((9, 3), 0.1), None, "X must hold two different rows or more"),
        (np.ones((1, 3)), None, "X must hold two different rows or more: its scale is zero"),
        (np.eye(3), np.ones((2, 3)), "reference must hold two different rows"),
        (1e-310 * np.eye(3) + 1e60, None, "X must hold two different rows"),
        (np.full((2, 2), 1e60), 1e-310 * np.eye(2), "X must have entries of size below"),
    ],
)
def test_normalize_names_what_is_wrong(X, reference, message):
    with pytest.raises(ValueError, match=message):
        nh.normalize(X, reference)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-20, 1e55])
def test_normalize_takes_any_unit(size):
    X = np.random.default_rng(0).integers(-9, 10, (6, 4)).astype(float)
    np.testing.assert_allclose(nh.normalize(size * X), nh.normalize(X), rtol=1e-12)
    np.testing.assert_allclose(
        nh.normalize(size * X[:2], size * X), nh.normalize(X)[:2], rtol=1e-12
    )


def test_balanced_rows():
    labels = np.array([0] * 5 + [1] * 9 + [2] * 4)[np.random.default_rng(0).permutation(18)]
    for n, counts in ((3, [1, 1, 1]), (11, [4, 4, 3]), (14, [5, 5, 4]), (18, [5, 9, 4])):
        rows = balanced_rows(labels.tolist(), n, seed=1)
        assert np.bincount(labels[rows]).tolist() == counts and len(set(rows)) == n
        assert (np.diff(labels[rows]) >= 0).all() and (
            np.diff(rows)[np.diff(labels[rows]) == 0] > 0
        ).all()
        np.testing.assert_array_equal(rows, balanced_rows(labels, n, seed=np.int64(1)))
    assert not np.array_equal(balanced_rows(labels, 9, 1), balanced_rows(labels, 9, 2))
    for n in (2, 19):
        with pytest.raises(ValueError, match=f"n must be from 3, .*, to 18, .* got {n}"):
            balanced_rows(labels, n)


# --- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": (3, 11)}, r"classes must be different .* classes of MNIST, got \(3, 11\)"),
        ({"classes": (3, 3)}, "classes must be different whole numbers 0 to 9"),
        ({"classes": ()}, "classes must be different whole numbers 0 to 9"),
        ({"classes": (2.5,)}, "classes must be different whole numbers 0 to 9"),
        ({"classes": 3}, "classes must have 1 dimension"),
        ({"classes": ("3",)}, "classes must be numbers"),
        ({"classes": (3, 7)}, "classes: there is no image of class 7 in MNIST, train set"),
        ({"classes": (3, 7), "n": 4}, "classes: there is no image of class 7 in MNIST"),
        ({"classes": (3, 0), "n": 8}, "n must be from 2, .*, to 7, .*, got 8"),
        ({"classes": (3, 0), "n": 1}, "n must be from 2, .*, to 7, .*, got 1"),
        ({"classes": (3, 0), "n": 2.5}, "n must be a whole number of at least 1, got 2.5"),
        ({"classes": (3, 0), "n": 2, "seed": -1}, "seed must be a whole number of at least 0"),
        ({"split": "validation"}, "split must be one of train, test, got 'validation'"),
    ],
)
def test_arguments_are_checked(mnist, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        nh.load_mnist(**arguments)
    assert not isinstance(caught.value, DataError)


def test_loaders_take_their_arguments_in_one_order(mnist):
    for load in (nh.load_digits, nh.load_mnist):
        data = load("test", (3, 0), 2, np.int64(1))
        assert data.classes == (3, 0) and data.labels.tolist() == [0, 1]
        assert data == load(split="test", classes=[3, 0], n=np.int64(2), seed=1)
        assert data != load("test", (3, 0), 2, 2)
    with pytest.raises(ValueError, match="classes .* classes of CIFAR-10, got"):
        nh.load_cifar10(classes=(11,))


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="name must be one of mnist, cifar10, digits, got 'svhn'"):
        nh.load_images("svhn")


def corrupt(images, labels):
    """Ways to spoil the files, with what the error must say."""
    gz = images.with_name(images.name + ".gz")
    content = images.read_bytes()
    return {
        "cut": (lambda: images.write_bytes(content[:-1]), images, "should hold 7,856 bytes"),
        "header": (lambda: images.write_bytes(content[:9]), images, "truncated inside its header"),
        "empty": (lambda: images.write_bytes(b""), images, "is no IDX file"),
        "long": (lambda: images.write_bytes(content + b"0"), images, "has 7,857"),
        "magic": (lambda: images.write_bytes(b"<htm" + content[4:]), images, "no IDX file"),
        "size": (
            lambda: images.write_bytes(idx_bytes(np.zeros((10, 8, 8), np.uint8))),
            images,
            r"shape \[8, 8\]",
        ),
        "gzip": (
            lambda: (images.unlink(), gz.write_bytes(gzip.compress(content)[:-20])),
            gz,
            "cannot be read",
        ),
        "not gzip": (lambda: (images.unlink(), gz.write_bytes(content)), gz, "cannot be read"),
        "few": (lambda: labels.write_bytes(idx_bytes(DIGITS[:9])), labels, "9 labels, 10 expected"),
        "label": (lambda: labels.write_bytes(idx_bytes(DIGITS + 8)), labels, "label 11"),
    }


@pytest.mark.parametrize(
    "how",
    ["cut", "header", "empty", "long", "magic", "size", "gzip", "not gzip", "few", "label"],
)
def test_a_bad_file_is_named(mnist, how):
    ways = corrupt(mnist / "train-images-idx3-ubyte", mnist / "train-labels-idx1-ubyte")
    spoil, path, message = ways[how]
    spoil()
    with pytest.raises(DataError, match=message) as caught:
        nh.load_images("mnist")  # no fallback hides a corrupt file
    assert str(path) in str(caught.value) and "NTKLC_DATA" in str(caught.value)
    assert not isinstance(caught.value, MissingDataError)


def test_a_missing_file_is_named(mnist):
    path = mnist / "t10k-labels-idx1-ubyte"
    path.unlink()
    with pytest.raises(MissingDataError) as caught:
        nh.load_mnist("test")
    assert str(path) in str(caught.value)
    assert f"{path.name}.gz" in str(caught.value) and "NTKLC_DATA" in str(caught.value)


ORIGINAL = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@given(
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=4),
    cut=st.integers(0, 60),
    compress=st.booleans(),
)
def test_a_damaged_idx_file_is_an_error_or_what_it_declares(tmp_path_factory, flips, cut, compress):
    content = bytearray(gzip.compress(ORIGINAL, mtime=0) if compress else ORIGINAL)
    for position, mask in flips:
        content[position % len(content)] ^= mask
    path = tmp_path_factory.getbasetemp() / f"damaged{'.gz' if compress else ''}"
    path.write_bytes(content[: len(content) - cut])
    with contextlib.suppress(DataError):
        array = read_idx(path, 3)
        assert array.dtype == np.uint8
        plain = path.read_bytes()
        plain = gzip.decompress(plain) if compress else plain
        assert idx_bytes(array) == plain


# --- the cache and the download


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, bare, monkeypatch):
    """A local server of gzipped files; the checksums expected are theirs."""
    folder = write_mnist(tmp_path / "public", compress=True)
    for path in folder.iterdir():
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(datafiles.MNIST_MD5, path.name, md5)

    def handler(*arguments):
        return QuietHandler(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        monkeypatch.setattr(datafiles, "MNIST_URL", f"http://127.0.0.1:{httpd.server_port}/")
        yield folder
        httpd.shutdown()
        thread.join()


def cached_files(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_the_cache_is_filled_on_first_use(server, bare, capsys):
    data = nh.load_mnist(classes=(0, 1, 3))
    assert "train-images-idx3-ubyte.gz: 100%" in capsys.readouterr().err
    assert data.X.shape == (10, 784)
    assert cached_files(bare) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    for path in server.iterdir():
        path.unlink()
    np.testing.assert_array_equal(nh.load_mnist(classes=(0, 1, 3)).X, data.X)


def test_a_download_with_the_wrong_checksum_is_not_kept(server, bare):
    path = server / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(DataError, match=f"{path.name} has the wrong checksum .* NTKLC_DATA"):
        nh.load_images("mnist")
    assert cached_files(bare) == []


def test_a_download_that_is_not_there_is_missing_data(server, bare):
    (server / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(MissingDataError, match="HTTPError"):
        nh.load_mnist()
    assert cached_files(bare) == []


def test_without_data_or_network_the_error_tells_what_to_do(bare):
    with pytest.raises(MissingDataError) as caught:
        nh.load_mnist()
    message = str(caught.value)
    assert "train-images-idx3-ubyte and " in message and "train-images-idx3-ubyte.gz" in message
    assert "Set NTKLC_DATA" in message and "ConnectionError" in message
    assert cached_files(bare) == []


def test_without_data_or_network_the_digits_stand_in_and_say_so(bare):
    data = nh.load_images("mnist", classes=(6, 8), n=3200)
    assert (data.name, data.classes) == ("digits", (6, 8))
    assert f"uses {len(data.labels)} of scikit-learn's" in data.note
    assert "instead of the 3,200 asked for" in data.note
    few = nh.load_images("mnist", classes=(6, 8), n=100)
    assert len(few.labels) == 100 and "instead of" not in few.note
    with pytest.raises(MissingDataError):
        nh.load_images("mnist", fallback=False)
    assert nh.load_images("digits", classes=(6, 8), n=100).note == ""
