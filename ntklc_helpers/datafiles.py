"""Data files: where they are looked for, how they are fetched, and the IDX format.

Files are read from the folder that the variable NTKLC_DATA names, in torchvision's layout
(``MNIST/raw/train-images-idx3-ubyte``, plain or ``.gz``). Without the variable they are read from
a cache of the user's own, which is filled on first use from the public source.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray
from tqdm import tqdm

DATA_VARIABLE = "NTKLC_DATA"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
MNIST_FOLDER = Path("MNIST/raw")
SET_VARIABLE = (
    f"Set {DATA_VARIABLE} to a folder that holds {MNIST_FOLDER}/ as torchvision lays it out"
)


class DataError(OSError, ValueError):
    """A data file cannot be used: it is missing, truncated, corrupt or not what it should be."""


class MissingDataError(DataError):
    """A data file is not there, and could not be downloaded."""


def read_idx(path: str | os.PathLike, ndim: int) -> NDArray[np.uint8]:
    """An array of unsigned bytes from an IDX file, plain or gzipped (by the name's ``.gz``).

    The format: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each
    dimension as a big-endian 32-bit integer, then the entries in row-major order.

    Raises
    ------
    DataError
        The file cannot be read, is truncated or too long, or is not of this form with ``ndim``
        dimensions, all positive.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise unusable(path, f"cannot be read ({error})") from error
    if content[:4] != bytes((0, 0, 8, ndim)):
        raise unusable(path, f"is not an IDX file of bytes in {ndim} dimension(s)")
    header = 4 + 4 * ndim
    if len(content) < header:
        raise unusable(path, "is truncated inside its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    expected = header + math.prod(shape)
    if 0 in shape or len(content) != expected:
        raise unusable(path, f"should hold {expected:,} bytes by its header, has {len(content):,}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def data_root() -> tuple[str | None, Path]:
    """What NTKLC_DATA says, and the folder to look in: that one, or the user's own cache."""
    given = os.environ.get(DATA_VARIABLE)
    return given, Path(given) if given else Path(pooch.os_cache("ntklc"))


def mnist_file(name: str) -> Path:
    """The path of MNIST's file ``name``, plain or gzipped, fetched into the cache if need be.

    Raises
    ------
    MissingDataError
        It is not under NTKLC_DATA; or the variable is not set and it cannot be fetched.
    DataError
        The download has the wrong checksum; it is not kept.
    """
    folder, root = data_root()
    candidates = [root / MNIST_FOLDER / name, root / MNIST_FOLDER / f"{name}.gz"]
    for path in candidates:
        if path.is_file():
            return path
    looked = f"Looked for {candidates[0]} and {candidates[1].name} beside it"
    if folder:
        raise MissingDataError(f"{looked}; {DATA_VARIABLE} is set to {folder}")
    _download(candidates[1], looked)
    return candidates[1]


def _download(path: Path, looked: str) -> None:
    url = MNIST_URL + path.name
    pooch.get_logger().setLevel("WARNING")
    try:
        # A total of 1 until pooch knows the size: it asks for the bar's truth before.
        with tqdm(total=1, unit="B", unit_scale=True, desc=path.name) as progress:
            pooch.retrieve(
                url,
                known_hash=f"md5:{MNIST_MD5[path.name]}",
                fname=path.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=20),
            )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MissingDataError(
            f"{looked}; {url} could not be fetched ({reason}). {SET_VARIABLE}"
        ) from error
    except ValueError as error:
        raise DataError(f"{url} has the wrong checksum and was not kept. {SET_VARIABLE}") from error


def unusable(path: Path, problem: str) -> DataError:
    """The error for a file that is there and wrong."""
    return DataError(f"{path} {problem}. Replace the file. {SET_VARIABLE}")
