"""What a budget is best spent on: chosen by forecast, and found by training every network there is.

Every configuration of a grid is drawn and its readout trained; the best within a budget is then
known, by images held out as it is for whoever tries all, and on the test images in hindsight.
The forecast chooses from the training images alone. What knows no theory stands beside it: equal
widths as large as fit, and any network that uses the budget up.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from .._checks import checked, each, positive, share, whole
from ..compression.allocate import Allocation, Counted, Price, allocation_front
from ..compression.readout import fit_readout
from ..data.images import balanced_rows, normalize
from ..matching.match import match
from ..theory.networks import RandomMLP
from .images import Images
from .records import Record
from .runs import Study, begin

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PRESETS", "Allocations", "outcomes"]

log = logging.getLogger(__name__)
# A quarter of what a readout is trained on chooses its penalty; a network that takes less of a
# budget than this does not use it up.
_HOLDOUT, _FULL = 0.25, 0.8


@frozen(kw_only=True)
class Allocations(Study):
    """The grid and the budgets; of ``n_train`` images ``n_valid`` are held out.

    Attributes
    ----------
    n_valid, n_test : int
        Images on which the best of the trained is found; of the test set.
    depth : int
        Hidden layers, of ReLU, Lloyd–Max staircases in its place.
    widths, levels, sparsities : sequences
        Every layer has each of the widths; levels are the same in all layers.
    packed, drawn, operations : sequences of float
        Budgets: bytes of the file with weights packed, or drawn from its seed; operations.
    n_draws : int
        Of each network.

    Examples
    --------
    >>> len(Allocations(widths=(50, 100), levels=(2, 4), sparsities=(0.5,)).kinds)
    2
    """

    n_train: int | None = checked(whole, 4000)
    n_valid: int = checked(whole, 1000)
    n_test: int = checked(whole, 4000)
    depth: int = checked(whole, 2)
    widths: Sequence[int] = checked(each, (125, 250, 500, 1000, 2000), whole)
    levels: Sequence[int] = checked(each, (2, 3, 4, 8, 16), whole, 2)
    sparsities: Sequence[float] = checked(each, (0.5, 0.9, 0.97), share)
    packed: Sequence[float] = checked(each, (3e4, 6e4, 1.2e5, 2.5e5, 5e5), positive)
    drawn: Sequence[float] = checked(each, (1.2e4, 2.3e4, 4.5e4, 9e4), positive)
    operations: Sequence[float] = checked(each, (1e4, 3e4, 1e5, 3e5, 1e6), positive)
    n_draws: int = checked(whole, 3, 2)

    @property
    def kinds(self) -> tuple[tuple[int, float], ...]:
        """Levels and sparsity of each part of the grid."""
        return tuple(product(self.levels, self.sparsities))

    @property
    def budgets(self) -> dict[Counted, Sequence[float]]:
        """By what they count, where there are any."""
        found: dict[Counted, Sequence[float]]
        found = {"packed": self.packed, "seed": self.drawn, "operations": self.operations}
        return {counted: budgets for counted, budgets in found.items() if budgets}

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        least = int(images.y.max()) + 1
        if self.n_valid + 4 * least > len(images.y):
            raise ValueError(f"n_valid must be at most {len(images.y) - 4 * least}")
        balanced_rows(images.y, self.n_valid)
        balanced_rows(images.y_test, self.n_test)

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Train and choose all, or what is left where ``folder`` holds a run that was stopped.

        Networks and choices are kept apart: without its files ``chosen-…`` and ``forecast-…`` a
        folder chooses anew and trains nothing. Raises RunError or DataError as
        :func:`~ntklc_helpers.experiments.runs.begin`, or if a file is damaged.

        Returns
        -------
        Record
            A row for each network: ``accuracy`` in percent of the test images and ``valid`` of
            those held out, what it takes, and ``seconds`` of one processor to draw and to train
            it. ``choices`` among the findings has a row for each budget.
        """
        with begin(self, folder, device) as run:
            task = _Task.of(self, run.images)
            rows: list[dict[str, Any]] = []
            for m, sparsity in self.kinds:
                name = f"networks-{m}-{sparsity:g}"
                found = run.once(name, partial(_trained, self, task, m, sparsity, run.device))
                rows += found["rows"]
                log.info("%s: %.0f s", name, found["seconds"])
            choices: list[dict[str, Any]] = []
            known: dict[Any, dict[str, Any]] = {}
            stages = {"networks": sum(row["seconds"] for row in rows)}
            for counted, budgets in self.budgets.items():
                chosen = run.once(f"chosen-{counted}", partial(_chosen, self, task, counted, known))
                stages[f"chosen_{counted}"] = chosen["processor"]
                for budget, one in zip(budgets, chosen["choices"], strict=True):
                    choices.append({"counted": counted, "budget": budget} | one)
                log.info("%s: chosen in %.1f s", counted, chosen["processor"])
            return run.record(rows, stages, choices=choices)


@frozen(eq=False)
class _Task:
    """Rows and labels to train on, held out, and to test on."""

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    others: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]

    @classmethod
    def of(cls, settings: Allocations, images: Images) -> _Task:
        flat = images.X.reshape(len(images.X), -1).astype(np.float64)
        out = balanced_rows(images.y, settings.n_valid, settings.seed)
        kept = np.setdiff1d(np.arange(len(flat)), out)
        test = balanced_rows(images.y_test, settings.n_test, settings.seed)
        X_test = images.X_test[test].reshape(len(test), -1).astype(np.float64)
        others = {
            "valid": (normalize(flat[out], flat[kept]), images.y[out]),
            "accuracy": (normalize(X_test, flat[kept]), images.y_test[test]),
        }
        return cls(normalize(flat[kept]), images.y[kept], others)


def _trained(
    settings: Allocations, task: _Task, m: int, sparsity: float, device: torch.device
) -> dict[str, Any]:
    """A row for each network of these levels and this sparsity, and each draw."""
    steps = match(["relu"] * settings.depth, 1.0, m, "lloyd-max").activations
    price, rows = Price(task.X.shape[1], np.unique(task.y)), []
    for widths in product(settings.widths, repeat=settings.depth):
        counts = (m,) * settings.depth
        shape = {f"width_{i}": d for i, d in enumerate(widths, start=1)}
        takes = {
            f"cost_{counted}": float(price.cost(counted, counts, sparsity, [widths])[0])
            for counted in get_args(Counted)
        }
        for draw in range(settings.n_draws):
            start = time.process_time()
            net = RandomMLP(
                task.X.shape[1], widths, steps, 1.0, "ternary", sparsity, settings.seed + draw,
                device,
            )  # fmt: skip
            F = net.features(task.X).cpu().numpy()
            readout = fit_readout(F, task.y, holdout=_HOLDOUT, seed=settings.seed)
            found = {}
            for name, (X, y) in task.others.items():
                found[name] = 100 * readout.score(net.features(X).cpu().numpy(), y)
                if name == "valid":
                    seconds = time.process_time() - start
            rows.append(
                {"levels": m, "sparsity": sparsity, **shape, "seed": settings.seed + draw}
                | {"accuracy": found["accuracy"], "valid": found["valid"]}
                | takes
                | {"seconds": round(seconds, 3)}
            )
    return {"rows": rows}


def _chosen(
    settings: Allocations, task: _Task, counted: Counted, known: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    """For each budget what is chosen by forecast, and the seconds of one processor for that; then
    what is known of it at full size, if it is not from before.
    """
    start = time.process_time()
    front = allocation_front(
        task.X, task.y, ["relu"] * settings.depth, settings.budgets[counted], counted,
        widths=settings.widths, levels=settings.levels, sparsities=settings.sparsities,
        seed=settings.seed,
    )  # fmt: skip
    seconds = time.process_time() - start
    for one in front:
        key = one.widths, one.levels, one.sparsity
        known[key] = known.get(key) or _told(one)
        log.info("%s", known[key])
    told = [known[one.widths, one.levels, one.sparsity] for one in front]
    return {"processor": seconds, "choices": told}


def _told(one: Allocation) -> dict[str, Any]:
    start = time.process_time()
    known = one.forecast
    return {
        "widths": list(one.widths),
        "levels": one.levels[0],
        "sparsity": one.sparsity,
        "ridge": one.ridge,
        "forecast": 100 * (known.accuracy or 0.0),
        "uncertainty": 100 * (known.accuracy_uncertainty or 0.0),
        "seconds": time.process_time() - start,
    }


def outcomes(record: Record) -> DataFrame:
    """For each budget what came of every way to choose: accuracy on test images, in percent.

    Returns
    -------
    pandas.DataFrame
        What is chosen by forecast; ``chosen``, its accuracy, with its ``spread`` over draws and its
        ``forecast``; ``trained``: of the best on images held out; ``hindsight``: of the best on the
        test images; ``equal``: of widths all the same and as large as fit, at the most levels and
        the middle sparsity; ``random`` and ``random_spread``: of those that use the budget up.
        ``tried`` configurations fit; to train all their draws took ``seconds``. NaN where there is
        no such network.
    """
    import pandas as pd

    shape = [name for name in record.table if name.startswith("width_")]
    keys = ["levels", "sparsity", *shape]
    costs = [f"cost_{counted}" for counted in get_args(Counted)]
    drawn = record.table.groupby(keys)
    means = (
        drawn[["accuracy", "valid", *costs]]
        .mean()
        .join(drawn["accuracy"].std().rename("spread"))
        .join(drawn["seconds"].sum())
    )
    middle = sorted(record.settings["sparsities"])[len(record.settings["sparsities"]) // 2]
    rows = []
    for choice in record.findings["choices"]:
        cost = means[f"cost_{choice['counted']}"]
        fits = means[cost <= choice["budget"]]
        full = fits.loc[cost[fits.index] >= _FULL * choice["budget"], "accuracy"]
        mine = means.loc[(choice["levels"], choice["sparsity"], *choice["widths"])]
        alike = fits.reset_index()
        alike = alike[(alike[shape].nunique(axis=1) == 1) & (alike["sparsity"] == middle)]
        alike = alike[alike["levels"] == alike["levels"].max()]
        rows.append(
            {name: choice[name] for name in ("counted", "budget", "levels", "sparsity")}
            | {"widths": "–".join(map(str, choice["widths"]))}
            | {name: choice[name] for name in ("forecast", "uncertainty")}
            | {"chosen": mine["accuracy"], "spread": mine["spread"]}
            | {"trained": fits.loc[fits["valid"].idxmax(), "accuracy"]}
            | {"hindsight": fits["accuracy"].max()}
            | {"equal": alike["accuracy"].iloc[-1] if len(alike) else np.nan}
            | {"random": full.mean(), "random_spread": full.std()}
            | {"tried": len(fits), "seconds": fits["seconds"].sum()}
        )
    return pd.DataFrame(rows)


PRESETS = {
    "paper": Allocations(),
    "cpu": Allocations(
        n_train=1500, n_valid=500, n_test=2000, widths=(125, 500), levels=(2, 16),
        packed=(3e4, 1.2e5), drawn=(2.3e4,), operations=(3e4,), n_draws=2,
    ),
    "smoke": Allocations(
        data="digits", n_train=300, n_valid=100, n_test=300, widths=(20, 60), levels=(2, 4),
        sparsities=(0.5, 0.9), packed=(4e3, 8e3), drawn=(5e3,), operations=(2e3,), n_draws=2,
    ),
}  # fmt: skip
"""Studies by name; the first is the record."""
