"""Filters on whitened patches, random and learned without labels, and a network trained as a whole.

Images become patches of one contrast, whitened; filters see one patch each, what comes out is
normalised, so that every activation sees τ = 1 everywhere, and is averaged over 3 × 3 regions. Only
a ridge readout is trained. Beside random filters, dense and ternary, are what a practitioner would
take: k-means on the same patches (Coates, Ng and Lee, 2011), and a small network that is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from numpy.typing import NDArray

from .._checks import FloatArray, checked, inside, whole
from ..compression.readout import fit_readout
from ..compression.train import outputs
from ..data.patches import WhitenedPatches
from ..matching.match import Objective, match
from ..theory.activations import AnyActivation, activation
from ..theory.conv_layers import AveragePool, Conv, Flatten, Normalize
from ..theory.conv_networks import RandomCNN
from ..theory.weights import Gaussian, Ternary
from .convolutions import Fits, rows_of, standardised_pair
from .image_nets import TrainingSettings, train
from .images import SHAPES, Images
from .records import Record
from .runs import Experiment, begin

__all__ = ["KMEANS", "PRESETS", "SCHEMES", "TRAINED", "Patches"]

# Whether the filters are ternary, and the objective of the staircase, if it is one.
SCHEMES: dict[str, tuple[bool, Objective | None]] = {
    "dense, ReLU": (False, None),
    "ternary, ReLU": (True, None),
    "ternary, matched": (True, "exact"),
    "ternary, Lloyd–Max": (True, "lloyd-max"),
}
"""Kinds of random filters by name."""
KMEANS, TRAINED = "k-means filters", "trained network"
"""What stands beside them: filters from the patches, and a network trained as a whole."""
_REGIONS = 3
# Images whose patches are held at once, and those that pass a network at once, which a cache holds.
_HELD, _BATCH = 100, 4
# Images whose patches are whitened by, and patches that k-means sees.
_FITTED, _CLUSTERED = 1000, 50_000


@frozen(kw_only=True)
class Patches(Experiment):
    """What is compared; ``network``, ``width`` and ``training`` are of what is trained as a whole.

    Attributes
    ----------
    n_test : int
        Test images, classes balanced; all if there are no more.
    size : int
        Side of a patch. Their number on each side of an image must be a multiple of 3.
    channels : int
        Filters. The readout sees 9 features for each.
    levels : int
        Of every staircase.
    sparsity : float
        Of ternary filters.
    n_draws : int

    Examples
    --------
    >>> Patches(data="digits", n_train=500, size=3, network="vgg_tiny").channels
    512
    """

    n_test: int = checked(whole, 10_000)
    size: int = checked(whole, 6)
    channels: int = checked(whole, 512)
    levels: int = checked(whole, 16, 2, 256)
    sparsity: float = checked(inside, 0.9)
    n_draws: int = checked(whole, 3)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.layers(SHAPES[self.data][1], "relu")

    def layers(self, side: int, activation: AnyActivation | str) -> list[Any]:
        """The network on patches of images of this side."""
        across = side - self.size + 1
        if across < _REGIONS or across % _REGIONS:
            raise ValueError(
                f"size must leave a multiple of {_REGIONS} patches on a side of {side}, "
                f"got {self.size}"
            )
        return [Conv(1), Normalize(), activation, AveragePool(across // _REGIONS), Flatten()]

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Fit all, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each scheme and seed: ``accuracy`` in percent of the test images, a number of
            ``features``.
        """
        with begin(self, folder, device) as run:
            task = _Task.of(self, run.images, run.device)
            rows, seconds = rows_of(run, "fit", self._fits(task))
            return run.record(rows, {"fits": seconds})

    def _fits(self, task: _Task) -> Fits:
        """Scheme, seed, and what tells how well it does."""
        seeds = range(self.seed, self.seed + self.n_draws)
        for scheme, (ternary, objective) in SCHEMES.items():
            steps: AnyActivation = activation("relu")
            if objective is not None:
                steps = match([steps], 1.0, self.levels, objective).activations[0]
            for seed in seeds:
                yield scheme, seed, partial(task.random, steps, ternary, seed)
        for name, fit in ((KMEANS, task.clustered), (TRAINED, task.trained)):
            for seed in seeds:
                yield name, seed, partial(fit, seed)


@frozen(eq=False)
class _Task:
    """Standardised images (n, h, w, c) and labels, and their patches."""

    study: Patches
    images: Images
    X: FloatArray
    y: NDArray
    X_test: FloatArray
    y_test: NDArray
    patches: WhitenedPatches
    device: torch.device

    @classmethod
    def of(cls, study: Patches, images: Images, device: torch.device) -> _Task:
        X, y, X_test, y_test = standardised_pair(images, study.n_test, study.seed)
        patches = WhitenedPatches.fit(X[:_FITTED], study.size)
        return cls(study, images, X, y, X_test, y_test, patches, device)

    def random(self, steps: AnyActivation, ternary: bool, seed: int) -> dict[str, Any]:
        """Of random filters and an activation."""
        study, side = self.study, self.X.shape[1] - self.study.size + 1
        net = RandomCNN(
            (side, side, len(self.patches.mean)), study.layers(self.X.shape[1], steps),
            [study.channels], Ternary(study.sparsity) if ternary else Gaussian(),
            seed=seed, scales=[1.0], device=self.device,
        )  # fmt: skip
        return self._read(lambda patches: net.features(patches, _BATCH).cpu())

    def clustered(self, seed: int) -> dict[str, Any]:
        """Of centres of k-means, by batches of some of the patches, from one start.

        Features are max(0, mean distance − distance), Coates and Ng's triangle.
        """
        from sklearn.cluster import MiniBatchKMeans

        rng = np.random.default_rng(seed)
        per_image = -(-_CLUSTERED // len(self.X))
        seen = np.concatenate(
            [
                rows[rng.choice(len(rows), min(per_image, len(rows)), replace=False)]
                for part in self._parts(self.X)
                for rows in self.patches(part).reshape(len(part), -1, len(self.patches.mean))
            ]
        )
        means = MiniBatchKMeans(
            min(self.study.channels, len(seen)), random_state=seed, batch_size=4096, n_init=1
        )
        centres = torch.from_numpy(means.fit(seen).cluster_centers_)
        pool = self.study.layers(self.X.shape[1], "relu")[3].size

        def features(patches: FloatArray) -> torch.Tensor:
            rows = torch.from_numpy(patches)
            distances = torch.cdist(rows.flatten(0, 2), centres).reshape(*rows.shape[:3], -1)
            near = (distances.mean(dim=-1, keepdim=True) - distances).clamp_min(0)
            return torch.nn.functional.avg_pool2d(near.permute(0, 3, 1, 2), pool).flatten(1).float()

        return self._read(features)

    def trained(self, seed: int) -> dict[str, Any]:
        """Of the network trained as a whole."""
        X, X_test = (
            torch.tensor(part.transpose(0, 3, 1, 2), dtype=torch.float32, device=self.device)
            for part in (self.X, self.X_test)
        )
        net = self.study.build(self.images, seed).to(self.device)
        train(net, X, torch.from_numpy(self.y).to(self.device), self.study.training, seed)
        found = outputs(net, X_test).argmax(dim=1).cpu().numpy()
        last = [one for one in net.modules() if isinstance(one, torch.nn.Linear)][-1]
        return {
            "accuracy": 100 * float(np.mean(found == self.y_test)),
            "features": last.in_features,
        }

    def _read(self, features: Callable[[FloatArray], torch.Tensor]) -> dict[str, Any]:
        """Accuracy of a ridge readout on features of patches."""
        F, F_test = (
            torch.cat([features(self.patches(part)) for part in self._parts(X)]).numpy()
            for X in (self.X, self.X_test)
        )
        readout = fit_readout(F, self.y, seed=self.study.seed)
        right = float(np.mean(readout.predict(F_test) == self.y_test))
        return {"accuracy": 100 * right, "features": F.shape[1]}

    @staticmethod
    def _parts(X: FloatArray) -> Iterator[FloatArray]:
        return (X[start : start + _HELD] for start in range(0, len(X), _HELD))


_TRAINING = TrainingSettings(
    steps=20 * 78, augment=True, schedule="one_cycle", nesterov=True, weight_decay=5e-4
)

_SMOKE = Patches(
    data="digits", n_train=600, size=3, channels=32, n_draws=2, network="vgg_tiny",
    training=evolve(_TRAINING, steps=40, batch_size=64, augment=False),
)  # fmt: skip

PRESETS = {
    "patches": {
        "paper": Patches(
            data="cifar10", n_train=10_000, network="vgg_small", training=_TRAINING
        ),
        "cpu": Patches(
            data="cifar10", n_train=2000, n_test=2000, channels=128, network="vgg_small",
            training=evolve(_TRAINING, steps=20 * 15),
        ),
        "smoke": _SMOKE,
    },
    "patches_mnist": {
        "paper": Patches(
            data="mnist", n_train=10_000, size=5, channels=128, network="resnet_8",
            training=evolve(_TRAINING, steps=10 * 78, augment=False),
        ),
        "smoke": _SMOKE,
    },
}  # fmt: skip
"""Of each record, the studies by name."""
