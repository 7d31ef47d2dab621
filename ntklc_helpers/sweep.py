"""One command for a sweep: ``python -m ntklc_helpers.sweep lenet --output FOLDER``.

Stopped at any time and called again, it goes on after the last level that was finished. Called
with other settings on the same folder it refuses, and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from .classifiers import Training
from .lottery import Sweep, run_sweep
from .records import carry_out

_CIFAR = Training(steps=2_910, batch_size=512, learning_rate=0.2, weight_decay=1e-4, augment=True)
PRESETS = {
    "lenet": Sweep(),
    "resnet20": Sweep(network="resnet_20", data="cifar10", training=_CIFAR),
    "resnet50": Sweep(network="resnet_50", data="cifar10", training=_CIFAR),
}
"""Sweeps by name. 938 batches of 128 are 2 epochs of MNIST; 2,910 of 512 are 30 of CIFAR-10."""

_OPTIONS = {"n_train": int, "levels": int, "replicates": int, "fraction": float, "width": int}
_OPTIONS |= {"seed": int, "data": str, "network": str}
_TRAINING = {"steps": int, "batch_size": int, "learning_rate": float}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m ntklc_helpers.sweep", description=__doc__.partition("\n\n")[0]
    )
    made.add_argument("preset", choices=PRESETS, help="which sweep; what follows changes it")
    made.add_argument("--output", type=Path, required=True, help="folder to keep everything in")
    made.add_argument("--record", help="also write STEM.csv and STEM.json", metavar="STEM")
    made.add_argument("--jobs", type=int, default=1, help="chains at once")
    made.add_argument(
        "--device", choices=["cpu", "cuda"], help="by default CUDA where there is one"
    )
    made.add_argument("--strategies", nargs="+", metavar="STRATEGY")
    for name, kind in (_OPTIONS | _TRAINING).items():
        made.add_argument(f"--{name.replace('_', '-')}", type=kind)
    return made


def chosen_sweep(arguments: argparse.Namespace) -> Sweep:
    """The preset with what was given on the command line in its place."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    preset = PRESETS[arguments.preset]
    training = replace(preset.training, **{k: v for k, v in given.items() if k in _TRAINING})
    own = {f.name for f in fields(Sweep)}
    return replace(preset, training=training, **{k: v for k, v in given.items() if k in own})


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    record, status = carry_out(
        lambda: run_sweep(
            chosen_sweep(options), options.output, n_jobs=options.jobs, device=options.device
        ),
        options.output,
        options.record,
    )
    if record is None:
        return status
    for strategy in record.settings["strategies"]:
        accuracy = record.of(strategy)
        print(f"{strategy}: accuracy {accuracy[0].mean():.2%} dense, ", end="")
        print(f"{accuracy[-1].mean():.2%} with {record.levels[-1].left:.1%} of the weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
