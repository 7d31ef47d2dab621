"""Files changed at random, and files forged: another description or other arrays, digest and all."""

import base64
import hashlib
import json
import zlib

import numpy as np

from ntklc_helpers.compression.storage import from_bytes, to_bytes

MARK = b'{"__metadata__":{"ntklc":"'
DAMAGES = ("bit", "bytes", "cut", "grow", "lose", "repeat")
JUNK = [
    *(None, True, False, -1, 0, 1, 2, 3, 4, 7, 300, 2**40, 10**30, 0.5, 1.0, -2.5, 1e-300, 1e300),
    *("", "x", "ternary", [], [1], [2, 3], [0, 0], [1, 2, 3], ["a", "b"], {}, {"a": 1}, [[]]),
]


def with_digest(content):
    """With the digest that its content asks for, so that it is read on: the format's own words."""
    start = 8 + len(MARK)
    if content[8:start] != MARK:
        return content
    blanked = content[:start] + b"0" * 16 + content[start + 16 :]
    digest = base64.b64encode(hashlib.sha256(blanked).digest()[:12])
    return content[:start] + digest + content[start + 16 :]


def framed(body, version="2", header=None):
    """A file of these bytes, with the digest that it should have; written from the specification."""
    blank = MARK + b'0000000000000000 %s"},' % version.encode()
    rest = header or b'"":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % ((len(body),) * 2)
    return with_digest(len(blank + rest).to_bytes(8, "little") + blank + rest + body)


def described(text, rest, level=9):
    packer = zlib.compressobj(level, wbits=-15)
    return with_packed(packer.compress(text) + packer.flush(), rest)


def with_packed(told, rest):
    return framed(len(told).to_bytes(4, "little") + told + rest)


def body_of(content):
    return content[8 + int.from_bytes(content[:8], "little") :]


def parts_of(content):
    """The description as text, and the bytes behind it."""
    body = body_of(content)
    end = 4 + int.from_bytes(body[:4], "little")
    return zlib.decompress(body[4:end], -15), body[end:]


def places(value):
    """Every (container, key) of a description."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def changed(content, rng):
    """Bits or bytes changed, left out, put in or repeated."""
    found = bytearray(content)
    at, other = sorted(rng.integers(len(found), size=2).tolist())
    how = rng.choice(DAMAGES)
    if how == "bit":
        found[at] ^= 1 << int(rng.integers(8))
    elif how == "bytes":
        for place in rng.integers(len(found), size=rng.integers(1, 9)):
            found[place] = rng.integers(256)
    elif how == "cut":
        del found[at:]
    elif how == "grow":
        found[at:at] = rng.bytes(rng.integers(1, 40))
    elif how == "lose":
        del found[at : other + 1]
    else:
        found[at:at] = found[at:other]
    return bytes(found)


def forged(content, rng):
    """Another description or other arrays, with a right digest."""
    told, rest = parts_of(content)
    about = json.loads(told)
    kind = rng.integers(8)
    if kind == 0:  # a byte of the text
        text = bytearray(told)
        text[rng.integers(len(text))] = rng.integers(32, 127) if rng.random() < 0.9 else 200
        return described(bytes(text), rest)
    if kind == 1:  # a byte of the stream
        body = bytearray(body_of(content))
        end = int.from_bytes(body[:4], "little")
        body[rng.integers(4 + end)] = rng.integers(256)
        return framed(bytes(body))
    if kind == 2:  # a bit, or more or fewer bytes, of the arrays
        data = bytearray(rest)
        if data and rng.random() < 0.8:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        else:
            data = data[: rng.integers(len(data) + 1)] if rng.random() < 0.5 else data + b"\1"
        return described(told, bytes(data), int(rng.integers(10)))
    if kind == 3:  # an array of another kind or shape, and all others in order
        tensors, about = from_bytes(content)
        name = sorted(tensors)[rng.integers(len(tensors))]
        dtype = ["u1", "i1", "u2", "f2", "f4", "f8", "i8", "u4"][rng.integers(8)]
        shape = [(), (0,), (1,), (2,), (7,), (2, 2), (2, 7), (10,)][rng.integers(8)]
        tensors[name] = rng.integers(0, 5, shape).astype(dtype)
        if rng.random() < 0.3:
            del tensors[name]
        return to_bytes(tensors, about)
    where = list(places(about))
    # Most of the text is the list of arrays.
    listed = {id(about["arrays"]), *map(id, about["arrays"])}
    if rng.random() < 0.8:
        where = [(place, key) for place, key in where if id(place) not in listed]
    place, key = where[rng.integers(len(where))]
    if kind == 4 and isinstance(place, dict):
        del place[key]
    elif kind == 5 and isinstance(place, dict):
        place["surplus"] = 1
    elif kind == 6 and isinstance(place, list):
        place.insert(key, place[key])
    else:
        place[key] = JUNK[rng.integers(len(JUNK))]
    return described(json.dumps(about).encode(), rest)


def damaged(contents, n, seed=0):
    """n files: by turns changed, changed and with a digest that fits, and forged."""
    rng = np.random.default_rng(seed)
    hows = changed, lambda content, rng: with_digest(changed(content, rng)), forged
    pick = [contents[k] for k in rng.integers(len(contents), size=n)]
    return [hows[k % 3](content, rng) for k, content in enumerate(pick)]
