"""CIFAR-10's binary files: what is read, where it is looked for, what goes wrong and how."""

import hashlib
import http.server
import io
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import cifar_records, write_cifar

import ntklc_helpers as nh
from ntklc_helpers.data import files as datafiles
from ntklc_helpers.data.files import DataError, MissingDataError

COPY = Path(os.environ.get("NTKLC_DATA", "none")) / datafiles.CIFAR_ARCHIVE


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    return write_cifar(tmp_path)


def test_rows_are_the_images_sorted_by_class(files):
    data = nh.load_cifar10("train", classes=(4, 0))
    assert data.X.shape == (20, 3072) and data.classes == (4, 0) and data.name == "cifar10"
    assert data.labels.tolist() == [0] * 10 + [1] * 10
    labels, pixels = cifar_records(20, 2, seed=2)
    expected = pixels[labels == 4].reshape(2, -1) / 255
    # Two fours in each of five files, in the order of the files.
    np.testing.assert_array_equal(data.X[4:6], expected)
    assert len(nh.load_cifar10("test").X) == 20
    assert nh.load_cifar10("train", n=30, seed=1).labels.tolist() == sorted(list(range(10)) * 3)


def test_a_copy_is_called_a_copy(files, tmp_path, monkeypatch):
    assert nh.load_cifar10().source == "copy of CIFAR-10 with other pixels, train set"
    write_cifar(tmp_path / "other", original=True)
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path / "other"))
    assert nh.load_cifar10("train").source == "CIFAR-10, train set"
    assert nh.load_cifar10("test").source == "CIFAR-10, test set"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The archive on a local server, and neither the variable nor a cache."""
    source = write_cifar(tmp_path / "source")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(source, source.name)

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
        monkeypatch.setattr(
            datafiles, "CIFAR_URL", f"http://127.0.0.1:{running.server_port}/c.tar.gz"
        )
        monkeypatch.setattr(datafiles, "CIFAR_MD5", hashlib.md5(packed.getvalue()).hexdigest())
        yield tmp_path / "cache"
        running.shutdown()


def test_download_into_the_cache(server, monkeypatch):
    first = nh.load_cifar10("train")
    assert list(server.rglob("test_batch.bin"))
    monkeypatch.setattr(datafiles, "CIFAR_URL", "http://127.0.0.1:9/none")
    np.testing.assert_array_equal(nh.load_cifar10("train").X, first.X)


def test_a_wrong_download_is_not_kept(server, monkeypatch):
    monkeypatch.setattr(datafiles, "CIFAR_MD5", "0" * 32)
    with pytest.raises(DataError, match="has the wrong checksum and was not kept"):
        nh.load_cifar10()
    assert not [path for path in server.rglob("*") if path.is_file()]


def test_missing_files_name_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="Looked for .*data_batch_1.bin; NTKLC_DATA is set"):
        nh.load_cifar10()
    monkeypatch.delenv("NTKLC_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datafiles, "CIFAR_URL", "http://127.0.0.1:9/c.tar.gz")
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


def test_digits_stand_in_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    digits = nh.load_images("cifar10", "test", n=50)
    assert digits.name == "digits" and len(digits.X) == 50
    assert digits.note.startswith("CIFAR-10 is not available here, so this uses 50 of scikit-learn")
    with pytest.raises(MissingDataError, match="or cifar10-jpeg.tar.gz"):
        nh.load_images("cifar10", fallback=False)


# --- an archive of JPEG files


def jpeg(seed, size=(32, 32), mode="RGB", kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, kind)
    return content.getvalue()


MEMBERS = {
    f"{split}/{kind}/{number:04}.jpg": jpeg([label, number, split == "train"])
    for split, count in (("train", 2), ("test", 1))
    for label, kind in enumerate(datafiles.CIFAR_CLASSES)
    for number in range(count)
}


def add(archive, name, content=b"", **attributes):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in attributes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Writes the archive, with more members and with changes, where the data are looked for."""
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / datafiles.CIFAR_ARCHIVE

    def write(*more, **changes):
        with tarfile.open(path, "w:gz") as archive:
            add(archive, "train/", type=tarfile.DIRTYPE)
            for name, content in (MEMBERS | changes).items():
                add(archive, name, content)
            for name, content, attributes in more:
                add(archive, name, content, **attributes)
        return path

    write.cache = tmp_path / "cache"
    return write


def test_an_archive_of_jpegs_is_decoded_once(pack, monkeypatch):
    archive = pack()
    data = nh.load_cifar10("train")
    assert data.source == "copy of CIFAR-10 with other pixels, train set"
    assert data.labels.tolist() == sorted(list(range(10)) * 2)
    seen = {row.tobytes() for row in (255 * data.X).round().astype(np.uint8)}
    for name, content in MEMBERS.items():
        with Image.open(io.BytesIO(content)) as image:
            planes = np.asarray(image).transpose(2, 0, 1)
        assert (planes.tobytes() in seen) == name.startswith("train")
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: 1 / 0)
    assert len(nh.load_cifar10("test").X) == 10
    np.testing.assert_array_equal(nh.load_cifar10("train").X, data.X)
    # Binary files are taken before an archive.
    write_cifar(archive.parent, original=True)
    assert nh.load_cifar10("test").source == "CIFAR-10, test set"


def test_the_jpeg_copy_is_known_by_the_order_of_its_labels(pack, monkeypatch):
    pack()
    for split in ("train", "test"):
        table, kinds, _ = datafiles.read_cifar(split)
        digest = hashlib.sha256(kinds.tobytes()).hexdigest()
        monkeypatch.setitem(datafiles.JPEG_LABELS, split, digest)
        assert nh.load_cifar10(split).source == f"JPEG copy of CIFAR-10, {split} set"


@pytest.mark.skipif(not COPY.is_file(), reason="the JPEG copy is not here")
def test_the_order_of_the_labels_of_the_jpeg_copy():
    """Its names alone, which take a moment; decoding all of it takes half a minute."""
    labels = {"train": [], "test": []}
    with tarfile.open(COPY, "r|gz") as archive:
        for member in archive:
            if member.isreg():
                split, kind, _ = member.name.split("/")
                labels[split].append(datafiles.CIFAR_CLASSES.index(kind))
    rng = np.random.default_rng(0)
    for split, found in labels.items():
        shuffled = np.array(found, np.uint8)[rng.permutation(len(found))]
        assert hashlib.sha256(shuffled.tobytes()).hexdigest() == datafiles.JPEG_LABELS[split]


@pytest.mark.parametrize(
    ("more", "changes", "message"),
    [
        ([("../evil.jpg", b"", {})], {}, "holds '../evil.jpg', no file SPLIT/CLASS/name"),
        ([("/train/cat/1.jpg", b"", {})], {}, "holds '/train/cat/1.jpg', no file SPLIT"),
        ([("train/cow/1.jpg", b"", {})], {}, "holds 'train/cow/1.jpg', no file SPLIT"),
        ([("train/cat/1.png", b"", {})], {}, "holds 'train/cat/1.png', no file SPLIT"),
        (
            [("train/cat/1.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})],
            {},
            "holds 'train/cat/1.jpg', no file SPLIT",
        ),
        ([("train/cat/1.jpg", bytes(100_001), {})], {}, "cat/1.jpg of 100,001 bytes"),
        ([], {"test/cat/0000.jpg": b"none"}, "cat/0000.jpg is no JPEG image that can be read"),
        ([], {"test/cat/0000.jpg": jpeg(0, kind="PNG")}, "is no JPEG image that can be read"),
        ([], {"test/cat/0000.jpg": jpeg(0)[:700]}, "is no JPEG image that can be read"),
        ([], {"test/cat/0000.jpg": jpeg(0, (8, 8))}, r"is \(8, 8\) in RGB, not 32x32 in RGB"),
        ([], {"test/cat/0000.jpg": jpeg(0, mode="L")}, r"is \(32, 32\) in L, not 32x32 in RGB"),
    ],
)
def test_odd_archives_are_refused_and_nothing_is_kept(pack, more, changes, message):
    pack(*more, **changes)
    with pytest.raises(DataError, match=message):
        nh.load_cifar10()
    assert not list(pack.cache.rglob("*"))


@pytest.mark.filterwarnings("error")
def test_images_of_absurd_size_are_refused(pack, monkeypatch):
    # Pillow warns of one and raises an error of its own for the other.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)
    for size, message in (((40, 40), "not 32x32"), ((64, 64), "no JPEG image that can be read")):
        pack(**{"test/cat/0000.jpg": jpeg(0, size)})
        with pytest.raises(DataError, match=f"cat/0000.jpg is .*{message}"):
            nh.load_cifar10()


def test_a_flipped_bit_is_noticed(pack, monkeypatch):
    """Wherever it is, or the images are as they were: gzip's checksum covers all of them."""
    archive = pack()
    whole = archive.read_bytes()
    expected = nh.load_cifar10("train")
    rng = np.random.default_rng(0)
    for position, bit in zip(rng.integers(0, len(whole), 60), rng.integers(0, 8, 60), strict=True):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        archive.write_bytes(damaged)
        try:
            found = nh.load_cifar10("train")
        except DataError as error:
            assert str(archive) in str(error)
        else:
            assert found == expected and position < 10  # gzip's header: time, system, flags


def test_a_cache_that_was_made_without_the_checksum_is_not_taken(pack):
    digest = hashlib.sha256(pack().read_bytes()).hexdigest()
    old = pack.cache / "ntklc" / f"cifar10-jpeg-{digest[:16]}"
    old.mkdir(parents=True)
    for name in ("test_batch.bin", *(f"data_batch_{i}.bin" for i in range(1, 6))):
        (old / name).write_bytes(bytes(3073))
    assert len(nh.load_cifar10("test").X) == 10


def test_a_cache_that_cannot_be_written_is_named(pack, monkeypatch):
    pack()
    blocked = pack.cache.with_name("blocked")
    blocked.write_text("a file, no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(DataError, match="blocked/ntklc/.* cannot be written"):
        nh.load_cifar10()


def test_damaged_and_interrupted_archives_leave_nothing(pack, monkeypatch):
    archive = pack()
    whole = archive.read_bytes()
    for content in (whole[:-2000], b"", b"not an archive" * 100):
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"cifar10-jpeg.tar.gz (is damaged|holds 0 images)"):
            nh.load_cifar10()
    archive.write_bytes(whole)

    def stopped(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", stopped)
        with pytest.raises(KeyboardInterrupt):
            nh.load_cifar10()
    assert not list((pack.cache / "ntklc").iterdir())
    assert len(nh.load_cifar10("test").X) == 10
