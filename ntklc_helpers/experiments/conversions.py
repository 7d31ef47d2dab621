"""Trained networks on few codes and levels, not trained again: what that costs in accuracy.

A network is trained as it is, then compressed for some of the images that it was trained on, with
each number of bits and levels. Nothing is chosen, so that no image is held out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import nn

from .._checks import checked, whole
from ..compression.convert import compress
from ..compression.rounding import Bits
from ..compression.train import outputs
from ..data.images import balanced_rows
from .convolutions import Fits, rows_of
from .image_nets import TrainingSettings, train
from .records import Record
from .runs import Experiment, Run, begin

__all__ = ["AS_TRAINED", "PRESETS", "SCHEMES", "Conversions"]

AS_TRAINED = "as trained"
"""The network itself, in float32."""
_BITS: tuple[Bits, ...] = ("ternary", 2, 3, 4, 8)
SCHEMES: dict[str, tuple[Bits, int]] = {
    f"{bits if bits == 'ternary' else f'{bits} bits'}, {levels} levels": (bits, levels)
    for bits in _BITS
    for levels in (4, 16)
}
"""Bits of the weights and levels of the activations by name. The last layer has 8 bits."""


@frozen(kw_only=True)
class Conversions(Experiment):
    """What is trained, and compressed.

    Attributes
    ----------
    n_samples : int
        Training images that a network is compressed for, classes balanced.
    n_draws : int

    Examples
    --------
    >>> Conversions(data="digits").network
    'lenet_300_100'
    """

    n_samples: int = checked(whole, 5000)
    n_draws: int = checked(whole, 5)

    def run(
        self, folder: str | os.PathLike | None = None, *, device: torch.device | str | None = None
    ) -> Record:
        """Train and compress, or what is left where ``folder`` holds a run that was stopped.

        Raises RunError or DataError as :func:`~ntklc_helpers.experiments.runs.begin`, or if a file
        is damaged.

        Returns
        -------
        Record
            A row for each scheme and seed: ``accuracy``, and ``agreement`` with the network as
            trained, in percent of the test images, and ``bytes`` of the file.
        """
        with begin(self, folder, device) as run:
            rows, seconds = rows_of(run, "fit", self._fits(run))
            return run.record(rows, {"fits": seconds})

    def _fits(self, run: Run) -> Fits:
        for seed in range(self.seed, self.seed + self.n_draws):
            net = self.build(run.images, seed).to(run.device)
            kept = run.once(f"network-{seed}", partial(self._trained, run, net, seed))
            net.load_state_dict(kept["weights"])
            yield from self._of(run, net.cpu(), seed)

    def _trained(self, run: Run, net: nn.Module, seed: int) -> dict[str, Any]:
        X, y, _, _ = run.tensors
        return {"weights": train(net, X, y, self.training, seed).state_dict()}

    def _of(self, run: Run, net: nn.Module, seed: int) -> Iterator[Any]:
        images = run.images
        some = balanced_rows(images.y, min(self.n_samples, len(images.y)), seed)
        own = outputs(net, torch.from_numpy(images.X_test)).argmax(dim=1).numpy()

        def scored(found: Any, size: int) -> dict[str, Any]:
            right, same = np.mean(found == images.y_test), np.mean(found == own)
            return {"accuracy": 100 * float(right), "agreement": 100 * float(same), "bytes": size}

        def compressed(bits: Bits, levels: int) -> dict[str, Any]:
            small = compress(net, images.X[some], levels=levels, bits=bits, seed=seed)
            return scored(small.predict(images.X_test), small.memory().packed_file)

        size = 4 * sum(values.numel() for values in net.parameters())
        yield AS_TRAINED, seed, partial(scored, own, size)
        for name, scheme in SCHEMES.items():
            yield name, seed, partial(compressed, *scheme)


_TRAINING = TrainingSettings(steps=10 * 468, schedule="one_cycle", nesterov=True)

PRESETS = {
    "paper": Conversions(data="mnist", training=_TRAINING),
    "smoke": Conversions(
        data="digits", n_train=600, n_samples=600, n_draws=2,
        training=evolve(_TRAINING, steps=100, batch_size=64),
    ),
}  # fmt: skip
"""The studies by name."""
