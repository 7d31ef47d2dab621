"""Train, prune, rewind, train again: accuracy against sparsity, for several ways of pruning.

A level trains the network from its first weights under the masks reached so far. A sweep with a
folder keeps, after every level, the masks and the numbers of each chain (one strategy, one
replicate) in one file; weights are not kept, because every level starts from the first ones.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from tqdm import tqdm

from .checkpoints import claim_folder, read_chain, write_chain
from .classifiers import Training, build, evaluate, train
from .datasets import Dataset, load_images
from .pruning import apply_masks, masks, prune_globally, rewind, snapshot, sparsity
from .records import Level, Record, device_name, provenance
from .validation import positive_integer, seed_number

STRATEGIES = ("random", "random_rescaled", "magnitude")
DATA = ("mnist", "digits", "cifar10")


@dataclass(frozen=True)
class Sweep:
    """What is trained and pruned, and how.

    Attributes
    ----------
    network : str
        As :func:`~ntklc_helpers.classifiers.build` knows them.
    data : {"mnist", "digits", "cifar10"}
    n_train : int, optional
        Images to train on, drawn with ``seed``, classes balanced; all by default.
    strategies : tuple of str
        ``"random"``: a uniform draw of weights, as masks on the first weights.
        ``"random_rescaled"``: the same draw, weights multiplied by α^(−½), α the share left in
        their layer. ``"magnitude"``: the smallest after training; then back to the first weights.
    levels : int
        How often to prune; level 0 is dense, so there are ``levels`` + 1 trainings a chain.
    fraction : float
        In (0, 1): pruned at each level, of what is left.
    replicates : int
        Each with its own first weights, order of data and draws.
    width : int
        Channels of a ResNet's first stage.
    training : classifiers.Training
    seed : int

    Raises
    ------
    ValueError
        If an argument is not as stated.
    """

    network: str = "lenet_300_100"
    data: str = "mnist"
    n_train: int | None = None
    strategies: tuple[str, ...] = STRATEGIES
    levels: int = 16
    fraction: float = 0.2
    replicates: int = 3
    width: int = 16
    training: Training = field(default_factory=Training)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategies", tuple(self.strategies))
        if self.data not in DATA:
            raise ValueError(f"data must be one of {', '.join(DATA)}, got {self.data!r}")
        if unknown := [s for s in self.strategies if s not in STRATEGIES]:
            raise ValueError(f"strategies {unknown} are unknown; known: {', '.join(STRATEGIES)}")
        if not self.strategies or len(set(self.strategies)) < len(self.strategies):
            raise ValueError(f"strategies must be different, at least one; got {self.strategies}")
        positive_integer("levels", self.levels)
        positive_integer("replicates", self.replicates)
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be a number in (0, 1), got {self.fraction!r}")
        seed_number(self.seed)
        build(self.network, (1, 32, 32), 10, self.width, seed=0)


@dataclass(frozen=True)
class Images:
    """Training and test images, float32 (n, c, h, w), and their labels; ``source`` says of what."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    source: str
    note: str

    @property
    def arrays(self) -> tuple[NDArray, ...]:
        return self.X, self.y, self.X_test, self.y_test

    def digest(self) -> str:
        """SHA-256 of all images and labels."""
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load(sweep: Sweep) -> Images:
    """A sweep's images; see :func:`load_pair`."""
    return load_pair(sweep.data, sweep.n_train, sweep.seed)


def load_pair(
    data: str, n_train: int | None = None, seed: int = 0, stand_in: bool = False
) -> Images:
    """Images to train and to test on, each channel with mean 0 and variance 1 over the former.

    Parameters
    ----------
    data : {"mnist", "digits", "cifar10"}
    n_train : int, optional
        How many to train on, drawn with ``seed``, classes balanced; all by default.
    seed : int
    stand_in : bool
        Whether digits may stand in for CIFAR-10 where it cannot be had, as they do for MNIST; the
        result's ``note`` then says so.

    Raises
    ------
    DataError, ValueError
        As the loader of the data does; ``MissingDataError`` for CIFAR-10 without ``stand_in``.
    """
    fallback = stand_in or data == "mnist"
    parts = [
        load_images(data, split, n=n, seed=seed, fallback=fallback)
        for split, n in (("train", n_train), ("test", None))
    ]
    pixels = [_as_images(part) for part in parts]
    mean = pixels[0].mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    scale = pixels[0].std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    X, X_test = ((p - mean.astype(p.dtype)) / scale.astype(p.dtype) for p in pixels)
    return Images(X, parts[0].labels, X_test, parts[1].labels, parts[0].source, parts[0].note)


def _as_images(part: Dataset) -> NDArray[np.float32]:
    channels = 3 if part.name == "cifar10" else 1
    side = round((part.X.shape[1] / channels) ** 0.5)
    return part.X.astype(np.float32).reshape(-1, channels, side, side)


def run_sweep(
    sweep: Sweep,
    folder: str | Path | None = None,
    *,
    n_jobs: int = 1,
    device: torch.device | str | None = None,
) -> Record:
    """Run a sweep, or what is left of it.

    Parameters
    ----------
    sweep : Sweep
    folder : path, optional
        Where to keep what is done: ``settings.json``, one safetensors file a chain, and in the
        end ``results.csv`` and ``results.json``. Called again after an interruption, the sweep
        goes on after the last level that was finished; the result is that of one run.
    n_jobs : int
        Chains at once, each in a process of its own.
    device : torch.device or str, optional
        CUDA where there is one, by default.

    Raises
    ------
    ValueError
        If the folder holds a sweep with other settings, data, device or version of torch, or
        something else, or a chain's file is damaged, or there is no such device. Nothing is then
        written.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, and there is no CUDA here")
    images = load(sweep)
    settings = asdict(sweep) | {
        "strategies": list(sweep.strategies),
        "source": images.source,
        "n_images": [len(images.X), len(images.X_test)],
    }
    folder = None if folder is None else Path(folder)
    if folder is not None:
        here = {"device": device_name(device), "torch": torch.__version__}
        claim_folder(folder, settings | {"sha256": images.digest()} | here)
    chains = [
        (strategy, replicate, folder and folder / f"{strategy}-{replicate}.safetensors")
        for replicate in range(sweep.replicates)
        for strategy in sweep.strategies
    ]
    # Before anything is written: a damaged file is an error of the whole sweep.
    begun = [read_chain(path) for _, _, path in chains]
    work = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(run_chain)(sweep, *chain, start, images, device)
        for chain, start in zip(chains, begun, strict=True)
    )
    rows = [row for chain in tqdm(work, "chains", len(chains), leave=False) for row in chain]
    rows.sort(key=lambda row: (sweep.strategies.index(row.strategy), row.replicate, row.level))
    where = provenance(device, sum(row.seconds for row in rows))
    record = Record(tuple(rows), settings, where | {"note": images.note})
    if folder is not None:
        record.write(folder / "results")
    return record


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread of the CPU: another number of them rounds sums otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def run_chain(
    sweep: Sweep,
    strategy: str,
    replicate: int,
    path: Path | None,
    begun: tuple[list[Level], dict[str, torch.Tensor]],
    images: Images,
    device: torch.device,
) -> list[Level]:
    """All levels of one strategy and replicate: those already done, and then the others.

    On one thread of the CPU, so that the numbers are the same however many chains run at once.
    """
    shape, n_classes = tuple(images.X.shape[1:]), int(images.y.max()) + 1
    seeds = chain_seeds(sweep, replicate)
    net = build(sweep.network, shape, n_classes, sweep.width, next(seeds))
    rows, done = begun
    X, y, X_test, y_test = (torch.tensor(array, device=device) for array in images.arrays)
    first = snapshot(net.to(device))
    if done:
        apply_masks(net, done)
    for level in range(sweep.levels + 1):
        order, draw = next(seeds), next(seeds)
        if level < len(rows):
            continue
        start, left = time.perf_counter(), sparsity(net)
        rewind(net, first, rescale=strategy == "random_rescaled")
        train(net, X, y, sweep.training, order)
        accuracy, loss = evaluate(net, X_test, y_test)
        if level < sweep.levels:
            kind = "magnitude" if strategy == "magnitude" else "random"
            prune_globally(net, sweep.fraction, kind, seed=draw)
        seconds = time.perf_counter() - start
        rows.append(
            Level(strategy, replicate, level, left.left, accuracy, loss, seconds, left.layers_left)
        )
        if path is not None:
            write_chain(path, rows, masks(net))
    return rows


def chain_seeds(sweep: Sweep, replicate: int) -> Iterator[int]:
    """Seeds of a replicate: of the first weights, then of data and pruning, level by level.

    They do not depend on the strategy, so that strategies share weights, data and draws.
    """
    rng = np.random.default_rng([sweep.seed, replicate])
    while True:
        yield int(rng.integers(2**63))
