"""Compressed heads on the features of a trained convolutional network: a run, kept as it goes.

Four stages, each kept in a folder when it is done, and so on the way: the network is trained (its
state after every epoch), it makes features of all images, every case of the comparison of methods
is measured (a row each), and the kernel of some of the features is compared with its equivalent.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .activations import activation
from .checkpoints import claim_folder
from .classifiers import Training, build, evaluate, train
from .datasets import normalize
from .feature_kernels import FeatureKernels, balanced_rows, feature_kernels
from .head_records import HeadsRecord, kernels_from, outcomes_from, plain, table
from .lottery import DATA, Images, load_pair
from .methods import DEPTH, Case, Outcome, Task, cases, compare
from .records import device_name, provenance
from .states import training_seconds
from .storage import NetworkFileError, from_bytes, replace_file, to_bytes
from .validation import positive_integer, seed_number, sparsity_below_one
from .vgg import convolutional_features

_STATE, _FEATURES = "network.safetensors", "features.safetensors"
_OUTCOMES, _KERNELS = "outcomes.csv", "kernels.json"
# Channels of the first stage, where the network is a ResNet.
_WIDTH = 16
Report = Callable[[str], None]


@dataclass(frozen=True)
class Heads:
    """What is trained, and which heads are compared on its features.

    Attributes
    ----------
    network : str
        As :func:`~ntklc_helpers.classifiers.build` knows them; its last layer is left out.
    data : {"mnist", "digits", "cifar10"}
    n_train : int, optional
        Images to train on, drawn with ``seed``, classes balanced; all by default.
    training : classifiers.Training
    widths, levels, sparsity, sparsities, sparsity_width
        As in :func:`~ntklc_helpers.methods.cases`.
    n_seeds : int
        Draws of every random network.
    n_kernel : int
        Training images whose conjugate kernel is compared with its equivalent.
    seed : int
        Of everything that is drawn; heads have the seeds from it on.

    Raises
    ------
    ValueError
        If an argument is not as stated.
    """

    network: str = "vgg19"
    data: str = "cifar10"
    n_train: int | None = None
    training: Training = field(default_factory=Training)
    widths: Sequence[int] = (500, 1000, 2000, 4000, 8000)
    levels: Sequence[int] = (2, 3, 4, 8, 16)
    sparsity: float = 0.9
    sparsities: Sequence[float] = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97)
    sparsity_width: int = 2000
    n_seeds: int = 3
    n_kernel: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data must be one of {', '.join(DATA)}, got {self.data!r}")
        for name in ("widths", "levels", "sparsities"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for width in (*self.widths, self.sparsity_width):
            positive_integer("widths", width)
        for count in self.levels:
            if positive_integer("levels", count) < 2:
                raise ValueError(f"levels must be at least 2, got {count}")
        for share in (self.sparsity, *self.sparsities):
            sparsity_below_one(share)
        positive_integer("n_seeds", self.n_seeds)
        positive_integer("n_kernel", self.n_kernel)
        seed_number(self.seed)

    def plain(self) -> dict[str, Any]:
        """All settings as JSON knows them, and as a record keeps them."""
        return json.loads(json.dumps(asdict(self)))

    def cases(self) -> tuple[Case, ...]:
        """All networks that are compared."""
        seeds = range(self.seed, self.seed + self.n_seeds)
        return cases(
            self.widths, self.levels, self.sparsity, seeds, self.sparsities, self.sparsity_width
        )


def run_heads(
    heads: Heads,
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
    report: Report = lambda line: None,
) -> HeadsRecord:
    """Run all stages, or what is left of them.

    Parameters
    ----------
    heads : Heads
    folder : path
        Where everything is kept. Called again after an interruption, the run goes on after the
        last epoch, or the last case, that was finished.
    device : torch.device or str, optional
        CUDA where there is one, by default.
    progress : bool
        Whether to show progress bars.
    report : callable
        Gets a line of text when a stage begins and when it is done.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings, data, device or version of torch, or
        something else, or a file in it is damaged, or there is no such device.
    DataError
        As the loader of the data does.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(place)!r} was asked for, and there is no CUDA here")
    images = load_pair(heads.data, heads.n_train, heads.seed)
    settings = heads.plain() | {
        "source": images.source,
        "n_images": [len(images.X), len(images.X_test)],
    }
    # Whatever cannot be done is refused before anything is written.
    _built(heads, images)
    balanced_rows(images.y, heads.n_kernel)
    folder = Path(folder)
    here = {"device": device_name(place), "torch": torch.__version__}
    claim_folder(folder, settings | {"sha256": images.digest()} | here)
    report(f"{images.source}, {len(images.X):,} images to train on; {device_name(place)}")
    if images.note:
        report(images.note)
    task, extractor, stages = _features(heads, images, folder, place, progress, report)
    outcomes, stages["methods"] = _compared(heads, task, folder, place, progress, report)
    kernels, stages["kernels"] = _compared_kernels(heads, task, folder, report)
    where = provenance(place, sum(stages.values())) | {
        "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
        "note": images.note,
    }
    return HeadsRecord(outcomes, extractor, kernels, settings, where)


def _features(
    heads: Heads, images: Images, folder: Path, device: torch.device, progress: bool, report: Report
) -> tuple[Task, dict[str, Any], dict[str, float]]:
    """The task on the trained network's features, its accuracy, and the seconds it all took."""
    path = folder / _FEATURES
    if not path.exists():
        report(f"training {heads.network}: {heads.training.steps:,} steps")
        net = _trained(heads, images, folder / _STATE, device, progress)
        start, about = time.perf_counter(), {"training": training_seconds(folder / _STATE)}
        X, X_test = (torch.from_numpy(a) for a in (images.X, images.X_test))
        y_test = torch.from_numpy(images.y_test).to(device)
        accuracy, loss = evaluate(net, X_test.to(device), y_test)
        arrays = {
            "train": convolutional_features(net, X).astype(np.float32),
            "test": convolutional_features(net, X_test).astype(np.float32),
        }
        about |= {"accuracy": 100 * accuracy, "loss": loss}
        about |= {"extraction": time.perf_counter() - start}
        replace_file(path, to_bytes(arrays, about))
    try:
        arrays, about = from_bytes(path.read_bytes())
    except NetworkFileError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to make it anew") from error
    task = Task(
        normalize(arrays["train"]),
        images.y,
        normalize(arrays["test"], arrays["train"]),
        images.y_test,
    )
    extractor = {"accuracy": about["accuracy"], "loss": about["loss"]}
    extractor["features"] = task.X.shape[1]
    stages = {name: about[name] for name in ("training", "extraction")}
    report(
        f"{heads.network}: {extractor['accuracy']:.2f}% after {stages['training']:.0f} s of "
        f"training; {task.X.shape[1]} features an image"
    )
    return task, extractor, stages


def _trained(
    heads: Heads, images: Images, path: Path, device: torch.device, progress: bool
) -> nn.Sequential:
    net = _built(heads, images).to(device)
    X, y = (torch.from_numpy(array).to(device) for array in (images.X, images.y))
    train(net, X, y, heads.training, heads.seed, checkpoint=path, progress=progress)
    return net


def _built(heads: Heads, images: Images) -> nn.Sequential:
    _, channels, height, width = images.X.shape
    n_classes = int(images.y.max()) + 1
    return build(heads.network, (channels, height, width), n_classes, _WIDTH, heads.seed)


def _compared(
    heads: Heads, task: Task, folder: Path, device: torch.device, progress: bool, report: Report
) -> tuple[tuple[Outcome, ...], float]:
    """All outcomes, in order, and the seconds of the networks measured."""
    path, wanted = folder / _OUTCOMES, heads.cases()
    seconds: dict[Case, float] = {}
    found: dict[Case, Outcome] = {}
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")
            found = {outcome.case: outcome for outcome in outcomes_from(text)}
            rows = csv.DictReader(io.StringIO(text))
            seconds = {c: float(row["seconds"]) for c, row in zip(found, rows, strict=True)}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged; delete it to measure anew") from error
    left = [case for case in wanted if case not in found]
    report(f"{len(wanted)} networks to compare, {len(left)} of them left")
    start = time.perf_counter()
    for outcome in compare(task, left, device, progress):
        now = time.perf_counter()
        found[outcome.case], seconds[outcome.case], start = outcome, now - start, now
        replace_file(path, table(found.values(), seconds.values()))
    return tuple(found[case] for case in wanted), sum(seconds.values())


def _compared_kernels(
    heads: Heads, task: Task, folder: Path, report: Report
) -> tuple[dict[str, FeatureKernels], float]:
    path = folder / _KERNELS
    if not path.exists():
        report(f"the kernel of {heads.n_kernel:,} images' features and its equivalent")
        start = time.perf_counter()
        rows = balanced_rows(task.y, heads.n_kernel, heads.seed)
        relus = [activation("relu")] * DEPTH
        found = plain(feature_kernels(normalize(task.X[rows]), task.y[rows], relus))
        seconds = time.perf_counter() - start
        replace_file(path, json.dumps({"kernels": found, "seconds": seconds}).encode())
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return kernels_from(about["kernels"]), float(about["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged; delete it to make it anew") from error
