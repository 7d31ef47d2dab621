"""Forecast against measured: accuracy known before a network is drawn, and networks then drawn.

The forecast sees a pool of training images and nothing else. The networks are then drawn, their
readouts trained on images of the pool, and tested three times: on the pool itself, each image left
out in turn, on images held out from the same training set, and on the test set.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from .._checks import checked, each, inside, one_of, positive, whole
from ..data.images import balanced_rows, normalize
from ..matching.match import match
from ..theory.activations import AnyActivation, activation_list
from ..theory.forecast import Forecaster
from ..theory.networks import RandomMLP
from .image_nets import TrainingSettings, convolutional_features, train
from .images import Images
from .records import Record
from .runs import Experiment, Run, begin

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["DEPTHS", "PRESETS", "STAIRCASES", "Case", "Forecasts", "compared"]

log = logging.getLogger(__name__)

DEPTHS = {"relu": 3, "tanh": 2, "gelu": 2}
"""Activations, and how many layers of each."""

STAIRCASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "Lloyd–Max, 4 levels": {"levels": 4, "objective": "lloyd-max"},
    "matched, 4 levels": {"levels": 4},
    "matched, 8 levels": {"levels": 8},
    "published": {"levels": "paper"},
}
"""What is put in the place of the activations: arguments of ``match``, none where they stay."""


@frozen
class Case:
    """One network, and the readout that is put on it.

    Examples
    --------
    >>> Case("relu", "dense", 0.9, 500, 100, ridge=1e-3, n_train=1000).widths
    (500, 500, 100)
    """

    activation: str
    staircase: str
    sparsity: float
    width: int
    last: int
    ridge: float
    n_train: int

    @property
    def widths(self) -> tuple[int, ...]:
        """d_1 … d_L."""
        return (*[self.width] * (DEPTHS[self.activation] - 1), self.last)

    @property
    def kind(self) -> tuple[str, str, float]:
        """What the kernel follows from."""
        return self.activation, self.staircase, self.sparsity


@frozen(kw_only=True)
class Forecasts(Experiment):
    """What is forecast and drawn; of ``n_train`` images, those in no other part are held out.

    Attributes
    ----------
    n_extractor : int
        Images that ``network`` is trained on, whose features are then the data; 0 for the pixels.
    n_pool, n_test : int
        Images that the forecast sees; of the test set.
    activations : sequence of str
        Of ``DEPTHS``.
    widths, ridges : sequences
        Of ReLU as it is, with Gaussian weights: all pairs.
    few_widths, sizes, size, ridge
        Widths of all other networks, with staircases and with other activations; how many images
        a readout is trained on, n; n and ridge of all but the lines along them.
    sparsity : float
        Share of zeros of ternary weights.
    n_draws : int
        Of each network; two more of those that have a layer of the least width.

    Examples
    --------
    >>> len(Forecasts().cases())
    64
    """

    n_extractor: int = checked(whole, 0, 0)
    n_pool: int = checked(whole, 10_000)
    n_test: int = checked(whole, 4000)
    activations: Sequence[str] = checked(each, tuple(DEPTHS), one_of, DEPTHS)
    widths: Sequence[int] = checked(each, (125, 250, 500, 1000, 2000, 4000), whole)
    few_widths: Sequence[int] = checked(each, (125, 1000), whole)
    ridges: Sequence[float] = checked(each, (1e-4, 1e-3, 1e-2), positive)
    sizes: Sequence[int] = checked(each, (500, 1000, 2000), whole)
    size: int = checked(whole, 1000)
    ridge: float = checked(positive, 1e-3)
    sparsity: float = checked(inside, 0.9)
    n_draws: int = checked(whole, 3, 2)

    def cases(self) -> tuple[Case, ...]:
        """All that is forecast and measured, each once."""
        names, few, zero = tuple(STAIRCASES), self.few_widths, (0.0,)
        rare, ridge, size = (self.sparsity,), (self.ridge,), (self.size,)
        first, steps = self.activations[:1], names[1:]
        alike: list[tuple[Sequence[Any], ...]] = [
            (first, names[:1], zero, self.widths, self.ridges, size),
            (first, names[:1], zero, few, ridge, self.sizes),
            (self.activations, names[:1], zero, few, ridge, size),
            (self.activations, steps, rare, few, ridge, size),
            (first, steps, rare, few[-1:], self.ridges, size),
            (first, names[:1], rare, few, ridge, size),
            (first, steps[:1], zero, few, ridge, size),
        ]
        found = [Case(a, q, e, d, d, r, n) for line in alike for a, q, e, d, r, n in product(*line)]
        for steps_of, sparsity in ((names[0], 0.0), (names[2], self.sparsity)):
            widths = max(few), min(few)
            found.append(Case(first[0], steps_of, sparsity, *widths, self.ridge, self.size))
        return tuple(dict.fromkeys(found))

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        Experiment.check(self, images)
        least, used = int(images.y.max()) + 1, self.n_extractor + self.n_pool
        if used + least > len(images.y):
            raise ValueError(
                f"n_train must be at least {used + least}, for pool, network and images held out, "
                f"got {len(images.y)}"
            )
        if 0 < self.n_extractor < self.training.batch_size:
            raise ValueError("n_extractor must be 0, or at least batch_size")
        if not least <= min(self.sizes) <= max(self.sizes) <= self.n_pool:
            raise ValueError(f"sizes must be from {least} to n_pool, {self.n_pool}")
        balanced_rows(images.y_test, self.n_test)

    def draws(self, case: Case) -> int:
        """How many networks are drawn."""
        return self.n_draws + 2 * (case.last <= min(self.few_widths))

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Forecast and measure all cases, or those left where ``folder`` holds a stopped run.

        It goes on after the last network. Raises RunError or DataError as
        :func:`~ntklc_helpers.experiments.runs.begin`, or if a file is damaged.

        Returns
        -------
        Record
            A row for each case. ``accuracy`` and ``error`` (squared, summed over the classes) are
            measured on images held out, means over ``draws``, ``…_spread`` their standard
            deviations; ``…_pool`` and ``…_test`` on the pool, left out, and on the test set;
            ``…_forecast`` and ``…_uncertainty`` the forecast; ``seconds_…`` of one processor.
        """
        with begin(self, folder, device) as run:
            made = run.once("features", lambda: _features(self, run), "network")
            parts = [made[part].double().numpy() for part in ("pool", "held", "test")]
            labels = [made[f"y_{part}"].numpy() for part in ("pool", "held", "test")]
            X = np.concatenate([normalize(part, parts[0]) for part in parts])
            task = _Task(X, np.concatenate(labels), len(parts[0]), len(parts[1]), self.seed)
            rows = (run.read("forecasts") or {"rows": []})["rows"]
            for row in _compared(self, task, run.device, rows):
                rows.append(row)
                run.write("forecasts", {"rows": rows})
            order = [attrs.asdict(case) for case in self.cases()]
            rows.sort(key=lambda row: order.index({name: row[name] for name in order[0]}))
            stages = {"features": made["seconds"]}
            stages |= {
                name: sum(row[f"seconds_{name}"] for row in rows)
                for name in ("forecast", "measured")
            }
            return run.record(rows, stages, n_held=task.n_held, extractor=made["extractor"])


def _features(forecasts: Forecasts, run: Run) -> dict[str, Any]:
    """Rows and labels of pool, images held out and test set; what they are features of."""
    X, y, X_test, y_test = run.images.arrays
    rest, seed = np.arange(len(y)), forecasts.seed
    parts = {"pool": rest[balanced_rows(y, forecasts.n_pool, seed)]}
    rest = np.setdiff1d(rest, parts["pool"])
    extract, about = _flat, {}
    if forecasts.n_extractor:
        shown = rest[balanced_rows(y[rest], forecasts.n_extractor, seed)]
        rest = np.setdiff1d(rest, shown)
        net = forecasts.build(run.images, seed).to(run.device)
        seen, known = (torch.tensor(array[shown], device=run.device) for array in (X, y))
        state = run.path("network")
        train(net, seen, known, forecasts.training, seed, checkpoint=state, progress=True)

        def extract(images: NDArray) -> NDArray:
            return convolutional_features(net, torch.tensor(images, device=run.device))

        about = {"network": forecasts.network, "images": forecasts.n_extractor}
    parts["held"] = rest
    found = {part: (X[rows], y[rows]) for part, rows in parts.items()}
    rows = balanced_rows(y_test, forecasts.n_test, seed)
    found["test"] = X_test[rows], y_test[rows]
    made: dict[str, Any] = {"extractor": about}
    for part, (images, labels) in found.items():
        made[part], made[f"y_{part}"] = (
            torch.from_numpy(np.asarray(extract(images), np.float32)),
            torch.from_numpy(labels),
        )
    return made


def _flat(images: NDArray) -> NDArray:
    return images.reshape(len(images), -1)


@frozen(eq=False)
class _Task:
    """Rows X (n, p) and labels: first the pool, then those held out, then the test set."""

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    n_pool: int
    n_held: int
    seed: int

    @property
    def tau0(self) -> float:
        """Scale of the pool, as a forecast takes it."""
        pool = self.X[: self.n_pool]
        return float(np.sqrt(np.einsum("ij,ij->i", pool, pool).mean()))

    def activations(self, case: Case) -> Sequence[AnyActivation]:
        """σ_1 … σ_L, or the staircases in their place."""
        acts = activation_list("activations", [case.activation] * DEPTHS[case.activation])
        how = STAIRCASES[case.staircase]
        return match(acts, self.tau0, **how).activations if how else acts

    def forecaster(self, case: Case) -> Forecaster:
        """The kernels of the pool."""
        pool, acts = slice(self.n_pool), self.activations(case)
        return Forecaster.of(
            self.X[pool], self.y[pool], acts, case.n_train, case.sparsity,
            tau0=self.tau0, seed=self.seed,
        )  # fmt: skip

    def features(self, case: Case, seed: int, device: torch.device) -> NDArray[np.float64]:
        """Of all rows, by one draw of the network."""
        weights = "ternary" if case.sparsity else "gaussian"
        net = RandomMLP(
            self.X.shape[1], case.widths, self.activations(case), self.tau0, weights,
            case.sparsity, seed, device,
        )  # fmt: skip
        return net.features(self.X).double().cpu().numpy()

    def measure(
        self, F: NDArray[np.float64], rows: NDArray[np.intp], delta: float
    ) -> dict[str, float]:
        """Accuracy and error of the readout trained on some rows of the pool, on each part."""
        T = np.eye(int(self.y.max()) + 1)[self.y]
        mean = T[rows].mean(axis=0)
        inverse = np.linalg.inv(F[rows] @ F[rows].T + delta * np.eye(len(rows)))
        right = inverse @ (T[rows] - mean)
        outputs = mean + F @ (F[rows].T @ right)
        # Leave-one-out, by the inverse of a matrix without one row and column.
        outputs[rows] = T[rows] - right / inverse.diagonal()[:, None]
        hits = outputs.argmax(axis=1) == self.y
        errors = np.sum((outputs - T) ** 2, axis=1)
        cuts = [self.n_pool, self.n_pool + self.n_held]
        found: dict[str, float] = {}
        for name, values in (("accuracy", hits), ("error", errors)):
            pool, held, test = (float(part.mean()) for part in np.split(values, cuts))
            found |= {name: held, f"{name}_pool": pool, f"{name}_test": test}
        return found


def _compared(
    forecasts: Forecasts, task: _Task, device: torch.device, rows: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each case that has none, network after network; kernels are shared as long."""
    done = [{name: row[name] for name in attrs.fields_dict(Case)} for row in rows]
    left = [case for case in forecasts.cases() if attrs.asdict(case) not in done]
    log.info("%s cases left", len(left))
    left.sort(key=lambda case: case.widths)
    prepared: dict[Any, tuple[Forecaster, float]] = {}
    for kind in dict.fromkeys(case.kind for case in forecasts.cases()):
        prepared.clear()
        mine = [case for case in left if case.kind == kind]
        for widths in dict.fromkeys(case.widths for case in mine):
            together = [case for case in mine if case.widths == widths]
            yield from _network(forecasts, task, device, together, prepared)
            log.info("%s, %s", ", ".join(map(str, kind)), widths)


def _network(
    forecasts: Forecasts,
    task: _Task,
    device: torch.device,
    cases: Sequence[Case],
    prepared: dict[Any, tuple[Forecaster, float]],
) -> list[dict[str, Any]]:
    """The rows of one network under several readouts: forecasts first, then draws."""
    known: list[tuple[Forecaster, dict[str, Any]]] = []
    for case in cases:
        start = time.process_time()
        if case.n_train not in prepared:
            prepared[case.n_train] = task.forecaster(case), time.process_time() - start
            start = time.process_time()
        forecaster, seconds = prepared[case.n_train]
        found = forecaster(case.widths, case.ridge)
        row = {
            "accuracy_forecast": found.accuracy,
            "accuracy_uncertainty": found.accuracy_uncertainty,
            "error_forecast": found.error,
            "error_uncertainty": found.error_uncertainty,
            "seconds_forecast": seconds + time.process_time() - start,
        }
        known.append((forecaster, row))
    measured: list[list[dict[str, float]]] = [[] for _ in cases]
    start = time.process_time()
    for draw in range(forecasts.draws(cases[0])):
        F = task.features(cases[0], forecasts.seed + draw, device)
        for case, (forecaster, _), mine in zip(cases, known, measured, strict=True):
            each = [
                task.measure(F, rows, case.ridge * forecaster.variance[rows].sum())
                for rows in forecaster.subsets
            ]
            mine.append({name: float(np.mean([one[name] for one in each])) for name in each[0]})
    seconds = (time.process_time() - start) / len(cases)
    return [
        attrs.asdict(case) | _means(draws) | row | {"seconds_measured": seconds}
        for case, (_, row), draws in zip(cases, known, measured, strict=True)
    ]


def _means(draws: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over draws and standard deviations, and how many draws there were."""
    found: dict[str, Any] = {}
    for name in draws[0]:
        values = [one[name] for one in draws]
        found |= {name: float(np.mean(values)), f"{name}_spread": float(np.std(values, ddof=1))}
    return found | {"draws": len(draws)}


def compared(record: Record, on: str = "held") -> DataFrame:
    """What a record says of its forecasts, in points of accuracy, a row for each case.

    Parameters
    ----------
    record : Record
    on : {"held", "pool", "test"}
        What was measured: images held out, the pool itself, each image left out in turn, or the
        test set.

    Returns
    -------
    pandas.DataFrame
        The case, then ``forecast``, ``measured``, their difference ``miss``, and its standard
        ``uncertainty``: of the forecast, of the mean over draws, and of a finite number of images.
        On the pool the images are the forecast's own, so that only the second is left.

    Raises
    ------
    ValueError
        If nothing was measured on that.

    Examples
    --------
    >>> import pandas
    >>> row = {"accuracy": 0.9, "accuracy_spread": 0.01, "draws": 4, "width": 100}
    >>> row |= {"accuracy_forecast": 0.91, "accuracy_uncertainty": 0.003}
    >>> settings, found = {"n_test": 100}, {"n_held": 1000}
    >>> compared(Record(pandas.DataFrame([row]), settings, {}, found)).round(2).values.tolist()
    [[100.0, 91.0, 90.0, 1.0, 1.11]]
    """
    sizes = {"held": record.findings["n_held"], "test": record.settings["n_test"], "pool": np.inf}
    size = sizes[one_of("on", on, sizes)]
    name = "accuracy" if on == "held" else f"accuracy_{on}"
    table = record.table
    found = table[[column for column in attrs.fields_dict(Case) if column in table]].copy()
    found["forecast"], found["measured"] = 100 * table["accuracy_forecast"], 100 * table[name]
    found["miss"] = found["forecast"] - found["measured"]
    variance = (
        table[f"{name}_spread"] ** 2 / table["draws"] + table[name] * (1 - table[name]) / size
    )
    variance += (on != "pool") * table["accuracy_uncertainty"] ** 2
    return found.assign(uncertainty=100 * np.sqrt(variance))


_PAPER = Forecasts(n_train=30_000)
_TRAINING = TrainingSettings(
    steps=312, batch_size=256, learning_rate=0.3, weight_decay=5e-4, augment=True,
    schedule="one_cycle", nesterov=True, label_smoothing=0.1, autocast="bfloat16",
    channels_last=True,
)  # fmt: skip
_SMOKE = Forecasts(
    network="vgg_tiny", data="digits", n_train=600, n_pool=300, n_test=400, widths=(40, 100),
    few_widths=(40,), sizes=(150, 300), size=150, ridges=(1e-3, 1e-2), ridge=1e-2, sparsity=0.5,
    activations=("relu",),
)  # fmt: skip
_SMOKE_FEATURES = attrs.evolve(
    _SMOKE, n_extractor=200, training=TrainingSettings(steps=24, batch_size=50)
)
PRESETS = {
    "forecast_mnist": {"paper": _PAPER, "smoke": _SMOKE},
    "forecast_cifar10": {
        "paper": attrs.evolve(
            _PAPER, network="vgg_small", data="cifar10", n_train=50_000, n_extractor=20_000,
            training=_TRAINING,
        ),
        "smoke": _SMOKE_FEATURES,
    },
}  # fmt: skip
"""Of each record, the runs by name. 312 batches of 256 are four epochs of 20,000 images."""
