"""The published programs for MNIST at their own settings, with each of their slips and without.

``performance_match.py`` and its rewrite, ``performance_MNIST.py``, train a linear readout on a
random network of three layers. In both a few things happen that were hardly meant. Here each can be
left in or mended by itself, everything else being equal, draw by draw.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from scipy.stats import t as student_t
from tqdm import tqdm

from .._checks import FloatArray, checked, each, one_of, whole
from ..data.images import normalize
from ..matching.match import match
from ..matching.paper import script_sigma_q
from ..theory.activations import AnyActivation, Quantized
from ..theory.moments import gaussian_moments
from ..theory.weights import Gaussian, Law, Rademacher, Ternary
from .images import Images
from .methods import RELUS
from .records import Record
from .runs import Run, Study, begin

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["DENSE", "MATCHED", "PRESETS", "PROGRAMS", "PUBLISHED", "PublishedPrograms", "effects"]

log = logging.getLogger(__name__)

SORTED = "sorted by class, not shuffled"
TWICE = "softmax twice"
OWN = "test set normalised by itself"
STOPPED = "stopped on the test set"
SOLVER = "σ_Q as the solver leaves it"
SIGN = "the level 0 centred the wrong way"
BIASES = "random biases"

PUBLISHED, DENSE, MATCHED = "as published", "dense, ReLU", "ternary, 16 levels"
"""Networks: the published staircases, and beside them ReLU itself and this book's compression."""
_SPARSITY = 0.9

Parts = dict[str, tuple[torch.Tensor, torch.Tensor]]


@frozen
class Program:
    """What one of the two trains, how, and what it was hardly meant to do.

    Examples
    --------
    >>> len(PROGRAMS["performance_match.py"].variants(PUBLISHED))
    12
    """

    classes: int
    widths: tuple[int, ...]
    law: Law
    batch_size: int
    learning_rate: float
    slips: tuple[str, ...]
    patience: int | None = None
    rewritten: bool = False

    def variants(self, network: str) -> list[frozenset[str]]:
        """Sets of slips: all, all but one, one, none; for other networks all that concern them."""
        if network != PUBLISHED:
            return [frozenset(self.slips) - {SOLVER, SIGN}, frozenset()][network == MATCHED :]
        made = frozenset(self.slips)
        return [made, *(made - {s} for s in self.slips), *(frozenset({s}) for s in self.slips),
                frozenset()]  # fmt: skip


PROGRAMS: Mapping[str, Program] = {
    "performance_match.py": Program(
        classes=5, widths=(2000, 2000, 1100), law=Gaussian(), batch_size=128, learning_rate=1e-3,
        slips=(SORTED, TWICE, OWN, STOPPED, SOLVER), patience=20,
    ),
    "performance_MNIST.py": Program(
        classes=10, widths=(512, 512, 1024), law=Rademacher(), batch_size=256, learning_rate=5e-3,
        slips=(TWICE, OWN, SOLVER, SIGN, BIASES), rewritten=True,
    ),
}  # fmt: skip
"""By the name of the file."""


@frozen(kw_only=True)
class PublishedPrograms(Study):
    """How much of the programs' sizes is run; the data are told as to every study.

    Attributes
    ----------
    programs : tuple of str
        Of :data:`PROGRAMS`.
    per_class, per_class_test : int
        Images of each class that are trained and tested on, the first ones; ``per_class_test``
        further training images of each are held out where training is to be stopped early.
    shrink : int
        Widths are divided by it.
    epochs : int
        The most of them.
    n_draws : int
        Networks and orders of the images, 2 or more.

    Examples
    --------
    >>> PublishedPrograms(data="digits", per_class=60, per_class_test=20).epochs
    500
    """

    programs: Sequence[str] = checked(each, tuple(PROGRAMS), one_of, PROGRAMS)
    per_class: int = checked(whole, 5000)
    per_class_test: int = checked(whole, 800)
    shrink: int = checked(whole, 1)
    epochs: int = checked(whole, 500)
    n_draws: int = checked(whole, 3, 2)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        for name in self.programs:
            program = PROGRAMS[name]
            stopping = self.per_class_test * (program.patience is not None)
            for argument, y, most in (
                ("per_class", images.y, self.per_class + stopping),
                ("per_class_test", images.y_test, self.per_class_test),
            ):
                fewest = np.bincount(y, minlength=program.classes)[: program.classes].min()
                if most > fewest:
                    raise ValueError(f"{argument} needs {most} images of a class, got {fewest}")
            if program.batch_size > self.per_class * program.classes:
                raise ValueError(f"per_class must make a batch of {program.batch_size} images")

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Train all readouts, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each program, network, set of ``slips`` (joined by "; ", or "none") and draw:
            ``accuracy`` in percent, as the program reports it, of the ``epoch`` it reports.
        """
        with begin(self, folder, device) as run:
            rows, seconds = [], 0.0
            for name in self.programs:
                sizes = self.per_class, self.per_class_test
                parts = cache(partial(_parts, run.images, PROGRAMS[name], *sizes))
                for network in (PUBLISHED, DENSE, MATCHED):
                    for seed in range(self.seed, self.seed + self.n_draws):
                        found, spent = self._draw(run, parts, name, network, seed)
                        rows += found
                        seconds += spent
            return run.record(rows, {"trainings": seconds})

    def _draw(
        self, run: Run, parts: Callable[[], Parts], name: str, network: str, seed: int
    ) -> tuple[list[dict[str, Any]], float]:
        """Rows of all variants; those that differ in what is read off share a training."""
        program, rows, spent = PROGRAMS[name], [], {}
        for made in program.variants(network):
            how = made & {SORTED, SOLVER, SIGN, BIASES}
            told = "-".join(str(program.slips.index(slip)) for slip in program.slips if slip in how)
            stage = f"{name}-{network}-{told}-{seed}".replace(" ", "-").replace(",", "")
            train = partial(self._curves, run, parts, program, network, how, seed)
            curves = run.once(stage, train)
            spent[stage] = curves["seconds"]
            epoch, accuracy = reported(program, curves, made)
            rows.append(
                {"program": name, "network": network, "slips": _joined(made)}
                | {"seed": seed, "accuracy": accuracy, "epoch": epoch}
            )
            log.info("%s, %s, %s: %.2f%%", name, network, _joined(made), accuracy)
        return rows, sum(spent.values())

    def _curves(
        self,
        run: Run,
        parts: Callable[[], Parts],
        program: Program,
        network: str,
        made: frozenset[str],
        seed: int,
    ) -> dict[str, Any]:
        widths = [-(-width // self.shrink) for width in program.widths]
        p = parts()["train"][0].shape[1]
        forward = _network(program, network, made, widths, p, seed)
        ready = {
            part: (forward(X.to(run.device)), y.to(run.device)) for part, (X, y) in parts().items()
        }
        return readouts(
            ready.pop("train"), ready, program, self.epochs, SORTED in made, seed,
            progress=run.folder is not None,
        )  # fmt: skip


def _joined(slips: Iterable[str]) -> str:
    return "; ".join(sorted(slips)) or "none"


def _first(y: NDArray, classes: int, start: int, stop: int) -> NDArray:
    """Rows of the images start … stop − 1 of each class, sorted by class."""
    return np.concatenate([np.flatnonzero(y == k)[start:stop] for k in range(classes)])


def _parts(images: Images, program: Program, per_class: int, per_class_test: int) -> Parts:
    """Rows, normalised over all images of the classes, and labels: train, test, own, validation."""
    (X, y), (X_test, y_test) = (
        (X.reshape(len(X), -1)[y < program.classes].astype(np.float64), y[y < program.classes])
        for X, y in ((images.X, images.y), (images.X_test, images.y_test))
    )
    rows = _first(y, program.classes, 0, per_class)
    held = _first(y, program.classes, per_class, per_class + per_class_test)
    test = _first(y_test, program.classes, 0, per_class_test)
    Z = normalize(X)
    found = {
        "train": (Z[rows], y[rows]),
        "test": (normalize(X_test, X)[test], y_test[test]),
        "own": (normalize(X_test)[test], y_test[test]),
    }
    if program.patience is not None:
        found["validation"] = (Z[held], y[held])
    return {
        part: (torch.tensor(Z, dtype=torch.float32), torch.tensor(y))
        for part, (Z, y) in found.items()
    }


@cache
def _staircases(network: str, solver: bool, rewritten: bool) -> tuple[AnyActivation, ...]:
    if network == DENSE:
        return tuple(RELUS)
    if network == MATCHED or not solver:
        return match(RELUS, 1.0, 16 if network == MATCHED else "paper").activations
    found = match(RELUS, 1.0, "script")
    if not rewritten:
        return found.activations
    last = gaussian_moments(RELUS[-1], found.original[-2].tau)
    step = script_sigma_q(last, found.compressed[-2].tau, rewritten)
    assert step is not None
    return (*found.activations[:-1], step)


def _network(
    program: Program, network: str, made: frozenset[str], widths: Sequence[int], p: int, seed: int
) -> Any:
    """Features of rows, as the program computes them."""
    law = Ternary(_SPARSITY) if network == MATCHED else program.law
    activations = _staircases(network, SOLVER in made, program.rewritten)
    layers, tau = [], 1.0
    for i, (act, width, below) in enumerate(
        zip(activations, widths, (p, *widths[:-1]), strict=True), start=1
    ):
        moments = gaussian_moments(act, tau)
        tau = float(np.sqrt(moments.variance))
        if SIGN in made:
            act = _turned(act, moments.mean)
        W = torch.tensor(law.draw((width, below), seed, i), dtype=torch.float32)
        b = np.random.default_rng([seed, i, 1]).uniform(-1, 1, width) / np.sqrt(below)
        b = torch.tensor(b * (BIASES in made), dtype=torch.float32)
        layers.append((W, b, act, moments.mean))

    def forward(H: torch.Tensor) -> torch.Tensor:
        for W, b, act, mean in layers:
            Z = torch.addmm(b.to(H.device), H, W.T.to(H.device))
            H = (act(Z) - mean) / np.sqrt(len(W))
        return H

    return forward


def _turned(act: Any, mean: float) -> Quantized:
    """Once the mean is subtracted, the level 0 is at the mean instead of at minus the mean."""
    return Quantized(act.thresholds, [level or 2 * mean for level in act.levels])


def readouts(
    train: tuple[torch.Tensor, torch.Tensor],
    seen: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    program: Program,
    epochs: int,
    in_order: bool,
    seed: int,
    progress: bool = False,
) -> dict[str, list[list[float]]]:
    """Two readouts trained side by side by Adam, by one softmax and by one of another.

    Returns
    -------
    dict of str to list
        For each part of ``seen``, by epoch: loss and accuracy in percent of the first, of the
        second. The last epoch alone where the program has no patience.

    Examples
    --------
    >>> F, y = torch.eye(256), torch.arange(256) % 5
    >>> curves = readouts((F, y), {"same": (F, y)}, PROGRAMS["performance_match.py"], 2, False, 0)
    >>> len(curves["same"]), len(curves["same"][0])
    (2, 4)
    """
    train, *others = (_with_ones(part, program.rewritten) for part in (train, *seen.values()))
    F, y = train
    draws = torch.Generator().manual_seed(seed)
    # Rows of scores and of weights, not columns, are what products of so few run fast on.
    W = _initial(F.shape[1], program, draws).repeat(2, 1).to(F.device)
    W.grad = torch.empty_like(W)
    adam = torch.optim.Adam([W], lr=program.learning_rate, fused=True)
    wanted = torch.eye(program.classes, device=F.device)[:, y]
    curves: dict[str, list[list[float]]] = {part: [] for part in seen}
    for epoch in tqdm(range(epochs), desc="epochs", disable=not progress, leave=False):
        order = torch.arange(len(F)) if in_order else torch.randperm(len(F), generator=draws)
        for batch in order.split(program.batch_size):
            # The first program leaves an incomplete batch out.
            if program.rewritten or len(batch) == program.batch_size:
                x = F.index_select(0, batch)
                torch.mm(_slopes(W @ x.T, wanted[:, batch]), x, out=W.grad)
                adam.step()
        # Epochs before the last one matter where training may be stopped early.
        if program.patience is not None or epoch == epochs - 1:
            for part, (G, z) in zip(seen, others, strict=True):
                curves[part].append(_judged((W @ G.T).T, z))
    return curves


def _with_ones(
    part: tuple[torch.Tensor, torch.Tensor], ones: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A column of ones makes a bias of a weight."""
    F, y = part
    return (torch.cat([F, torch.ones_like(F[:, :1])], 1) if ones else F), y


def _initial(width: int, program: Program, draws: torch.Generator) -> torch.Tensor:
    """As torch draws a linear layer's weights and bias; the rewrite draws its weights anew."""
    bound = (width - program.rewritten) ** -0.5
    W = (2 * torch.rand(program.classes, width, generator=draws) - 1) * bound
    if program.rewritten:
        W[:, :-1] = torch.randn(program.classes, width - 1, generator=draws)
    return W


def _slopes(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of the mean losses in both readouts' scores, (2K, n)."""
    once, twice = scores.chunk(2)
    inner = twice.softmax(0)
    outer = inner.softmax(0) - wanted
    outer = inner * (outer - (outer * inner).sum(0))
    return torch.cat([once.softmax(0) - wanted, outer]).div_(scores.shape[1])


def _judged(scores: torch.Tensor, y: torch.Tensor) -> list[float]:
    once, twice = scores.chunk(2, 1)
    found: list[float] = []
    for outputs in (once, twice.softmax(1)):
        found.append(torch.nn.functional.cross_entropy(outputs, y).item())
        found.append(100 * (outputs.argmax(1) == y).double().mean().item())
    return found


def reported(
    program: Program, curves: Mapping[str, Any], made: frozenset[str]
) -> tuple[int, float]:
    """How many epochs were seen until the one that the program reports, and the accuracy then.

    Without patience it is the last one. With it, training halts once the loss has not fallen for so
    many epochs: on the test set, where that is a slip, and then the last epoch is reported; else on
    images held out, and then it is the best epoch.

    Examples
    --------
    >>> curves = {"test": [[1.0, 60.0, 1.0, 50.0], [0.9, 70.0, 1.1, 40.0]]}
    >>> reported(PROGRAMS["performance_MNIST.py"], curves, frozenset({TWICE}))
    (2, 40.0)
    """
    readout = slice(2, 4) if TWICE in made else slice(0, 2)
    test = np.array(curves["own" if OWN in made else "test"])[:, readout]
    at = len(test) - 1
    if program.patience is not None:
        losses = test if STOPPED in made else np.array(curves["validation"])[:, readout]
        best = 0
        for epoch, loss in enumerate(losses[:, 0]):
            if loss < losses[best, 0]:
                best = epoch
            if epoch - best == program.patience:
                at = epoch
                break
        at = at if STOPPED in made else best
    return at + 1, float(test[at, 1])


def effects(table: DataFrame) -> DataFrame:
    """What each slip costs, in points of accuracy, of the published networks of a record's table.

    Returns
    -------
    DataFrame
        A row for each program and slip: ``mended``, what is won where it alone is mended, and
        ``made``, what is lost where it alone is made: means over draws of the differences, draw by
        draw, with ``…_error``, their standard errors, ``…_margin``, half the width of the 95%
        interval by Student's t, and ``…_resolved``: whether 0 lies outside of it.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [("performance_match.py", slips, seed, 60.0 + 9 * (slips == "none") + seed)
    ...         for slips in (OWN, "none") for seed in range(2)]
    >>> table = pd.DataFrame(rows, columns=["program", "slips", "seed", "accuracy"])
    >>> found = effects(table.assign(network=PUBLISHED))
    >>> found.slip[2], float(found.made[2]), bool(found.made_resolved[2])
    ('test set normalised by itself', 9.0, True)
    """
    from pandas import DataFrame

    rows = []
    for name, part in table[table.network == PUBLISHED].groupby("program", sort=False):
        at = {slips: group.set_index("seed").accuracy for slips, group in part.groupby("slips")}
        program = PROGRAMS[str(name)]
        everything = _joined(program.slips)
        for slip in program.slips:
            others = _joined(set(program.slips) - {slip})
            row: dict[str, Any] = {"program": name, "slip": slip}
            for kind, better, worse in (("mended", others, everything), ("made", "none", slip)):
                if better in at and worse in at:
                    row |= _difference(kind, (at[better] - at[worse]).to_numpy())
            rows.append(row)
    return DataFrame(rows)


def _difference(kind: str, differences: FloatArray) -> dict[str, Any]:
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(n))
    margin = error * float(student_t.ppf(0.975, n - 1))
    found = {"": mean, "_error": error, "_margin": margin, "_resolved": abs(mean) > margin}
    return {kind + name: value for name, value in found.items()}


PRESETS = {
    "paper": PublishedPrograms(data="mnist"),
    "cpu": PublishedPrograms(per_class=500, per_class_test=100, shrink=4, epochs=60),
    "smoke": PublishedPrograms(
        data="digits", per_class=90, per_class_test=25, shrink=20, epochs=6, n_draws=2
    ),
}
"""Studies by name; the first is the record."""
