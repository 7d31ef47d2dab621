"""Data files: where they are looked for, how they are fetched, and what is in them.

They are read from the folder that NTKLC_DATA names, in torchvision's layout; without the variable
from a cache of the user's own, which is filled on first use from the public source. MNIST is in
``MNIST/raw/``, in IDX files, plain or gzipped. CIFAR-10 is in ``cifar-10-batches-bin/``, in records
of a label byte and 3,072 pixel bytes: the red, green and blue planes of 32 × 32 pixels. Where there
are none, an archive ``cifar10-jpeg.tar.gz`` of ``SPLIT/CLASS/name.jpg`` is decoded into the cache.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray
from tqdm import tqdm

Bytes = NDArray[np.uint8]

DATA_VARIABLE = "NTKLC_DATA"
MNIST_FOLDER = "MNIST/raw"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
CIFAR_ARCHIVE = "cifar10-jpeg.tar.gz"
CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# Label and first pixels of the first record of the original files.
CIFAR_OPENING = {"train": (6, 59, 43, 50), "test": (3, 158, 159, 165)}
# SHA-256 of the labels of the JPEG copy: decoders of different versions differ in the pixels alone.
JPEG_LABELS = {
    "train": "b84471b23938f9b3871a6efb6808208c25a3cd746c8ff45de412b9f0d58eb502",
    "test": "8d29100cf30e74baf457f58cd3e9cbcc76102d4b3f427d2baa4d6296a3a4c001",
}
_SIDE = 32
_RECORD = 1 + 3 * _SIDE**2
# A JPEG of 32 × 32 pixels takes 1 or 2 kB.
_LARGEST_JPEG = 100_000


class DataError(OSError, ValueError):
    """A data file cannot be used: it is missing, truncated, corrupt or not what it should be."""


class MissingDataError(DataError):
    """A data file is not there, and could not be downloaded."""


def read_mnist(split: str) -> tuple[Bytes, Bytes, str]:
    """Images (n, 784) and digits (n,) of "train" or "test", and what they are, in words."""
    prefix = {"train": "train", "test": "t10k"}[split]
    image_file = _mnist_file(f"{prefix}-images-idx3-ubyte")
    label_file = _mnist_file(f"{prefix}-labels-idx1-ubyte")
    images, digits = read_idx(image_file, ndim=3), read_idx(label_file, ndim=1)
    n, *shape = images.shape
    _demand(shape == [28, 28], image_file, f"holds images of shape {shape}, not 28x28")
    _demand(len(digits) == n, label_file, f"holds {len(digits)} labels, {n} expected")
    _demand(digits.max() < 10, label_file, f"holds the label {digits.max()}, not a digit")
    return images.reshape(n, -1), digits, f"MNIST, {split} set"


def read_idx(path: str | os.PathLike, ndim: int) -> Bytes:
    """The ``ndim``-dimensional array of bytes in an IDX file, gzipped if its name ends so.

    The format: two zero bytes, the type (8 for bytes), the number of dimensions, each dimension as
    a big-endian 32-bit integer, then the entries in row-major order. Raises DataError for others.
    """
    path = Path(path)
    content = _content(path, packed=path.suffix == ".gz")
    _demand(content[:4] == bytes((0, 0, 8, ndim)), path, f"is no IDX file of bytes in {ndim}-D")
    header = 4 + 4 * ndim
    _demand(len(content) >= header, path, "is truncated inside its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    size = header + math.prod(shape)
    fits = 0 not in shape and len(content) == size
    _demand(fits, path, f"should hold {size:,} bytes by its header, has {len(content):,}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_cifar(split: str) -> tuple[Bytes, Bytes, str]:
    """Images (n, 3072) and kinds (n,) of "train" or "test", and what they are, in words.

    A copy that was decoded from JPEG or put in another order does not begin with the same pixels.
    """
    table = np.concatenate([_records(path) for path in _cifar_files(split)])
    name = "copy of CIFAR-10 with other pixels"
    if tuple(table[0, :4].tolist()) == CIFAR_OPENING[split]:
        name = "CIFAR-10"
    elif hashlib.sha256(table[:, 0].tobytes()).hexdigest() == JPEG_LABELS[split]:
        name = "JPEG copy of CIFAR-10"
    return table[:, 1:], table[:, 0], f"{name}, {split} set"


def _records(path: Path) -> Bytes:
    content = np.frombuffer(_content(path), np.uint8)
    fits = content.size and content.size % _RECORD == 0
    _demand(fits, path, f"should hold records of {_RECORD} bytes, has {content.size:,}")
    table = content.reshape(-1, _RECORD)
    _demand(table[:, 0].max() < 10, path, f"holds the label {table[:, 0].max()}, not 0 to 9")
    return table


def _content(path: Path, packed: bool = False) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if packed else content
    except (OSError, EOFError, zlib.error) as error:
        raise _unusable(path, f"cannot be read ({error})") from error


def _unusable(path: Path, problem: str) -> DataError:
    """The error for a file that is there and wrong."""
    return DataError(f"{path} {problem}. Replace it, or set {DATA_VARIABLE} to another folder")


def _demand(good: object, path: Path, problem: str) -> None:
    if not good:
        raise _unusable(path, problem)


def _mnist_file(name: str) -> Path:
    folder = _root() / MNIST_FOLDER
    packed, layout = f"{name}.gz", f"{MNIST_FOLDER}/ with MNIST's IDX files"
    return _find([folder / name, folder / packed], MNIST_URL + packed, MNIST_MD5[packed], layout)


def _cifar_files(split: str) -> list[Path]:
    archive, folder = _root() / CIFAR_ARCHIVE, _root() / CIFAR_FOLDER
    layout = f"{CIFAR_FOLDER}/ with CIFAR-10's binary files, or {CIFAR_ARCHIVE}"
    there = all(os.path.isfile(folder / name) for name in CIFAR_FILES[split])
    if not there and os.path.isfile(archive):
        folder = _decoded(archive)
    return [_find([folder / name], CIFAR_URL, CIFAR_MD5, layout) for name in CIFAR_FILES[split]]


def _root() -> Path:
    return Path(os.environ.get(DATA_VARIABLE) or pooch.os_cache("ntklc"))


def _find(paths: Sequence[Path], url: str, md5: str, layout: str) -> Path:
    """The first of these paths that there is; where NTKLC_DATA is not set, the last is fetched."""
    for path in paths:
        if os.path.isfile(path):
            return path
    looked = f"Looked for {' and '.join(map(str, paths))}"
    advice = f"Set {DATA_VARIABLE} to a folder that holds {layout}"
    if given := os.environ.get(DATA_VARIABLE):
        raise MissingDataError(f"{looked}; {DATA_VARIABLE} is set to {given}. {advice}")
    pooch.get_logger().setLevel("WARNING")
    name = Path(url).name
    try:
        # A total of 1 until pooch knows the size: it asks for the bar's truth before.
        with tqdm(total=1, unit="B", unit_scale=True, desc=name) as bar:
            load = pooch.HTTPDownloader(progressbar=bar, timeout=20)
            unpack = pooch.Untar(extract_dir="..") if name.endswith(".tar.gz") else None
            pooch.retrieve(url, f"md5:{md5}", name, paths[-1].parent, unpack, load)
    except OSError as error:
        reason = f"{url} could not be fetched ({error.strerror or type(error).__name__})"
        raise MissingDataError(f"{looked}; {reason}. {advice}") from error
    except ValueError as error:
        raise DataError(f"{url} has the wrong checksum and was not kept. {advice}") from error
    return paths[-1]


def _decoded(archive: Path) -> Path:
    """The folder in the user's cache that holds the archive's images in the binary layout.

    Decoding takes half a minute, shows its progress, and happens once: the folder appears whole or
    not at all. Images of a split are shuffled with a fixed seed and spread over its files.
    """
    digest = hashlib.sha256(_content(archive)).hexdigest()[:16]
    # Folders of another name were made before the archive's own checksum was looked at.
    target = Path(pooch.os_cache("ntklc")) / f"cifar10-from-jpeg-{digest}"
    if target.is_dir():
        return target
    images = _decode(archive)
    rng = np.random.default_rng(0)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="cifar10-", dir=target.parent) as place:
            unfinished = Path(place) / "whole"
            unfinished.mkdir()
            for split, names in CIFAR_FILES.items():
                order = rng.permutation(len(images[split]))
                for name, part in zip(names, np.array_split(order, len(names)), strict=True):
                    (unfinished / name).write_bytes(b"".join(images[split][i] for i in part))
            unfinished.replace(target)
    except OSError as error:
        # Unless another process was first, and has written the same.
        if not target.is_dir():
            raise DataError(f"{target} cannot be written ({error.strerror})") from error
    return target


def _decode(archive: Path) -> dict[str, list[bytes]]:
    """Label byte and pixel bytes of every image, by split, in the archive's order."""
    found: dict[str, list[bytes]] = {split: [] for split in CIFAR_FILES}
    try:
        # Pillow warns of large images; they are refused here.
        with warnings.catch_warnings(action="ignore"):
            for split, kind, name, content in _members(archive):
                planes = _pixels(content, f"{archive}: {split}/{kind}/{name}").transpose(2, 0, 1)
                found[split].append(bytes([CIFAR_CLASSES.index(kind)]) + planes.tobytes())
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise _unusable(archive, f"is damaged ({error})") from error
    for split, rows in found.items():
        fits = len(rows) >= len(CIFAR_FILES[split])
        _demand(fits, archive, f"holds {len(rows)} images under {split}/")
    return found


def _members(archive: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """Split, class, name and content of each image in turn; nothing is unpacked by its path."""
    with (
        archive.open("rb") as raw,
        gzip.open(raw) as packed,
        tarfile.open(fileobj=packed, mode="r|") as members,
        tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, leave=False) as bar,
    ):
        for member in members:
            bar.update(raw.tell() - bar.n)
            if member.isdir():
                continue
            split, kind, name, *rest = *member.name.split("/"), "", ""
            proper = split in CIFAR_FILES and kind in CIFAR_CLASSES and name.endswith(".jpg")
            fits = proper and len(rest) == 2 and member.isreg()
            _demand(fits, archive, f"holds {member.name!r}, no file SPLIT/CLASS/name.jpg")
            small = member.size <= _LARGEST_JPEG
            _demand(small, archive, f"holds {member.name} of {member.size:,} bytes")
            content = members.extractfile(member)
            assert content is not None
            yield split, kind, name, content.read()
        # The checksum stands at the end of the file, behind the last that tar has read.
        while packed.read(1 << 20):
            pass


def _pixels(content: bytes, name: str) -> Bytes:
    """(32, 32, 3) array of a JPEG file's content."""
    # Needed once, and only by those who have such an archive.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if (found := (image.size, image.mode)) == ((_SIDE, _SIDE), "RGB"):
                return np.asarray(image)
    except Exception as error:
        # Damage shows in whatever way the decoder stumbles over it.
        raise DataError(f"{name} is no JPEG image that can be read ({error})") from error
    raise DataError(f"{name} is {found[0]} in {found[1]}, not 32x32 in RGB")
