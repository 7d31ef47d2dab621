"""Staircases of as many levels by different objectives: which networks classify best.

Every network is the same but for its staircases: three layers in the place of ReLU, ternary
weights, a ridge readout whose penalty is chosen on training images.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from attrs import frozen

from .._checks import checked, each, inside, one_of, positive, whole
from ..compression.readout import fit_readout
from ..data.images import balanced_rows, normalize
from ..matching.match import Objective, match
from ..theory.activations import Quantized
from ..theory.forecast import Forecast, Forecaster
from ..theory.networks import RandomMLP
from .images import Images
from .methods import DEPTH, RELUS, Task
from .records import Record
from .runs import Run, Study, begin

__all__ = ["PRESETS", "Objectives"]

log = logging.getLogger(__name__)
_Objective = Objective | Literal["none"]


@frozen(kw_only=True)
class Objectives(Study):
    """What is compared; the data are told as to every study, ``n_train`` of them trained on.

    Attributes
    ----------
    levels : tuple of int
    objectives : tuple of str
        As ``match`` knows them; "accuracy" is searched on ``n_search`` of the training images, by
        the best forecast over ``ridges``.
    width : int
        Of all three layers.
    sparsity : float
    n_draws : int

    Examples
    --------
    >>> Objectives(data="digits", n_train=500, n_search=100).objectives
    ('lloyd-max', 'exact', 'accuracy')
    """

    levels: Sequence[int] = checked(each, (2, 3, 4, 6, 8, 12, 16), whole, 2, 256)
    objectives: Sequence[Objective] = checked(
        each, ("lloyd-max", "exact", "accuracy"), one_of, get_args(Objective)
    )
    width: int = checked(whole, 1000)
    sparsity: float = checked(inside, 0.9)
    ridges: Sequence[float] = checked(each, (1e-4, 1e-3, 1e-2), positive)
    n_search: int = checked(whole, 400)
    n_draws: int = checked(whole, 5, 2)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        if self.n_search > len(images.y):
            raise ValueError(f"n_search must be at most {len(images.y)}, as many as are trained on")
        balanced_rows(images.y, self.n_search)

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Choose and draw all, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each objective, number of levels and draw: ``accuracy`` in percent of the test
            images, and the ``forecast`` of the staircases on the images searched on, the same for
            all draws. Rows of objective "none" are ReLU itself, with levels 0.
        """
        with begin(self, folder, device) as run:
            X = run.images.X.reshape(len(run.images.X), -1).astype(np.float64)
            X_test = run.images.X_test.reshape(len(run.images.X_test), -1).astype(np.float64)
            task = Task(normalize(X), run.images.y, normalize(X_test, X), run.images.y_test)
            rows, stages = [], {"staircases": 0.0, "networks": 0.0}
            for m, objective in self._cells():
                name = f"{objective}-{m}"
                chosen = run.once(f"staircases-{name}", partial(self._chosen, task, m, objective))
                steps = [Quantized(*pair) for pair in chosen["steps"]]
                drawn = run.once(f"networks-{name}", partial(self._drawn, task, steps, run))
                stages["staircases"] += chosen["seconds"]
                stages["networks"] += drawn["seconds"]
                rows += [
                    {"objective": objective, "levels": m, "seed": self.seed + draw}
                    | {"accuracy": accuracy, "forecast": chosen["forecast"]}
                    for draw, accuracy in enumerate(drawn["accuracy"])
                ]
                log.info("%s, %s levels: %s", objective, m, drawn["accuracy"])
            return run.record(rows, stages)

    def _cells(self) -> Iterator[tuple[int, _Objective]]:
        yield 0, "none"
        for m in self.levels:
            for objective in self.objectives:
                yield m, objective

    def _chosen(self, task: Task, m: int, objective: _Objective) -> dict[str, Any]:
        """The staircases, as thresholds and levels, and what is forecast of them."""
        some = balanced_rows(task.y, self.n_search, self.seed)

        def judge(steps: Sequence[Any]) -> Forecast:
            X, y = task.X[some], task.y[some]
            prepared = Forecaster.of(X, y, steps, sparsity=self.sparsity, tau0=1.0, seed=self.seed)
            found = [prepared([self.width] * DEPTH, ridge) for ridge in self.ridges]
            return max(found, key=lambda one: one.accuracy or 0.0)

        if objective == "none":
            return {"steps": [], "forecast": 100 * (judge(RELUS).accuracy or 0.0)}
        on = judge if objective == "accuracy" else None
        steps = match(RELUS, 1.0, m, objective, on=on).activations
        told = [[list(one.thresholds), list(one.levels)] for one in steps]
        return {"steps": told, "forecast": 100 * (judge(steps).accuracy or 0.0)}

    def _drawn(self, task: Task, steps: Sequence[Quantized], run: Run) -> dict[str, Any]:
        """Accuracy in percent of every draw."""
        found = []
        for draw in range(self.n_draws):
            net = RandomMLP(
                task.X.shape[1], [self.width] * DEPTH, steps or RELUS, 1.0, "ternary",
                self.sparsity, self.seed + draw, run.device,
            )  # fmt: skip
            F, F_test = (net.features(X).cpu().numpy() for X in (task.X, task.X_test))
            readout = fit_readout(F, task.y, seed=self.seed)
            found.append(100 * float(np.mean(readout.predict(F_test) == task.y_test)))
        return {"accuracy": found}


PRESETS = {
    "paper": Objectives(n_train=4000),
    "cpu": Objectives(
        n_train=2000, levels=(2, 4, 16), width=500, n_search=200, ridges=(1e-3,), n_draws=3
    ),
    "smoke": Objectives(
        data="digits", n_train=300, levels=(2,), objectives=("lloyd-max", "exact"), width=60,
        n_search=80, ridges=(1e-3,), n_draws=2,
    ),
}  # fmt: skip
"""Studies by name; the first is the record, and the last goes without a search."""
