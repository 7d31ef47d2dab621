"""Train, prune, rewind, train again: accuracy against sparsity, for several ways of pruning.

A round trains the network from its first weights under the masks reached so far. A sweep with a
folder keeps, after every round, the masks and the numbers of each chain (one strategy, one
replicate) in one file; weights are not kept, because every round starts from the first ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch
from attrs import frozen
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from .._checks import checked, inside, one_of, whole
from ..compression.pruning import apply_masks, masks, prune_globally, rewind, snapshot, sparsity
from ..compression.train import evaluate
from .image_nets import TrainingSettings, train
from .records import Record
from .runs import Experiment, Run, begin

__all__ = ["PRESETS", "STRATEGIES", "Sweep", "by_round", "parting_round"]

STRATEGIES = ("random", "random_rescaled", "magnitude")


def _strategies(argument: str, names: Any) -> tuple[str, ...]:
    found = tuple(one_of(argument, name, STRATEGIES) for name in names)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{argument} must be different, at least one; got {found}")
    return found


@frozen(kw_only=True)
class Sweep(Experiment):
    """What is trained and pruned; network, data and training are told as to every experiment.

    Attributes
    ----------
    strategies : tuple of str
        ``"random"``: a uniform draw of weights, as masks on the first weights.
        ``"random_rescaled"``: the same draw, weights multiplied by (1 − ε)^(−½), ε the sparsity of
        their layer. ``"magnitude"``: the smallest after training; then back to the first weights.
    rounds : int
        How often to prune; the first training is of the dense network, so a chain has one more.
    fraction : float
        In (0, 1): pruned in each round, of what is left.
    replicates : int
        Each with its own first weights, order of data and draws.

    Examples
    --------
    >>> Sweep(network="resnet_8", data="digits", rounds=2).strategies
    ('random', 'random_rescaled', 'magnitude')
    """

    strategies: tuple[str, ...] = checked(_strategies, STRATEGIES)
    rounds: int = checked(whole, 16)
    fraction: float = checked(inside, 0.2)
    replicates: int = checked(whole, 3)

    def run(
        self,
        folder: str | os.PathLike | None = None,
        *,
        n_jobs: int = 1,
        device: torch.device | str | None = None,
    ) -> Record:
        """Run the sweep, or what is left of it where ``folder`` holds one that was stopped.

        ``n_jobs`` chains run at once, each in a process; the numbers are the same with any. Raises
        RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a chain's file
        is damaged; nothing is then written.

        Returns
        -------
        Record
            A row for each training: ``strategy``, ``replicate``, ``round``, ``sparsity`` of all
            prunable weights, ``accuracy`` and mean cross-entropy ``loss`` in nats on the test set,
            ``seconds``, and ``sparsity:LAYER`` for each layer.

        """
        with begin(self, folder, device) as run:
            chains = [(s, r) for r in range(self.replicates) for s in self.strategies]
            begun = [run.read(f"{s}-{r}") for s, r in chains]
            work = Parallel(n_jobs=n_jobs, return_as="generator")(
                delayed(_chain)(self, run, *which, kept)
                for which, kept in zip(chains, begun, strict=True)
            )
            rows = [
                row for chain in tqdm(work, "chains", len(chains), leave=False) for row in chain
            ]
            rows.sort(key=lambda row: self.strategies.index(row["strategy"]))
            return run.record(rows, {"chains": sum(row["seconds"] for row in rows)})


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
def _chain(
    sweep: Sweep, run: Run, strategy: str, replicate: int, kept: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """All rounds of one strategy and replicate: those already done, and then the others."""
    seeds, rows = chain_seeds(sweep.seed, replicate), kept["rows"] if kept else []
    net = sweep.build(run.images, next(seeds)).to(run.device)
    (X, y, X_test, y_test), first = run.tensors, snapshot(net)
    if kept:
        apply_masks(net, kept["masks"])
    for number in range(sweep.rounds + 1):
        order, draw = next(seeds), next(seeds)
        if number < len(rows):
            continue
        start, now = time.perf_counter(), sparsity(net)
        rewind(net, first, rescale=strategy == "random_rescaled")
        train(net, X, y, sweep.training, order)
        accuracy, loss = evaluate(net, X_test, y_test)
        if number < sweep.rounds:
            kind = "magnitude" if strategy == "magnitude" else "random"
            prune_globally(net, sweep.fraction, kind, seed=draw)
        row = {"strategy": strategy, "replicate": replicate, "round": number}
        row |= {"sparsity": now.overall, "accuracy": accuracy, "loss": loss}
        row |= {"seconds": time.perf_counter() - start}
        rows.append(row | {f"sparsity:{name}": 1 - left for name, left in now.layers_left.items()})
        run.write(f"{strategy}-{replicate}", {"rows": rows, "masks": masks(net)})
    return rows


def chain_seeds(seed: int, replicate: int) -> Iterator[int]:
    """Seeds of a replicate: of the first weights, then of data and pruning, round by round.

    They do not depend on the strategy, so that strategies share weights, data and draws.
    """
    rng = np.random.default_rng([seed, replicate])
    while True:
        yield int(rng.integers(2**63))


def by_round(record: Record, strategy: str, column: str = "accuracy") -> NDArray[np.float64]:
    """A column of a sweep's table for one strategy.

    Raises ValueError if the sweep has no such strategy.

    Returns
    -------
    (rounds + 1, replicates) array
        NaN where there is no such training.

    Examples
    --------
    >>> import pandas
    >>> columns = {"strategy": "random", "replicate": 0, "round": [0, 1], "accuracy": [0.9, 0.8]}
    >>> by_round(Record(pandas.DataFrame(columns), {}, {}), "random").tolist()
    [[0.9], [0.8]]
    """
    one_of("strategy", strategy, record.table.strategy.unique())
    mine = record.table[record.table.strategy == strategy]
    found = mine.pivot(index="round", columns="replicate", values=column)
    rounds, replicates = range(found.index.max() + 1), range(found.columns.max() + 1)
    return found.reindex(index=rounds, columns=replicates).to_numpy()


def parting_round(better: ArrayLike, worse: ArrayLike) -> int | None:
    """The first round from which on every replicate of one is above every one of the other.

    Both are (rounds + 1, replicates) arrays.

    Returns
    -------
    int or None
        None if even in the last round the ranges overlap.

    Examples
    --------
    >>> parting_round([[0.9, 0.9], [0.9, 0.8]], [[0.9, 0.9], [0.7, 0.7]])
    1
    """
    overlapping = np.flatnonzero(np.min(better, axis=1) <= np.max(worse, axis=1))
    first = int(overlapping[-1]) + 1 if len(overlapping) else 0
    return first if first < len(np.asarray(better)) else None


_CIFAR = TrainingSettings(
    steps=2_910, batch_size=512, learning_rate=0.2, weight_decay=1e-4, augment=True
)
_RESNET = Sweep(network="resnet_20", data="cifar10", training=_CIFAR)
_SMOKE = Sweep(
    network="resnet_8", data="digits", n_train=200, width=2, rounds=2, replicates=1,
    training=TrainingSettings(steps=12, batch_size=50),
)  # fmt: skip
# Dense, and at once as many weights gone as the published figure's fifth leaves.
_ONCE = attrs.evolve(
    _RESNET, strategies=("random",), rounds=1, fraction=0.79,
    training=attrs.evolve(_CIFAR, steps=970, autocast="bfloat16", channels_last=True),
)  # fmt: skip
_LENET = Sweep(rounds=9, fraction=1 / 3, training=TrainingSettings(steps=18_720))
PRESETS = {
    "pruning_lenet": {"paper": _LENET, "smoke": attrs.evolve(_SMOKE, network="lenet_300_100")},
    "pruning_resnet20": {"paper": _RESNET, "two-cores": _ONCE, "smoke": _SMOKE},
    "pruning_resnet50": {"paper": attrs.evolve(_RESNET, network="resnet_50"), "smoke": _SMOKE},
}
"""Of each record, the sweeps by name. 2,910 batches of 512 are 30 epochs of CIFAR-10, 970 are ten,
and 18,720 of 128 are 40 of MNIST."""
