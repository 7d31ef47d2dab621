"""CIFAR-10's binary files (Krizhevsky, 2009): found on disk, decoded, or fetched into a cache.

Where there are none, but an archive of JPEG files is there, that is decoded (see
:mod:`ntklc_helpers.jpegs`).

A file holds records of 1 label byte and 3,072 pixel bytes: the red, green and blue planes of
32 × 32 pixels, row by row.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray

from .datafiles import DATA_VARIABLE, DataError, MissingDataError, data_root
from .jpegs import ARCHIVE, SIDE, decoded

FOLDER = "cifar-10-batches-bin"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_PIXELS = 3 * SIDE**2
# Label and first pixels of the first record of the original files.
_OPENING = {"train": (6, 59, 43, 50), "test": (3, 158, 159, 165)}
# SHA-256 of the labels of the JPEG copy: decoders of different versions differ in the pixels alone.
_JPEG_LABELS = {
    "train": "b84471b23938f9b3871a6efb6808208c25a3cd746c8ff45de412b9f0d58eb502",
    "test": "8d29100cf30e74baf457f58cd3e9cbcc76102d4b3f427d2baa4d6296a3a4c001",
}


def cifar_files(split: str) -> list[Path]:
    """The paths of a split's files, decoded from an archive or fetched into the cache if need be.

    Raises
    ------
    MissingDataError
        One is not under NTKLC_DATA, nor is the archive; or the variable is not set and they cannot
        be fetched.
    DataError
        The archive cannot be decoded, or the download has the wrong checksum; it is not kept.
    """
    given, root = data_root()
    paths = [root / FOLDER / name for name in FILES[split]]
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return paths
    archive = root / ARCHIVE
    if archive.is_file():
        return [decoded(archive, FILES) / name for name in FILES[split]]
    advice = (
        f"Set {DATA_VARIABLE} to a folder that holds {FOLDER}/ with CIFAR-10's binary files, "
        f"or {ARCHIVE}"
    )
    if given:
        raise MissingDataError(
            f"Looked for {missing[0]}; {DATA_VARIABLE} is set to {given}. {advice}"
        )
    try:
        pooch.retrieve(
            URL, f"md5:{MD5}", fname=Path(URL).name, path=root,
            processor=pooch.Untar(extract_dir="."),
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=20),
        )  # fmt: skip
    except OSError as error:
        raise MissingDataError(
            f"Looked for {missing[0]}; {URL} could not be fetched "
            f"({error.strerror or type(error).__name__}). {advice}"
        ) from error
    except ValueError as error:
        raise DataError(f"{URL} has the wrong checksum and was not kept. {advice}") from error
    return paths


def read_cifar(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Images (n, 3072), labels (n,), and what they are, in words.

    A copy that was decoded from JPEG or put in another order does not begin with the same pixels.

    Raises
    ------
    DataError
        A file is missing, truncated, or holds a label above 9.
    """
    records = [_read(path) for path in cifar_files(split)]
    table = np.concatenate(records)
    return table[:, 1:], table[:, 0], _name(table, split)


def _name(table: NDArray[np.uint8], split: str) -> str:
    if tuple(table[0, :4].tolist()) == _OPENING[split]:
        return "CIFAR-10"
    if hashlib.sha256(table[:, 0].tobytes()).hexdigest() == _JPEG_LABELS[split]:
        return "JPEG copy of CIFAR-10"
    return "copy of CIFAR-10 with other pixels"


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if content.size == 0 or content.size % (1 + _PIXELS):
        raise DataError(f"{path} should hold records of {1 + _PIXELS} bytes, has {content.size:,}")
    table = content.reshape(-1, 1 + _PIXELS)
    if table[:, 0].max() > 9:
        raise DataError(f"{path} holds the label {table[:, 0].max()}, not 0 to 9")
    return table
