"""CIFAR-10 as an archive of JPEG files: decoded once, in memory, into the binary layout.

The archive ``cifar10-jpeg.tar.gz`` has members ``SPLIT/CLASS/name.jpg``. Nothing is unpacked by
the path it has there. What is decoded goes to the user's cache, under the archive's digest.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray
from tqdm import tqdm

from .datafiles import DataError

ARCHIVE = "cifar10-jpeg.tar.gz"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIDE = 32
# A JPEG of 32 × 32 pixels takes 1 or 2 kB.
_LARGEST = 100_000


def decoded(archive: Path, files: dict[str, tuple[str, ...]]) -> Path:
    """The folder in the user's cache that holds the archive's images in the binary layout.

    Decoding takes half a minute, shows its progress, and happens once: the folder appears whole or
    not at all. Images of a split are shuffled with a fixed seed and spread over its files.

    Parameters
    ----------
    archive : path
    files : dict of split to names
        The files to write for each split.

    Raises
    ------
    DataError
        If the archive is damaged, or holds something else than colour images of 32 × 32 pixels
        under the names above. Nothing is then kept.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    target = Path(pooch.os_cache("ntklc")) / f"cifar10-jpeg-{digest[:16]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        _write(_records(archive), files, unfinished, archive)
        try:
            unfinished.replace(target)
        except OSError:
            # Another process was first, and has written the same.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write(
    records: dict[str, list[bytes]], files: dict[str, tuple[str, ...]], folder: Path, archive: Path
) -> None:
    rng = np.random.default_rng(0)
    for split, names in files.items():
        rows = records[split]
        if len(rows) < len(names):
            raise DataError(f"{archive} holds {len(rows)} images under {split}/")
        order = rng.permutation(len(rows))
        for name, part in zip(names, np.array_split(order, len(names)), strict=True):
            (folder / name).write_bytes(b"".join(rows[i] for i in part))


def _records(archive: Path) -> dict[str, list[bytes]]:
    """Label byte and pixel bytes of every image, by split, in the archive's order."""
    found: dict[str, list[bytes]] = {"train": [], "test": []}
    try:
        for name, content in _members(archive):
            split, kind, _ = name.split("/")
            pixels = _pixels(content, f"{archive}: {name}").transpose(2, 0, 1)
            found[split].append(bytes([CLASSES.index(kind)]) + pixels.tobytes())
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{archive} is damaged ({error}). Replace the file") from error
    return found


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the images, one after the other."""
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|gz") as members:
        size = archive.stat().st_size
        with tqdm(total=size, unit="B", unit_scale=True, desc=archive.name, leave=False) as bar:
            for member in members:
                bar.update(raw.tell() - bar.n)
                if member.isdir():
                    continue
                parts = member.name.split("/")
                proper = len(parts) == 3 and parts[0] in ("train", "test") and parts[1] in CLASSES
                if not (member.isreg() and proper and parts[2].endswith(".jpg")):
                    raise DataError(
                        f"{archive} holds {member.name!r}, which is no file SPLIT/CLASS/name.jpg"
                    )
                if member.size > _LARGEST:
                    raise DataError(f"{archive}: {member.name} has {member.size:,} bytes")
                content = members.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def _pixels(content: bytes, name: str) -> NDArray[np.uint8]:
    """(32, 32, 3) array of a JPEG file's content."""
    # Needed once, and only by those who have such an archive.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.size != (SIDE, SIDE) or image.mode != "RGB":
                raise DataError(f"{name} is {image.size} in {image.mode}, not 32x32 in RGB")
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is no JPEG image that can be read ({error})") from error
