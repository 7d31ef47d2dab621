"""Records of sweeps: a CSV of the numbers, and a JSON of how they came about."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .storage import replace_file

FloatArray = NDArray[np.float64]


class Writable(Protocol):
    """A record that can be put on disk."""

    def write(self, stem: str | os.PathLike) -> None: ...


Made = TypeVar("Made", bound=Writable)
Kept = TypeVar("Kept")

COLUMNS = ("strategy", "replicate", "level", "left", "accuracy", "loss", "seconds")
_LAYER = "left:"


@dataclass(frozen=True)
class Level:
    """One training: what was pruned before it, and what came of it.

    Attributes
    ----------
    strategy : str
    replicate, level : int
        Level 0 is the dense network.
    left : float
        Share of the prunable weights that are left.
    accuracy, loss : float
        On the test set: share classified correctly, and mean cross-entropy in nats.
    seconds : float
        Wall time of the level.
    layers : dict of str to float
        Share that is left, by layer.
    """

    strategy: str
    replicate: int
    level: int
    left: float
    accuracy: float
    loss: float
    seconds: float
    layers: dict[str, float]


@dataclass(frozen=True)
class Record:
    """The levels of a sweep, the settings that made it and where it ran."""

    levels: tuple[Level, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def of(self, strategy: str, quantity: str = "accuracy") -> FloatArray:
        """A quantity of a strategy, (levels + 1, replicates).

        Raises
        ------
        ValueError
            If there is no such strategy in the record.
        """
        mine = [level for level in self.levels if level.strategy == strategy]
        if not mine:
            known = sorted({level.strategy for level in self.levels})
            raise ValueError(f"strategy must be one of {', '.join(known)}, got {strategy!r}")
        shape = max(m.level for m in mine) + 1, max(m.replicate for m in mine) + 1
        values = np.full(shape, np.nan)
        for m in mine:
            values[m.level, m.replicate] = getattr(m, quantity)
        return values

    def write(self, stem: str | os.PathLike) -> None:
        """Write ``stem.csv`` and ``stem.json``, each first under a temporary name."""
        layers = sorted({name for level in self.levels for name in level.layers})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *(_LAYER + name for name in layers)])
        for level in self.levels:
            shares = [level.layers.get(name, "") for name in layers]
            writer.writerow([*(getattr(level, name) for name in COLUMNS), *shares])
        note = {"settings": self.settings, "provenance": self.provenance}
        replace_file(f"{stem}.csv", text.getvalue().encode())
        replace_file(f"{stem}.json", (json.dumps(note, indent=1) + "\n").encode())


def read_record(stem: str | os.PathLike) -> Record:
    """The record that :meth:`Record.write` made under ``stem``.

    Raises
    ------
    FileNotFoundError
        One of the two files is not there.
    ValueError
        A file is not such a record.
    """

    def made(table: str, about: dict[str, Any]) -> Record:
        levels = tuple(_level(row) for row in csv.DictReader(io.StringIO(table)))
        return Record(levels, about["settings"], about["provenance"])

    return read_files(stem, made, "a sweep")


def read_files(
    stem: str | os.PathLike, made: Callable[[str, dict[str, Any]], Kept], what: str
) -> Kept:
    """What ``made`` makes of the text of ``stem.csv`` and the content of ``stem.json``.

    Raises
    ------
    FileNotFoundError
        One of the two files is not there.
    ValueError
        They are not the record of ``what``.
    """
    table, note = Path(f"{stem}.csv"), Path(f"{stem}.json")
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        return made(table.read_text(encoding="utf-8"), about)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{table} and {note.name} are not the record of {what}") from error


def carry_out(run: Callable[[], Made], folder: Path, stem: str | None) -> tuple[Made | None, int]:
    """A command's run, its record written under ``stem``, and its exit status; None if it failed.

    A failure is told in one line, an interruption with how to go on in ``folder``.
    """
    try:
        record = run()
        if stem:
            Path(stem).parent.mkdir(parents=True, exist_ok=True)
            record.write(stem)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return None, 1
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on from {folder}", file=sys.stderr)
        return None, 130
    return record, 0


def _level(row: dict[str, str]) -> Level:
    layers = {
        name.removeprefix(_LAYER): float(value)
        for name, value in row.items()
        if name.startswith(_LAYER) and value
    }
    strategy, replicate, level, *numbers = (row[name] for name in COLUMNS)
    left, accuracy, loss, seconds = map(float, numbers)
    return Level(strategy, int(replicate), int(level), left, accuracy, loss, seconds, layers)


def device_name(device: torch.device) -> str:
    """The device in words: a GPU's name, or ``"cpu"``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def provenance(device: torch.device, seconds: float) -> dict[str, Any]:
    """Where and when: device, date, commit (None outside a repository), versions, wall time."""
    return {
        "device": device_name(device),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": round(seconds),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def parting_level(better: ArrayLike, worse: ArrayLike) -> int | None:
    """The first level from which on every replicate of one is above every one of the other.

    Parameters
    ----------
    better, worse : (levels + 1, replicates) arrays

    Returns
    -------
    int or None
        None if even at the last level the ranges overlap.
    """
    apart = np.min(better, axis=1) > np.max(worse, axis=1)
    overlapping = np.flatnonzero(~apart)
    first = int(overlapping[-1]) + 1 if len(overlapping) else 0
    return first if first < len(apart) else None
