"""Files damaged at random, and given a digest that fits."""

import base64
import hashlib

MARK = b'{"__metadata__":{"ntklc":"'
DAMAGES = ("flip", "cut", "grow", "lose", "repeat")


def damaged(content, rng):
    found = bytearray(content)
    at, other = sorted(rng.integers(len(found), size=2).tolist())
    how = rng.choice(DAMAGES)
    if how == "flip":
        for place in rng.integers(len(found), size=rng.integers(1, 9)):
            found[place] = rng.integers(256)
    elif how == "cut":
        del found[at:]
    elif how == "grow":
        found[at:at] = rng.bytes(rng.integers(1, 40))
    elif how == "lose":
        del found[at:other]
    else:
        found[at:at] = found[at:other]
    return bytes(found)


def with_digest(content):
    """With the digest that its content asks for, so that it is read on: the format's own words."""
    start = 8 + len(MARK)
    if content[8:start] != MARK:
        return content
    blanked = content[:start] + b"0" * 16 + content[start + 16 :]
    digest = base64.b64encode(hashlib.sha256(blanked).digest()[:12])
    return content[:start] + digest + content[start + 16 :]
