"""Files that hold arrays and a description, and nothing that could be run.

One safetensors file, with a SHA-256 digest of all of it in its header: a file that was cut off or
changed by a single bit is refused as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

FORMAT = "ntklc"
VERSION = 1
_MARK = b"sha256:"
_BLANK = b"0" * 64


class NetworkFileError(ValueError):
    """A file does not hold a network that can be read: cut off, changed, or something else."""


def to_bytes(tensors: Mapping[str, NDArray], description: Mapping[str, Any]) -> bytes:
    """The file's content; the same arrays and description always give the same bytes."""
    text = json.dumps(
        {"digest": (_MARK + _BLANK).decode(), "version": VERSION, **description},
        separators=(",", ":"),
    )
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
    content = save(arrays, {FORMAT: text})
    at = content.index(_MARK) + len(_MARK)
    return content[:at] + _digest(content).encode() + content[at + len(_BLANK) :]


def from_bytes(content: bytes) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Arrays and description from a file's content.

    NetworkFileError if it is cut off or changed, of another version, or not such a file at all.
    """
    at = content.find(_MARK)
    if at < 0:
        raise NetworkFileError("not a compressed network, or its header is damaged")
    at += len(_MARK)
    if content[at : at + len(_BLANK)] != _digest(content).encode():
        raise NetworkFileError("damaged: its content does not have the digest in its header")
    try:
        size = int.from_bytes(content[:8], "little")
        description = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][FORMAT])
        tensors = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise NetworkFileError(f"not a compressed network: {error}") from error
    version = description.get("version") if isinstance(description, dict) else None
    if version != VERSION:
        raise NetworkFileError(f"of version {version!r}; this package reads version {VERSION}")
    return tensors, description


def replace_file(path: str | os.PathLike, content: bytes) -> None:
    """Write beside ``path``, then move: never half a file, whatever happens meanwhile.

    What is written to is new and of a name that cannot be foretold. A link is followed to what it
    points at, and a file that is there keeps its mode.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if target.exists():
                shutil.copymode(target, temporary)
            file.write(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    """SHA-256 of the content with the digest's own place blanked."""
    at = content.index(_MARK) + len(_MARK)
    blanked = content[:at] + _BLANK + content[at + len(_BLANK) :]
    return hashlib.sha256(blanked).hexdigest()
