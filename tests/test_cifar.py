"""CIFAR-10's binary files: what is read, where it is looked for, what goes wrong and how."""

import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers import cifar
from ntklc_helpers.datafiles import DataError, MissingDataError


def records(n, first=1, seed=0):
    """n records of the format: a label, then three planes of pixels."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) + first) % 10
    pixels = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return labels, pixels


def write(folder, original=False):
    folder.mkdir(parents=True)
    for number, name in enumerate((*cifar.FILES["train"], *cifar.FILES["test"])):
        labels, pixels = records(20, number, seed=number)
        if original and number in (0, 5):
            labels[0] = (6, 3)[number == 5]
            pixels[0, 0, 0, :3] = ((59, 43, 50), (158, 159, 165))[number == 5]
        rows = [bytes([k]) + x.tobytes() for k, x in zip(labels, pixels, strict=True)]
        (folder / name).write_bytes(b"".join(rows))
    return folder


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    return write(tmp_path / cifar.FOLDER)


def test_rows_are_the_images_sorted_by_class(files):
    data = nh.load_cifar10("train", classes=(4, 0))
    assert data.X.shape == (20, 3072) and data.classes == (4, 0) and data.name == "cifar10"
    assert data.labels.tolist() == [0] * 10 + [1] * 10
    labels, pixels = records(20, 2, seed=2)
    expected = pixels[labels == 4].reshape(2, -1) / 255
    # Two fours in each of five files, in the order of the files.
    np.testing.assert_array_equal(data.X[4:6], expected)
    assert len(nh.load_cifar10("test").X) == 20
    assert nh.load_cifar10("train", n=30, seed=1).labels.tolist() == sorted(list(range(10)) * 3)


def test_a_copy_is_called_a_copy(files, tmp_path, monkeypatch):
    expected = "copy of CIFAR-10 with other pixels (a JPEG copy, say), train set"
    assert nh.load_cifar10().source == expected
    write(tmp_path / "other" / cifar.FOLDER, original=True)
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path / "other"))
    assert nh.load_cifar10("train").source == "CIFAR-10, train set"
    assert nh.load_cifar10("test").source == "CIFAR-10, test set"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The archive on a local server, and neither the variable nor a cache."""
    source = write(tmp_path / "source" / cifar.FOLDER)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(source, cifar.FOLDER)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed.getvalue())))
            self.end_headers()
            self.wfile.write(packed.getvalue())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.delenv("NTKLC_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(cifar, "URL", f"http://127.0.0.1:{running.server_port}/c.tar.gz")
        monkeypatch.setattr(cifar, "MD5", hashlib.md5(packed.getvalue()).hexdigest())
        yield tmp_path / "cache"
        running.shutdown()


def test_download_into_the_cache(server, monkeypatch):
    first = nh.load_cifar10("train")
    assert list(server.rglob("test_batch.bin"))
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/none")
    np.testing.assert_array_equal(nh.load_cifar10("train").X, first.X)


def test_a_wrong_download_is_not_kept(server, monkeypatch):
    monkeypatch.setattr(cifar, "MD5", "0" * 32)
    with pytest.raises(DataError, match="has the wrong checksum and was not kept"):
        nh.load_cifar10()
    assert not list(server.rglob("*.bin")) and not list(server.rglob("*.gz"))


def test_missing_files_name_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="Looked for .*data_batch_1.bin; NTKLC_DATA is set"):
        nh.load_cifar10()
    monkeypatch.delenv("NTKLC_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/c.tar.gz")
    with pytest.raises(MissingDataError, match="could not be fetched .*Set NTKLC_DATA"):
        nh.load_cifar10()


def test_damaged_files_are_refused(files):
    (files / "test_batch.bin").write_bytes(bytes(3074))
    with pytest.raises(DataError, match="should hold records of 3073 bytes, has 3,074"):
        nh.load_cifar10("test")
    (files / "test_batch.bin").write_bytes(b"")
    with pytest.raises(DataError, match="has 0"):
        nh.load_cifar10("test")
    (files / "test_batch.bin").write_bytes(bytes([11]) + bytes(3072))
    with pytest.raises(DataError, match="holds the label 11, not 0 to 9"):
        nh.load_cifar10("test")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'all'"):
        nh.load_cifar10("all")
