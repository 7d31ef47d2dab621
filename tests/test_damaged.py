"""Damaged files through nh.load: refused in one way, or another network and no less."""

from collections import Counter
from pathlib import Path

import pytest
from damages import damaged, with_digest
from small_networks import random_network

import ntklc_helpers as nh

NETWORKS = Path(nh.__file__).parents[1] / "book/_static/networks"


@pytest.mark.parametrize("kind", ["random", "trained"])
def test_damaged_files_are_refused(kind, tmp_path):
    """7,500 of a network: what keeps its old digest is never read; what has a new one, whole."""
    content = (NETWORKS / "mnist_small.safetensors").read_bytes()
    if kind == "random":
        content = random_network([20, 10], 4, 0.8).to_bytes("packed")
    came, path = Counter(), tmp_path / "net.safetensors"
    for file in damaged([content], 7500):
        path.write_bytes(file)
        fits = file == with_digest(file)
        try:
            net = nh.load(path)
        except nh.compression.NetworkFileError as error:
            assert str(error).startswith(str(path))
            came["refused", fits] += 1
            continue
        # What can be read is a network, and can be written.
        assert fits and type(net).from_bytes(net.to_bytes()).to_bytes() == net.to_bytes()
        came["read", fits] += 1
    assert came.total() == 7500
    assert came["refused", False] > 2000 and came["refused", True] > 2500
    assert 300 < came["read", True] < 2000
