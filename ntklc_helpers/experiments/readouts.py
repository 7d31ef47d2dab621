"""Random networks as readouts on the features of a trained convolutional network, compared.

Four stages, each kept when it is done, and so on the way: the network is trained (its state after
every epoch), it makes features of all images, every case of the comparison of methods is measured,
and the kernel of some of the features is compared with its equivalent.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from attrs import frozen

from .._checks import checked, each, share, whole
from ..compression.train import evaluate
from ..data.images import balanced_rows, normalize
from ..theory.feature_kernels import FeatureKernels, feature_kernels
from .image_nets import TrainingSettings, convolutional_features, train
from .images import Images
from .methods import RELUS, Case, Task, cases, compare
from .records import Record
from .runs import Experiment, Run, begin

__all__ = ["PRESETS", "ReadoutComparison", "kernels_of"]

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class ReadoutComparison(Experiment):
    """Which readouts are compared; network, data and training are told as to every experiment.

    The network's last layer is left out, and the readouts have the seeds from ``seed`` on.

    Attributes
    ----------
    widths, levels, sparsity, sparsities, sparsity_width
        As in :func:`~ntklc_helpers.experiments.methods.cases`.
    n_seeds : int
        Draws of every random network.
    n_kernel : int
        Training images whose conjugate kernel is compared with its equivalent.
    head_widths : three ints
        Of the hidden layers of the published experiment's head, compared beside all others.
    head_sparsity : float
        Of that head.

    Examples
    --------
    >>> len(ReadoutComparison(network="vgg_tiny", data="digits", widths=[30]).cases())
    108
    """

    widths: Sequence[int] = checked(each, (500, 1000, 2000, 4000, 8000), whole)
    levels: Sequence[int] = checked(each, (2, 3, 4, 8, 16), whole, 2)
    sparsity: float = checked(share, 0.9)
    sparsities: Sequence[float] = checked(each, (0.0, 0.5, 0.8, 0.9, 0.95, 0.97), share)
    sparsity_width: int = checked(whole, 2000)
    n_seeds: int = checked(whole, 3)
    n_kernel: int = checked(whole, 2000)
    head_widths: Sequence[int] = checked(each, (400, 400, 200), whole)
    head_sparsity: float = checked(share, 0.95)

    def heads(self) -> tuple[Case, ...]:
        """All methods at the published head's size."""
        seeds = range(self.seed, self.seed + self.n_seeds)
        return cases([self.head_widths], self.levels, self.head_sparsity, seeds)

    def cases(self) -> tuple[Case, ...]:
        """All networks that are compared."""
        seeds, swept = range(self.seed, self.seed + self.n_seeds), self.sparsity_width
        return cases(self.widths, self.levels, self.sparsity, seeds, self.sparsities, swept)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        Experiment.check(self, images)
        balanced_rows(images.y, self.n_kernel)

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Run all stages, or what is left of them where ``folder`` holds a run that was stopped.

        It goes on after the last epoch, or the last case, that was finished. Raises RunError or
        DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file is damaged.

        Returns
        -------
        Record
            A row for each case, as :func:`~ntklc_helpers.experiments.methods.measure` has it.
            ``findings["extractor"]``: ``accuracy`` (in percent) and ``loss`` of the trained
            network on the test images, and its number of ``features``; ``findings["heads"]`` are
            rows of those of the published size, ``findings["kernels"]`` is for :func:`kernels_of`,
            ``provenance["stages"]`` the seconds of each stage.
        """
        with begin(self, folder, device) as run:
            made = run.once("features", lambda: _features(self, run))
            X, X_test = (made[part].double().numpy() for part in ("train", "test"))
            task = Task(normalize(X), run.images.y, normalize(X_test, X), run.images.y_test)
            extractor = {name: made[name] for name in ("accuracy", "loss")}
            extractor["features"] = task.X.shape[1]
            log.info("%s: %s", self.network, extractor)
            rows = _compared(self.cases(), "methods", task, run)
            heads = _compared(self.heads(), "heads", task, run)
            kernels = run.once("kernels", lambda: _kernels(self, task))
            stages = {name: made[name] for name in ("training", "extraction")}
            stages["methods"] = sum(row.pop("seconds") for row in [*rows, *heads])
            # As the record's file has them.
            heads = [row | {"width": list(row["width"])} for row in heads]
            stages["kernels"] = kernels.pop("seconds")
            return run.record(rows, stages, extractor=extractor, heads=heads, kernels=kernels)


def _features(comparison: ReadoutComparison, run: Run) -> dict[str, Any]:
    """Features of all images by the trained network, its accuracy, and the seconds it all took."""
    kept, (X, y, X_test, y_test) = run.read("network"), run.tensors
    net = comparison.build(run.images, comparison.seed).to(run.device)
    log.info("training %s, %s steps", comparison.network, comparison.training.steps)
    start, path = time.perf_counter(), run.path("network")
    train(net, X, y, comparison.training, comparison.seed, checkpoint=path, progress=True)
    trained = time.perf_counter()
    kept = run.read("network") or {"seconds": trained - start}
    accuracy, loss = evaluate(net, X_test, y_test)
    found: dict[str, Any] = {
        name: torch.from_numpy(convolutional_features(net, rows)).float()
        for name, rows in (("train", X), ("test", X_test))
    }
    found |= {"accuracy": 100 * accuracy, "loss": loss, "training": kept["seconds"]}
    return found | {"extraction": time.perf_counter() - trained}


def _compared(wanted: Sequence[Case], stage: str, task: Task, run: Run) -> list[dict[str, Any]]:
    """A row for each case, in order, with the seconds that it took."""
    rows = (run.read(stage) or {"rows": []})["rows"]
    names = ("method", "width", "sparsity", "seed")
    done = [{name: row[name] for name in names} for row in rows]
    left = [case for case in wanted if case.key not in done]
    log.info("%s networks to compare, %s of them left", len(wanted), len(left))
    start = time.perf_counter()
    for row in compare(task, left, run.device):
        now = time.perf_counter()
        rows.append(row | {"seconds": now - start})
        run.write(stage, {"rows": rows})
        start = now
    return rows


def _kernels(comparison: ReadoutComparison, task: Task) -> dict[str, Any]:
    """Both readings of the kernel of some of the rows, as JSON knows them, to seven digits."""

    def short(value: Any) -> Any:
        return [short(v) for v in value] if np.ndim(value) else float(f"{value:.7g}")

    rows = balanced_rows(task.y, comparison.n_kernel, comparison.seed)
    found = feature_kernels(normalize(task.X[rows]), task.y[rows], RELUS)
    return {
        reading: {name: short(getattr(one, name)) for name in FeatureKernels.__annotations__}
        for reading, one in found.items()
    }


def kernels_of(record: Record) -> dict[str, FeatureKernels]:
    """The kernels of a comparison's record, by reading: with the classes, and as one class.

    Returns
    -------
    dict of str to FeatureKernels

    Examples
    --------
    >>> kernels_of(Record(None, {}, {}, {"kernels": {}}))
    {}
    """

    def entry(value: Any) -> Any:
        return np.array(value) if isinstance(value, list) else value

    return {
        reading: FeatureKernels(**{name: entry(value) for name, value in about.items()})
        for reading, about in record.findings["kernels"].items()
    }


_FAST = TrainingSettings(
    steps=5_820, batch_size=512, learning_rate=0.2, weight_decay=5e-4, augment=True,
    schedule="one_cycle", nesterov=True, label_smoothing=0.1, autocast="bfloat16",
    channels_last=True,
)  # fmt: skip
_SLOW = attrs.evolve(_FAST, steps=3_120, batch_size=256, learning_rate=0.1)
_VGG19 = ReadoutComparison(network="vgg19", data="cifar10", training=_FAST)
_TWO_CORES = attrs.evolve(_VGG19, training=_SLOW, widths=(500, 1000, 2000), sparsity_width=1000)
_RESIDUAL = attrs.evolve(
    _TWO_CORES, network="residual_wide",
    training=attrs.evolve(_SLOW, steps=9_360, batch_size=128, warm_up=0.2),
)  # fmt: skip
_SMOKE = ReadoutComparison(
    network="vgg_tiny", data="digits", n_train=600, widths=(30, 60), levels=(2, 16),
    sparsities=(0.5,), sparsity_width=60, n_seeds=2, n_kernel=100, head_widths=(30, 30, 15),
    training=TrainingSettings(steps=120, batch_size=50, schedule="one_cycle", nesterov=True),
)  # fmt: skip
PRESETS = {
    "cifar10_vgg19": {"paper": _VGG19, "two-cores": _TWO_CORES, "smoke": _SMOKE},
    "cifar10_residual": {"paper": _RESIDUAL, "smoke": _SMOKE},
}
"""Of each record, the comparisons by name. 5,820 batches of 512 are 60 epochs of CIFAR-10, 3,120 of
256 are 16: an hour and a half on two cores that multiply in bfloat16, the readouts aside. 9,360 of
128 are 24, of a network that takes an hour and a quarter for them."""
