"""Accuracy against bytes of everything that is needed to classify: the best file of every size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from tqdm import tqdm

from ..compression.convert import compress
from ..compression.readout import fit_readout
from ..matching.match import match
from ..theory.networks import RandomMLP
from .methods import Task

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LITERATURE", "Reported", "non_dominated", "random_files"]

# Where dense weights come from: their seed, and how many layers of what width.
_SEED_BYTES = 16


@frozen
class Reported:
    """What others have reported of a whole network, on ``data``; ``accuracy`` in percent.

    ``key`` is of the bibliography, None where ``source`` is a public repository.

    Examples
    --------
    >>> [found.name for found in LITERATURE if found.data == "cifar10"]
    ['bitnet-edge', 'trained ternary quantisation, ResNet-20']
    """

    name: str
    data: str
    bytes: int
    accuracy: float
    source: str
    key: str | None = None


LITERATURE = (
    Reported(
        "Deep Compression, LeNet-300-100", "mnist", 27_000, 98.42,
        "table 1: 40 times smaller than 1,070 kB", "han2016deep",
    ),
    Reported(
        "Deep Compression, LeNet-5", "mnist", 44_000, 99.26,
        "table 1: 39 times smaller than 1,720 kB", "han2016deep",
    ),
    Reported(
        "BitNetMCU", "mnist", 12_300, 99.01,
        "github.com/cpldcpu/BitNetMCU: fully connected, 4 bits, images of 16 × 16",
    ),
    Reported("bitnet-edge", "cifar10", 67_000, 69.0, "github.com: bitnet-edge, ternary weights"),
    Reported(
        "trained ternary quantisation, ResNet-20", "cifar10", 68_000, 91.13,
        "270,000 weights of two bits, activations in floats; the bytes are our count", "zhu2017ttq",
    ),
)  # fmt: skip
"""Numbers of others, each with its source: none was measured here."""


def random_files(
    task: Task, depths: Sequence[int], widths: Sequence[int], seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Random ReLU networks that are kept as a seed, and a readout in 8 bits.

    Dense ones, which have no file format, are counted as their readout and 16 bytes; ternary ones
    with 16 Lloyd–Max levels and nine tenths of zeros as their file is.

    Yields
    ------
    dict
        ``scheme``, ``seed``, ``bytes``, and ``accuracy`` in percent of the test rows.

    Examples
    --------
    >>> X, y = nh.normalize(np.eye(4)), np.arange(4) % 2
    >>> [row["scheme"] for row in random_files(Task(X, y, X, y), [1], [50], [0])]
    ['dense, by seed, 1 layer, width 50', 'ternary, by seed, 1 layer, width 50']
    """
    p = task.X.shape[1]
    levels = {d: match(["relu"] * d, 1.0, 16, "lloyd-max", grid="uniform") for d in depths}
    for depth, width, seed in tqdm([*product(depths, widths, seeds)], "seeds", leave=False):
        net = RandomMLP(p, [width] * depth, ["relu"] * depth, seed=seed)
        small = compress(net, task.X, levels[depth], seed=seed)
        of = f"by seed, {depth} layer{'s' * (depth > 1)}, width {width}"
        for kind, one in (("dense", net), ("ternary", small)):
            readout = fit_readout(np.asarray(one.features(task.X)), task.y, dtype="int8")
            found = readout.predict(np.asarray(one.features(task.X_test)))
            if one is small:
                small.readout = readout
                size = len(small.to_bytes("seed"))
            else:
                size = readout.nbytes + _SEED_BYTES
            accuracy = 100 * float(np.mean(found == task.y_test))
            yield {"scheme": f"{kind}, {of}", "seed": seed, "bytes": size, "accuracy": accuracy}


def non_dominated(table: DataFrame) -> DataFrame:
    """The rows of ``bytes`` and ``accuracy`` than which no other is as small and as accurate.

    Of equal rows all stay. Sorted by bytes, so that both columns rise.

    Examples
    --------
    >>> import pandas
    >>> found = {"bytes": [9, 5, 7], "accuracy": [98.0, 97.0, 96.0]}
    >>> non_dominated(pandas.DataFrame(found, index=["large", "small", "worse"])).index.tolist()
    ['small', 'large']
    """
    size, right = table["bytes"].to_numpy(), table["accuracy"].to_numpy()
    no_worse = (size[:, None] >= size) & (right[:, None] <= right)
    better = no_worse & ((size[:, None] > size) | (right[:, None] < right))
    return table[~better.any(axis=1)].sort_values("bytes")
