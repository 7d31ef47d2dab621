"""Ten thousand damaged files through nh.load: refused in one way, or another network and no less."""

from collections import Counter

import numpy as np
import pytest
from damages import damaged, with_digest

import ntklc_helpers as nh


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
