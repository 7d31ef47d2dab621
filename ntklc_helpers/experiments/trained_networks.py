"""Small networks trained to be small: what accuracy a whole file of so many bytes has.

A network is trained on the codes and levels of its file, or in float32 and rounded afterwards,
which is what one would do instead. Images that training does not see are there to choose by; test
images are classified by what the file holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import prune

from .._checks import checked, whole
from ..compression.convert import compress
from ..compression.pruning import prunable_layers, prune_globally
from ..compression.qat import prepare_qat
from ..compression.rounding import Bits
from ..compression.train import outputs
from ..data.images import balanced_rows
from .convolutions import Fits, rows_of
from .image_nets import PLANS, TrainingSettings, drawn, train, vgg
from .images import Images
from .records import Record
from .runs import Run, Study, begin

__all__ = ["NETWORKS", "PRESETS", "Small", "TrainedNetworks"]

# Training images by which weights of a network in float32 are rounded.
_CALIBRATION = 2000


@frozen(kw_only=True)
class Small:
    """A network, what its file holds, and how it is trained.

    Attributes
    ----------
    plan : tuple
        As for :func:`~ntklc_helpers.experiments.image_nets.vgg`.
    bits : "ternary", 2, 3, 4, 8 or None
        Of all weights but the first and last layers', which have bits of their own. None: trained
        in float32, and kept so, or rounded to 8 or 4 bits and 16 levels afterwards.
    first, last : bits
    levels, input_levels : int
        Of activations and pixels.
    sparsity : float
        The share of zeros among ternary weights.
    epochs, batch_size, learning_rate, weight_decay, augment, label_smoothing
        As in :class:`~ntklc_helpers.experiments.image_nets.TrainingSettings`.
    teacher : str, optional
        The name of a network, trained before with the same seed, whose scores this one learns.
    pruned : float
        The share of weights, those of least size, that are cut off after training; what is left is
        trained for a third of the epochs more, from a third of the rate.

    Examples
    --------
    >>> Small(plan=(8, "M", 16, "G"), epochs=1).widths
    (8, 'ternary', 8)
    """

    plan: tuple[int | str, ...]
    bits: Bits | None = "ternary"
    first: Bits = 8
    last: Bits = 8
    levels: int = 16
    input_levels: int = 256
    sparsity: float = 0.5
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    augment: bool | str = "affine"
    label_smoothing: float = 0.0
    teacher: str | None = None
    pruned: float = 0.0

    @property
    def widths(self) -> tuple[Bits | None, ...]:
        """Bits of each layer's weights."""
        inner = sum(2 if entry == "R" else isinstance(entry, int) for entry in self.plan) - 1
        return (self.first, *(self.bits,) * inner, self.last)

    def training(self, n: int) -> TrainingSettings:
        """On so many images."""
        return TrainingSettings(
            steps=self.epochs * (n // self.batch_size), batch_size=self.batch_size,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            augment=self.augment, schedule="one_cycle", warm_up=0.2, nesterov=True,
            autocast="bfloat16", channels_last=True, label_smoothing=self.label_smoothing,
        )  # fmt: skip


def _digits(**settings: Any) -> Small:
    """For small black and white images, whose pixels need few levels."""
    usual = {"first": 4, "last": 4, "input_levels": 16, "weight_decay": 2e-4, "epochs": 16}
    return Small(**(usual | settings))


def _connected(**settings: Any) -> Small:
    return _digits(**({"epochs": 60, "batch_size": 256, "weight_decay": 2e-5} | settings))


# fmt: off
NETWORKS: Mapping[str, Small] = {
    "ternary convolutions, 1.5 kB": _digits(plan=("D", 8, 14, "M", 24, "G"), sparsity=0.7),
    "ternary convolutions, 2.5 kB": _digits(plan=("D", 10, 20, "M", 42, "G"), sparsity=0.72),
    "small convolutions": _digits(plan=("D", 6, 12, "M", 20, "G"), bits=None),
    "convolutions": _digits(plan=("D", 10, 20, "M", 42, "G"), bits=None),
    "fully connected, 9 kB": _connected(
        plan=("F", 80, 64, 64), first="ternary", bits=2, sparsity=0.9, teacher="convolutions"
    ),
    "fully connected, 12 kB": _connected(
        plan=("F", 112, 80, 64), first="ternary", bits=2, sparsity=0.9, epochs=100,
        teacher="convolutions",
    ),
    "784-16-10": _connected(plan=("F", 16), bits=None, epochs=30),
    "784-64-10": _connected(plan=("F", 64), bits=None, epochs=30),
    "pruned small convolutions": _digits(plan=("D", 10, 20, "M", 42, "G"), bits=None, pruned=0.6),
    "pruned convolutions": _digits(plan=("D", 16, 32, "M", 64, "G"), bits=None, pruned=0.8),
    "pruned 784-300-100-10": _connected(plan=("F", 300, 100), bits=None, epochs=30, pruned=0.92),
    "residual, 70 kB": Small(
        plan=(24, 48, "M", "R", 80, "M", 112, "M", "R", "G"),
        sparsity=0.65, epochs=36, augment=True, label_smoothing=0.1,
    ),
    "residual, 150 kB": Small(
        plan=(24, 48, "M", "R", 96, "M", 184, "M", "R", "G"),
        sparsity=0.65, epochs=48, augment=True, teacher="residual",
    ),
    "residual": Small(plan=PLANS["residual"], bits=None, epochs=24, augment=True),
    "tiny": Small(plan=(8, "M", 16, "G"), epochs=3, batch_size=64, augment=False),
    "tiny, float32": Small(
        plan=(8, "M", 16, "G"), bits=None, epochs=3, batch_size=64, augment=False
    ),
    "tiny, pruned": Small(
        plan=(8, "M", 16, "G"), bits=None, epochs=3, batch_size=64, augment=False, pruned=0.8
    ),
    "tiny, taught": Small(
        plan=(8, "M", 16, "G"), epochs=3, batch_size=64, augment=False, teacher="tiny, float32"
    ),
}
# fmt: on
"""By name."""


def _known(argument: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if unknown := [name for name in names if name not in NETWORKS]:
        raise ValueError(f"{argument} must be among {', '.join(NETWORKS)}, got {unknown[0]!r}")
    return names


@frozen(kw_only=True)
class TrainedNetworks(Study):
    """What is trained; the data are told as to every study.

    Attributes
    ----------
    networks : tuple of str
        Of :data:`NETWORKS`.
    n_validation : int
        Training images held out, classes balanced: the same for all seeds.
    n_draws : int

    Examples
    --------
    >>> TrainedNetworks(data="digits", networks="tiny").networks
    ('tiny',)
    """

    networks: tuple[str, ...] = checked(_known, ())
    n_validation: int = checked(whole, 5000)
    n_draws: int = checked(whole, 3)

    def plain(self) -> dict[str, Any]:
        """All settings, those of the networks among them, without extras that are not used."""

        def used(field: Any, value: Any) -> bool:
            return bool(value) or field.name not in ("label_smoothing", "teacher", "pruned")

        names = dict.fromkeys(
            name for own in self.networks for name in (own, NETWORKS[own].teacher) if name
        )
        specified = {name: attrs.asdict(NETWORKS[name], filter=used) for name in names}
        return super().plain() | {"specified": json.loads(json.dumps(specified))}

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        most = max((NETWORKS[name].batch_size for name in self.networks), default=1)
        if self.n_validation + most > len(images.y):
            raise ValueError(f"n_validation must leave a batch of the {len(images.y)} images")
        with torch.device("meta"):
            for name in self.networks:
                vgg(NETWORKS[name].plan, *images.kind)

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Train all networks, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each file and seed: ``accuracy`` on the test images and ``validation``, in
            percent, ``bytes`` of the file, and ``epochs`` of the training.
        """
        with begin(self, folder, device) as run:
            spent: dict[str, float] = {}
            rows, seconds = rows_of(run, "file", self._files(run, spent))
            return run.record(rows, {"files": seconds, "training": sum(spent.values())})

    def _files(self, run: Run, spent: dict[str, float]) -> Fits:
        """Scheme, seed, and what makes a file; each training's seconds come into ``spent``."""
        images = run.images
        held = balanced_rows(images.y, self.n_validation, self.seed)
        kept = np.setdiff1d(np.arange(len(images.y)), held)
        for name in self.networks:
            for seed in range(self.seed, self.seed + self.n_draws):
                net = self._trained(run, name, kept, seed, spent)
                yield from self._of(run, name, seed, net, kept, held)

    def _trained(
        self, run: Run, name: str, kept: NDArray, seed: int, spent: dict[str, float]
    ) -> nn.Module:
        """The network, evaluating, on the CPU; its teacher is trained before it."""
        small = NETWORKS[name]
        teacher = small.teacher and self._trained(run, small.teacher, kept, seed, spent)
        stage = _plainly(f"{name}-{seed}")
        net = _network(small, run.images, kept, seed)
        made = partial(_fit, run, small, net, kept, seed, stage, teacher or None)
        trained = run.once(f"weights-{stage}", made, f"training-{stage}", f"pruned-{stage}")
        net.load_state_dict(trained["weights"])
        spent[stage] = trained["seconds"]
        return net.cpu().eval()

    def _of(
        self, run: Run, name: str, seed: int, net: nn.Module, kept: NDArray, held: NDArray
    ) -> Iterator[Any]:
        """The files that a trained network becomes, written into the run's folder if it has one."""
        images = run.images
        some = images.X[kept[:: max(1, len(kept) // _CALIBRATION)]]

        def scored(small: Any, size: int) -> dict[str, Any]:
            def right(X: Any, y: Any) -> float:
                return 100 * float(
                    np.mean(outputs(small, torch.from_numpy(X)).argmax(1).numpy() == y)
                )

            found = {"accuracy": right(images.X_test, images.y_test)}
            found["validation"] = right(images.X[held], images.y[held])
            return found | {"bytes": size, "epochs": NETWORKS[name].epochs}

        def file(scheme: str, **options: Any) -> dict[str, Any]:
            small = compress(net, some, **options)
            if run.folder is not None:
                small.save(run.folder / f"{_plainly(f'{scheme}-{seed}')}.safetensors")
            return scored(small, len(small.to_bytes()))

        if NETWORKS[name].bits is not None:
            yield name, seed, partial(file, name)
            return
        if not NETWORKS[name].pruned:
            size = 4 * sum(values.numel() for values in net.parameters())
            yield name, seed, partial(scored, net, size)
        for bits in (8, 4):
            scheme = f"{name}, rounded to {bits} bits"
            yield scheme, seed, partial(file, scheme, bits=bits, levels=16, seed=seed)


def _plainly(name: str) -> str:
    """As a file can be called."""
    return name.replace(",", "").replace(" ", "-")


def _network(small: Small, images: Images, kept: Any, seed: int) -> nn.Module:
    with torch.device("meta"):
        net = vgg(small.plan, *images.kind)
    net = drawn(net, seed)
    if small.bits is None:
        return net
    some: Any = images.X[kept[:: max(1, len(kept) // 512)]]
    widths: Any = small.widths
    return prepare_qat(
        net, some, levels=small.levels, bits=widths, sparsity=small.sparsity,
        input_levels=small.input_levels,
    )  # fmt: skip


def _fit(
    run: Run,
    small: Small,
    net: nn.Module,
    kept: NDArray,
    seed: int,
    stage: str,
    teacher: nn.Module | None,
) -> dict[str, Any]:
    X, y, _, _ = run.tensors
    rows = torch.from_numpy(kept).to(run.device)
    X, y, about = X[rows], y[rows], small.training(len(kept))
    teacher = None if teacher is None else teacher.to(run.device)
    options: dict[str, Any] = {"teacher": teacher, "progress": True}
    train(
        net.to(run.device), X, y, about, seed, checkpoint=run.path(f"training-{stage}"), **options
    )
    if small.pruned:
        prune_globally(net, small.pruned, "magnitude")
        on = attrs.evolve(about, steps=about.steps // 3, learning_rate=about.learning_rate / 3)
        train(net, X, y, on, seed + 1, checkpoint=run.path(f"pruned-{stage}"), **options)
        for layer in prunable_layers(net).values():
            prune.remove(layer, "weight")
    return {"weights": {name: value.cpu() for name, value in net.state_dict().items()}}


_SMOKE = TrainedNetworks(
    data="digits",
    n_train=600,
    networks=("tiny", "tiny, float32", "tiny, pruned", "tiny, taught"),
    n_validation=200,
    n_draws=2,
)
_CIFAR = TrainedNetworks(data="cifar10", n_validation=2500, n_draws=1)
PRESETS = {
    "trained_cifar10_70kb": {
        "paper": attrs.evolve(_CIFAR, networks=("residual, 70 kB",)),
        "smoke": _SMOKE,
    },
    "trained_cifar10_150kb": {
        "paper": attrs.evolve(_CIFAR, networks=("residual, 150 kB",)),
        "smoke": _SMOKE,
    },
    "trained_mnist_conv": {
        "paper": TrainedNetworks(data="mnist", networks=tuple(NETWORKS)[:4]),
        "smoke": _SMOKE,
    },
    "trained_mnist_connected": {
        "paper": TrainedNetworks(data="mnist", networks=tuple(NETWORKS)[4:8]),
        "smoke": _SMOKE,
    },
    "trained_mnist_pruned": {
        "paper": TrainedNetworks(data="mnist", networks=tuple(NETWORKS)[8:11]),
        "smoke": _SMOKE,
    },
}  # fmt: skip
"""By name of a record, its studies by name."""
