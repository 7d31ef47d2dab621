"""Files that hold arrays and a description, and nothing that could be run.

One safetensors file with a single array of bytes: in four of them the length of the description,
that, JSON compressed by DEFLATE, and then the arrays that it lists, one after another, all of them
little-endian. The header has the version, and 96 bits of a SHA-256 digest of the whole file, in
base64: a file that was cut off or changed by a single bit is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import secrets
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .._checks import whole

FORMAT = "ntklc"
VERSION = 2
_MARK = b'{"__metadata__":{"ntklc":"'
_BLANK = b"0" * 16
# What a description may be of, how many sides an array has, and dtypes by their letters in it.
_MOST_TEXT, _MOST_SIDES = 2**24, 32
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8")
}


class NetworkFileError(ValueError):
    """A file does not hold a network that can be read: cut off, changed, or something else."""


def to_bytes(tensors: Mapping[str, NDArray], description: Mapping[str, Any]) -> bytes:
    """The file's content; the same arrays and description always give the same bytes."""
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
    listed = [[name, array.dtype.str[1:], *array.shape] for name, array in arrays.items()]
    text = json.dumps({"arrays": listed, **description}, separators=(",", ":"))
    packer = zlib.compressobj(9, wbits=-15)
    told = packer.compress(text.encode()) + packer.flush()
    little = (array.astype(_DTYPES[array.dtype.str[1:]]).tobytes() for array in arrays.values())
    body = b"".join([len(told).to_bytes(4, "little"), told, *little])
    content = save({"": np.frombuffer(body, np.uint8)}, {FORMAT: f"{_BLANK.decode()} {VERSION}"})
    at = content.index(_MARK) + len(_MARK)
    return content[:at] + _digest(content) + content[at + len(_BLANK) :]


def from_bytes(content: bytes) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Arrays and description from a file's content.

    NetworkFileError if it is cut off or changed, of another version, or not such a file at all.
    """
    at = content.find(_MARK) + len(_MARK)
    if at != 8 + len(_MARK):
        raise NetworkFileError("not a compressed network, or its header is damaged")
    if content[at : at + len(_BLANK)] != _digest(content):
        raise NetworkFileError("damaged: its content does not have the digest in its header")
    try:
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])["__metadata__"][FORMAT]
        _, version = told.split(" ")
        if version != str(VERSION):
            raise NetworkFileError(f"of version {version}; this package reads version {VERSION}")
        found = load(content)
        if [*found] != [""] or found[""].dtype != np.uint8 or found[""].ndim != 1:
            raise ValueError("its header must name one array of bytes")
        body = found[""].tobytes()
        end = 4 + int.from_bytes(body[:4], "little")
        if end > len(body):
            raise ValueError("the description reaches beyond the end")
        return _unpacked(body[4:end], body[end:])
    except NetworkFileError:
        raise
    except (
        SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError,
        OverflowError, zlib.error,
    ) as error:  # fmt: skip
        raise NetworkFileError(f"not a compressed network: {reason(error)}") from error


def _unpacked(told: bytes, rest: bytes) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """From the description as it was compressed, and the bytes behind it; ValueError if none."""
    unpacker = zlib.decompressobj(wbits=-15)
    text = unpacker.decompress(told, _MOST_TEXT)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("the description does not end where it should")
    description = json.loads(text.decode(), parse_constant=_no_number)
    tensors: dict[str, NDArray] = {}
    listed = description.pop("arrays")
    if not isinstance(listed, list) or not all(isinstance(entry, list) for entry in listed):
        raise ValueError("arrays must be a list of lists")
    for name, kind, *sides in listed:
        if not isinstance(name, str) or name in tensors:
            raise ValueError("arrays must have names of their own")
        if len(sides) > _MOST_SIDES:
            raise ValueError(f"arrays must have at most {_MOST_SIDES} sides")
        shape = [whole("a side of an array", side, 0, len(rest)) for side in sides]
        if kind not in _DTYPES:
            raise ValueError(f"there is no array of dtype {kind!r}")
        count, dtype = math.prod(shape), _DTYPES[kind]
        if count * dtype.itemsize > len(rest):
            raise ValueError("arrays reach beyond the end")
        array = np.frombuffer(rest, dtype, count).astype(dtype.newbyteorder("="))
        tensors[name] = array.reshape(shape)
        rest = rest[count * dtype.itemsize :]
    if rest:
        raise ValueError("there is more than the arrays that are listed")
    return tensors, description


def path_of(path: str | os.PathLike) -> Path:
    """A path; TypeError if it is none."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be text or a path, got {type(path).__name__}")
    return Path(path)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def reason(error: Exception) -> str:
    """In words, what an error met while a description was read says.

    Examples
    --------
    >>> from ntklc_helpers.compression.storage import reason
    >>> reason(KeyError("shape"))
    "there is no 'shape'"
    """
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def replace_file(path: str | os.PathLike, content: bytes) -> None:
    """Write beside ``path``, then move: never half a file, whatever happens meanwhile.

    What is written to is new and of a name that cannot be foretold. A link is followed to what it
    points at, and a file that is there keeps its mode.
    """
    target = Path(os.path.realpath(path_of(path)))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if target.exists():
                shutil.copymode(target, temporary)
            file.write(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(content: bytes) -> bytes:
    """Of the content with the digest's own place blanked, as text."""
    at = content.index(_MARK) + len(_MARK)
    blanked = content[:at] + _BLANK + content[at + len(_BLANK) :]
    return base64.b64encode(hashlib.sha256(blanked).digest()[:12])
