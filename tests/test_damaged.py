"""Ten thousand damaged files through nh.load: refused in one way, or another network and no less."""

import base64
import hashlib
from collections import Counter

import numpy as np
import pytest

import ntklc_helpers as nh

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


def random_network():
    net = nh.RandomMLP(12, [20, 10], ["relu"] * 2, tau0=1.0)
    X = nh.normalize(np.random.default_rng(0).standard_normal((90, 12)))
    small = nh.compress(net, X, levels=4, sparsity=0.8)
    return small.fit_readout(X, np.arange(90) % 3, dtype="int8").to_bytes("packed")


def trained_network():
    path = f"{nh.__path__[0]}/../book/_static/networks/mnist_small.safetensors"
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("make", [random_network, trained_network])
def test_damaged_files_are_refused(make, tmp_path):
    """5,000 a network: what keeps its old digest is never read; what is given a new one, whole."""
    content, rng, path = make(), np.random.default_rng(0), tmp_path / "net.safetensors"
    came = Counter()
    for _ in range(2500):
        spoilt = damaged(content, rng)
        for file in (spoilt, with_digest(spoilt)):
            path.write_bytes(file)
            try:
                net = nh.load(path)
            except nh.compression.NetworkFileError as error:
                assert str(error).startswith(str(path))
                came["refused", file == with_digest(file)] += 1
                continue
            assert file == with_digest(file)
            # What can be read is a network, and can be written.
            assert type(net).from_bytes(net.to_bytes()).to_bytes() == net.to_bytes()
            came["read", True] += 1
    assert came.total() == 5000
    assert came["refused", False] > 2000 and came["refused", True] > 2000
    assert 10 < came["read", True] < 500
