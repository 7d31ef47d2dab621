"""One command for the records of a chapter: ``python -m ntklc_helpers.gpu_record CHAPTER``.

Stopped at any time and called again, it goes on from what it kept in the output folder. Called
with other settings on the same folder it refuses, and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from . import sweep
from .classifiers import Training
from .heads import Heads, HeadsRecord, run_heads
from .records import carry_out

_SMOKE = Training(steps=120, batch_size=50, learning_rate=0.1, schedule="one_cycle", nesterov=True)
_FAST = Training(
    steps=5_820,
    batch_size=512,
    learning_rate=0.2,
    weight_decay=5e-4,
    augment=True,
    schedule="one_cycle",
    nesterov=True,
    label_smoothing=0.1,
    autocast="bfloat16",
    channels_last=True,
)
PRESETS = {
    "published": Heads(training=_FAST),
    "two-cores": Heads(
        training=replace(_FAST, steps=3_120, batch_size=256, learning_rate=0.1),
        widths=(500, 1000, 2000),
        sparsity_width=1000,
    ),
    "smoke": Heads(
        network="vgg_tiny",
        data="digits",
        n_train=600,
        training=_SMOKE,
        widths=(30, 60),
        levels=(2, 16),
        sparsities=(0.5,),
        sparsity_width=60,
        n_seeds=2,
        n_kernel=100,
    ),
}
"""Runs of chapter 12 by name. 5,820 batches of 512 are 60 epochs of CIFAR-10, and 3,120 of 256 are
16: an hour and a half on two cores that multiply in bfloat16, heads aside."""

_OPTIONS = {"network": str, "data": str, "n_train": int, "sparsity": float, "sparsity_width": int}
_OPTIONS |= {"n_seeds": int, "n_kernel": int, "seed": int}
_LISTS = {"widths": int, "levels": int, "sparsities": float}
_TRAINING = {"steps": int, "batch_size": int, "learning_rate": float}


def heads_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m ntklc_helpers.gpu_record 12_cifar10")
    made.add_argument("--preset", choices=PRESETS, default="published")
    made.add_argument("--output", type=Path, required=True)
    made.add_argument("--record", required=True)
    made.add_argument("--device", choices=["cpu", "cuda"])
    made.add_argument("--compile", action="store_true", default=None)
    for name, kind in (_OPTIONS | _TRAINING).items():
        made.add_argument(f"--{name.replace('_', '-')}", type=kind)
    for name, kind in _LISTS.items():
        made.add_argument(f"--{name}", type=kind, nargs="+")
    return made


def chosen_heads(options: argparse.Namespace) -> Heads:
    """The preset with what was given on the command line in its place."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    preset = PRESETS[options.preset]
    of_training = {f.name for f in fields(Training)}
    training = replace(preset.training, **{k: v for k, v in given.items() if k in of_training})
    own = {f.name for f in fields(Heads)}
    return replace(preset, training=training, **{k: v for k, v in given.items() if k in own})


def preset_of(settings: Mapping[str, Any]) -> str | None:
    """The name of the preset that a record's settings are of; None for others."""
    for name, heads in PRESETS.items():
        if heads.plain().items() <= settings.items():
            return name
    return None


def heads_main(arguments: Sequence[str]) -> int:
    """Train, compare and write the record of chapter 12."""
    options = heads_parser().parse_args(arguments)
    begun = time.perf_counter()

    def report(line: str) -> None:
        print(f"[{time.perf_counter() - begun:6.0f} s] {line}", flush=True)

    record, status = carry_out(
        lambda: run_heads(
            chosen_heads(options), options.output, device=options.device, report=report
        ),
        options.output,
        options.record,
    )
    if record is None:
        return status
    report(f"wrote {options.record}.csv and {options.record}.json")
    _summary(record)
    return 0


def _summary(record: HeadsRecord) -> None:
    """Mean accuracy of every method at the largest width."""
    width, sparsity = max(record.settings["widths"]), record.settings["sparsity"]
    network, accuracy = record.settings["network"], record.extractor["accuracy"]
    print(f"{network} itself {accuracy:.2f}%; heads of width {width}:")
    for method in dict.fromkeys(outcome.method for outcome in record.outcomes):
        zeros = 0.0 if method == "dense" else sparsity
        found = [
            outcome.accuracy
            for outcome in record.outcomes
            if (outcome.method, outcome.width, outcome.zeros) == (method, width, zeros)
        ]
        print(f"  {method}: {sum(found) / len(found):.2f}%, {len(found)} draws")
    for reading, kernel in record.kernels.items():
        print(f"equivalent of their conjugate kernel, {reading}: off by {kernel.error:.0%}")


Run = Callable[[Sequence[str]], int]
RECORDS: dict[str, dict[str, tuple[Run, tuple[str, ...]]]] = {
    "12_cifar10": {"cifar10_vgg19": (heads_main, ())},
    "14_random_pruning": {
        "pruning_resnet20": (sweep.main, ("resnet20",)),
        "pruning_resnet50": (sweep.main, ("resnet50",)),
    },
}
"""Of each chapter, the records it shows and what makes them."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m ntklc_helpers.gpu_record",
        description=__doc__.partition("\n\n")[0],
        epilog="What else is given changes settings, such as --steps 4000 or --device cpu.",
    )
    made.add_argument("chapter", choices=RECORDS, help="whose records to make")
    made.add_argument("--output", type=Path, required=True, help="folder to keep everything in")
    made.add_argument("--results", type=Path, required=True, help="folder for CSV and JSON")
    made.add_argument("--only", help="one of the chapter's records, by its name")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options, others = parser().parse_known_args(arguments)
    records = RECORDS[options.chapter]
    if options.only not in (None, *records):
        print(f"--only must be one of {', '.join(records)}, got {options.only!r}", file=sys.stderr)
        return 2
    for name, (run, first) in records.items():
        if options.only not in (None, name):
            continue
        print(f"{name}:", flush=True)
        folders = ["--output", str(options.output / name), "--record", str(options.results / name)]
        status = run([*first, *folders, *others])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
