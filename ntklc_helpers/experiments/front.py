"""Accuracy against bytes of everything that is needed to classify: the best file of every size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LITERATURE", "Reported", "non_dominated"]


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
