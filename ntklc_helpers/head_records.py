"""Records of compared heads: a CSV of the outcomes, and a JSON of all else."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from .feature_kernels import CLASSES, ONE_CLASS, FeatureKernels
from .methods import Outcome
from .records import read_files
from .storage import replace_file

_COLUMNS = [entry.name for entry in fields(Outcome)]


@dataclass(frozen=True, eq=False)
class HeadsRecord:
    """What a run found, the settings that made it and where it ran.

    Attributes
    ----------
    outcomes : tuple of Outcome
        One for each case, in the order of ``Heads.cases``.
    extractor : dict
        ``accuracy`` (in percent) and ``loss`` of the trained network on the test images, and
        ``features``, how many it makes of one.
    kernels : dict of FeatureKernels
        Of ``settings["n_kernel"]`` training images' features: with classes, and as one class.
    settings, provenance : dict
        ``provenance["stages"]`` holds the seconds of each stage, ``settings["source"]`` the data.
    """

    outcomes: tuple[Outcome, ...]
    extractor: dict[str, Any]
    kernels: dict[str, FeatureKernels]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def write(self, stem: str | os.PathLike) -> None:
        """Write ``stem.csv``, the outcomes, and ``stem.json``, all else; each whole or not."""
        note = {
            "settings": self.settings,
            "provenance": self.provenance,
            "extractor": self.extractor,
            "kernels": plain(self.kernels),
        }
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(note[key])}" for key in note)
        replace_file(f"{stem}.csv", table(self.outcomes))
        replace_file(f"{stem}.json", f"{{\n{lines}\n}}\n".encode())


def read_heads(stem: str | os.PathLike) -> HeadsRecord:
    """The record that :meth:`HeadsRecord.write` made under ``stem``.

    Raises
    ------
    FileNotFoundError
        One of the two files is not there.
    ValueError
        A file is not such a record.
    """

    def made(table: str, about: dict[str, Any]) -> HeadsRecord:
        kernels = kernels_from(about["kernels"])
        outcomes = outcomes_from(table)
        return HeadsRecord(
            outcomes, about["extractor"], kernels, about["settings"], about["provenance"]
        )

    return read_files(stem, made, "a run")


def table(outcomes: Iterable[Outcome], seconds: Iterable[float] | None = None) -> bytes:
    """CSV of the outcomes, and of how long each took."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if seconds is None:
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(outcome) for outcome in outcomes)
    else:
        writer.writerow([*_COLUMNS, "seconds"])
        pairs = zip(outcomes, seconds, strict=True)
        writer.writerows([*astuple(outcome), f"{second:.3f}"] for outcome, second in pairs)
    return text.getvalue().encode()


def outcomes_from(text: str) -> tuple[Outcome, ...]:
    """What :func:`table` made a CSV of."""
    kinds = {"method": str, "width": int, "zeros": float, "seed": int}
    kinds |= {"accuracy": float, "bytes": int}
    return tuple(
        Outcome(**{name: kind(row[name]) for name, kind in kinds.items()})
        for row in csv.DictReader(io.StringIO(text))
    )


def plain(kernels: Mapping[str, FeatureKernels]) -> dict[str, Any]:
    """As JSON knows them, to seven digits."""

    def short(value: Any) -> Any:
        return [short(v) for v in value] if np.ndim(value) else float(f"{value:.7g}")

    return {
        reading: {entry.name: short(getattr(found, entry.name)) for entry in fields(found)}
        for reading, found in kernels.items()
    }


def kernels_from(about: Mapping[str, Any]) -> dict[str, FeatureKernels]:
    """What :func:`plain` made a mapping of."""
    return {reading: _kernels_from(about[reading]) for reading in (CLASSES, ONE_CLASS)}


def _kernels_from(about: Mapping[str, Any]) -> FeatureKernels:
    found: dict[str, Any] = {
        name: np.array(value) if isinstance(value, list) else float(value)
        for name, value in about.items()
    }
    return FeatureKernels(**found)
