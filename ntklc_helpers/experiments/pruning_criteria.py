"""Networks pruned once, before training: which weights go, and how much width makes up for them.

All are trained in one way, at the learning rate with which the dense network does best on images
that are held out; of test images nothing is chosen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import Factory, evolve, frozen
from numpy.typing import NDArray

from .._checks import FloatArray, checked, each, inside, one_of, positive, whole
from ..compression.pruning import STRATEGIES as KINDS
from ..compression.pruning import prune_globally, rewind, snapshot, sparsity
from ..compression.train import evaluate
from .image_nets import TrainingSettings, drawn, fully_connected, train
from .images import Images
from .pruning_sweep import one_thread
from .records import Record, draws
from .runs import Run, Study, begin

__all__ = ["DENSE", "PRESETS", "STRATEGIES", "WIDENINGS", "PruningCriteria", "accuracies"]

log = logging.getLogger(__name__)

DENSE = "dense"
"""The network of which nothing is pruned."""
STRATEGIES = ("random", "random_rescaled", *KINDS[1:])
"""As for ``prune_globally``; rescaled, what is left of a layer is multiplied by χ^(−½)."""
WIDENINGS = {"same": 0.0, "root": 0.5, "inverse": 1.0}
"""Hidden layers are wider by χ^(−power), χ the share left. With "root" as many weights are left
between hidden layers as the dense network has."""


def _all_of(argument: str, names: Any) -> tuple[str, ...]:
    return each(argument, names, one_of, STRATEGIES)


def _shares(argument: str, values: Any) -> tuple[float, ...]:
    if len(found := each(argument, values, inside)) < 1:
        raise ValueError(f"{argument} must hold at least one share in (0, 1)")
    return found


def _sizes(argument: str, values: Any) -> tuple[int, ...]:
    if not (found := each(argument, values, whole)):
        raise ValueError(f"{argument} must hold the width of at least one layer")
    return found


@frozen(kw_only=True)
class PruningCriteria(Study):
    """What is pruned and trained; the data are told as to every study.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the dense network's hidden layers, ReLU; the default is a third of LeNet-300-100.
    strategies, widened : tuple of str
        Which go, at the dense network's width, and which at all of ``WIDENINGS``.
    left : tuple of float
        Shares χ of the weights that are left, in (0, 1).
    least_widened : float
        In (0, 1): networks of smaller shares are not widened, for they would be very wide.
    held_out : float
        In (0, 1), the share of the training images that is not trained on.
    n_scored : int
        Training images by which "snip" and "grasp" prune, or as many as there are.
    rates : tuple of float
        Learning rates that one is chosen from.
    replicates : int
        Each with its own first weights, order of data and draws, shared by all strategies.
    training : TrainingSettings
        But for the learning rate.

    Examples
    --------
    >>> PruningCriteria(data="digits").widths(0.25, "root")
    (200, 66)
    """

    hidden: tuple[int, ...] = checked(_sizes, (100, 33))
    strategies: tuple[str, ...] = checked(_all_of, STRATEGIES)
    widened: tuple[str, ...] = checked(_all_of, ("random_rescaled", "snip"))
    left: tuple[float, ...] = checked(_shares, (0.5, 0.2, 0.1, 0.05, 0.02))
    least_widened: float = checked(inside, 0.05)
    held_out: float = checked(inside, 0.1)
    n_scored: int = checked(whole, 100)
    rates: tuple[float, ...] = checked(lambda a, v: each(a, v, positive), (0.03, 0.1, 0.2))
    replicates: int = checked(whole, 3)
    training: TrainingSettings = Factory(TrainingSettings)

    def __attrs_post_init__(self) -> None:
        if not self.rates:
            raise ValueError("rates must hold at least one learning rate")

    def widths(self, left: float, widening: str) -> tuple[int, ...]:
        """Of the hidden layers, for a share left; ValueError if ``widening`` is unknown."""
        power = WIDENINGS[one_of("widening", widening, WIDENINGS)]
        return tuple(round(width * left**-power) for width in self.hidden)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        held = round(self.held_out * len(images.X))
        if not held or self.training.batch_size > len(images.X) - held:
            raise ValueError(
                f"held_out {self.held_out:g} of {len(images.X)} images must be one or more, and "
                f"leave {self.training.batch_size} for a batch"
            )

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Prune and train, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each network: ``strategy``, ``widening``, share ``left``, ``hidden`` widths
            and ``replicate``; ``accuracy`` and ``validation``, in percent of the test images and of
            those held out, mean cross-entropy ``loss`` in nats on the former, and how many
            ``weights`` are left. Findings: the ``rate`` chosen, and ``chosen_by`` which accuracies.
        """
        with begin(self, folder, device) as run, one_thread():
            task = _Task.of(self, run)
            tried = {rate: self._dense(run, task, rate) for rate in self.rates}
            means = {r: float(np.mean([f["validation"] for f in t])) for r, t in tried.items()}
            rate = max(means, key=lambda r: means[r])
            rows, seconds = [], sum(found["seconds"] for t in tried.values() for found in t)
            for replicate, found in enumerate(tried[rate]):
                rows.append(_row(self, DENSE, "same", 1.0, replicate) | found)
            for strategy, widening, left in self.cells():
                for replicate in range(self.replicates):
                    make = partial(self._fit, task, run, strategy, widening, left, replicate, rate)
                    found = run.once(f"{strategy}-{widening}-{left:g}-{replicate}", make)
                    rows.append(_row(self, strategy, widening, left, replicate) | found)
                    log.info("%s, %s, %g: %.2f%%", strategy, widening, left, found["accuracy"])
                    seconds += found["seconds"]
            rows = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
            chosen_by = {f"{rate:g}": mean for rate, mean in means.items()}
            return run.record(rows, {"fits": seconds}, rate=rate, chosen_by=chosen_by)

    def cells(self) -> Iterator[tuple[str, str, float]]:
        """Strategy, widening and share left of all that is pruned."""
        for strategy in dict.fromkeys([*self.strategies, *self.widened]):
            for left in self.left:
                wider = strategy in self.widened and left >= self.least_widened
                for widening in WIDENINGS if wider else ("same",):
                    yield strategy, widening, left

    def _dense(self, run: Run, task: _Task, rate: float) -> list[dict[str, Any]]:
        """What the dense networks come to at a rate."""
        return [
            run.once(
                f"rate-{rate:g}-{replicate}",
                partial(self._fit, task, run, DENSE, "same", 1.0, replicate, rate),
            )
            for replicate in range(self.replicates)
        ]

    def _fit(
        self, task: _Task, run: Run, strategy: str, widening: str, left: float,
        replicate: int, rate: float,
    ) -> dict[str, Any]:  # fmt: skip
        """One network, drawn, pruned and trained."""
        seeds = np.random.default_rng([self.seed, replicate]).integers(2**63, size=3).tolist()
        with torch.device("meta"):
            net = fully_connected(self.widths(left, widening), *run.images.kind)
        net = drawn(net, seeds[0]).to(run.device)
        if strategy != DENSE:
            first, kind = snapshot(net), strategy.removesuffix("_rescaled")
            prune_globally(net, 1 - left, kind, seed=seeds[1], X=task.scored[0], y=task.scored[1])
            rewind(net, first, rescale=kind != strategy)
        train(net, *task.train, evolve(self.training, learning_rate=rate), seeds[2])
        (test, loss), (held, _) = (evaluate(net, *part) for part in (task.test, task.held_out))
        found = {"accuracy": 100 * test, "validation": 100 * held, "loss": loss}
        return found | {"weights": sum(sparsity(net).kept.values())}


Part = tuple[torch.Tensor, NDArray[np.int64]]


@frozen(eq=False)
class _Task:
    """Images and labels: trained on, some of these to prune by, held out, and to test on."""

    train: Part
    scored: Part
    held_out: Part
    test: Part

    @classmethod
    def of(cls, study: PruningCriteria, run: Run) -> _Task:
        X, _, X_test, _ = run.tensors
        y, y_test = run.images.y, run.images.y_test
        order = np.random.default_rng(study.seed).permutation(len(y))
        held, rest = np.split(order, [round(study.held_out * len(y))])
        train, scored, out = ((X[rows], y[rows]) for rows in (rest, rest[: study.n_scored], held))
        return cls(train, scored, out, (X_test, y_test))


def _row(study: PruningCriteria, strategy: str, widening: str, left: float, replicate: int) -> dict:
    widths = "-".join(map(str, study.widths(left, widening)))
    return {
        "strategy": strategy, "widening": widening, "left": left, "hidden": widths,
        "replicate": replicate,
    }  # fmt: skip


def accuracies(
    record: Record, strategy: str, widening: str = "same"
) -> tuple[FloatArray, FloatArray]:
    """Shares left, 1 for the dense network and then descending, and test accuracies in percent.

    Raises ValueError if there are none such.

    Returns
    -------
    left, accuracy : (k,) and (k, replicates) arrays

    Examples
    --------
    >>> import pandas
    >>> columns = {"strategy": ["dense", "snip"], "widening": "same", "left": [1.0, 0.5]}
    >>> table = pandas.DataFrame(columns | {"accuracy": [97.0, 95.0]})
    >>> left, accuracy = accuracies(Record(table, {}, {}), "snip")
    >>> left.tolist(), accuracy.tolist()
    ([1.0, 0.5], [[97.0], [95.0]])
    """
    left = draws(record.table, "left", strategy=strategy, widening=widening)
    left = np.unique(left)[::-1]
    pruned = [draws(record.table, strategy=strategy, widening=widening, left=a) for a in left]
    dense = draws(record.table, strategy=DENSE)
    return np.array([1.0, *left]), np.array([dense, *pruned])


PRESETS = {
    "paper": PruningCriteria(training=TrainingSettings(steps=422)),
    "smoke": PruningCriteria(
        data="digits", n_train=300, hidden=(20, 10), left=(0.5, 0.1, 0.05), least_widened=0.1,
        replicates=2,
        rates=(0.03, 0.1), training=TrainingSettings(steps=30, batch_size=50),
    ),
}  # fmt: skip
"""The studies by name. 422 batches of 128 are an epoch of what of MNIST is not held out."""
