"""A command that makes records, its options generated from the settings of what it runs."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import attrs

from ..data.files import DataError
from .image_nets import TrainingSettings
from .records import RunError, measured, read_record
from .runs import Settings

# By name of a record, its experiments by name of a preset; by name of a chapter, its records.
Records = Mapping[str, Mapping[str, Settings]]
Chapters = Mapping[str, Sequence[str]]


def parser(records: Records, chapters: Chapters, about: str) -> argparse.ArgumentParser:
    """For each record and chapter, the options of its settings, its training and its run."""
    made = argparse.ArgumentParser(prog="python -m ntklc_helpers.experiments", description=about)
    names = made.add_subparsers(dest="name", metavar="NAME", required=True)
    for name in (*records, *chapters):
        presets = records[chapters.get(name, [name])[0]]
        kind = type(presets["paper"])
        one = names.add_parser(name, argument_default=argparse.SUPPRESS)
        one.add_argument("--output", type=Path, required=True, help="keeps all, to go on from")
        one.add_argument("--results", type=Path, required=True, help="folder for CSV and JSON")
        one.add_argument(
            "--preset", choices=presets, default="paper", help="paper, where a record has no other"
        )
        one.add_argument("--replace", action=argparse.BooleanOptionalAction, default=False)
        trained = "training" in attrs.fields_dict(kind)
        training = get_type_hints(TrainingSettings) if trained else {}
        options = get_type_hints(kind) | training | _how(kind)
        for option, hint in options.items():
            if hint is not TrainingSettings:
                _add(one, option, hint)
    return made


def _how(kind: Any) -> dict[str, Any]:
    """The arguments of a run, by name, with their types."""
    hints = get_type_hints(kind.run)
    return {name: hints[name] for name in ("device", "n_jobs") if name in hints}


def _add(to: argparse.ArgumentParser, name: str, hint: Any) -> None:
    """An option for a field of that type."""
    flag, kinds = f"--{name.replace('_', '-')}", get_args(hint) or (hint,)
    if bool in kinds:
        to.add_argument(flag, action=argparse.BooleanOptionalAction)
        return
    many = "+" if get_origin(hint) in (tuple, Sequence) else None
    kind = next((k for k in (int, float) if k in kinds), str)
    to.add_argument(flag, type=kind, nargs=many)


def chosen(preset: Settings, given: Mapping[str, Any]) -> Settings:
    """The preset with what was given on the command line in its place."""

    def changed(one: Any, **others: Any) -> Any:
        own = {name: given[name] for name in attrs.fields_dict(type(one)) if name in given}
        return attrs.evolve(one, **own, **others)

    training = getattr(preset, "training", None)
    return changed(preset) if training is None else changed(preset, training=changed(training))


def _ready(experiment: Settings, stem: Path, replace: bool) -> None:
    """See that a record can be written, and that it takes the place of none of other settings."""
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=stem.parent):
            pass
        there = {} if replace else read_record(stem).settings
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"--results {stem.parent} cannot be written to: {error}") from error
    if different := experiment.difference(there):
        raise RunError(
            f"{stem} is the record of other settings: {different}. "
            "Name another --results, or --replace to write over it"
        )


def main(
    records: Records, chapters: Chapters, about: str, arguments: Sequence[str] | None = None
) -> int:
    """Make the records asked for; the exit status.

    What is refused is told in one line; any other error keeps its traceback.
    """
    options = parser(records, chapters, about).parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", stream=sys.stdout)
    names, given = chapters.get(options.name, [options.name]), vars(options)
    try:
        presets = [records[name] for name in names]
        experiments: list[Any] = [
            chosen(of.get(options.preset, of["paper"]), given) for of in presets
        ]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        for name, experiment in zip(names, experiments, strict=True):
            stem, how = options.results / name, _how(type(experiment))
            _ready(experiment, stem, options.replace)
            how = {key: given[key] for key in how if key in given}
            record = experiment.run(options.output / name, **how)
            record.write(stem)
            print(f"{stem}.csv and .json", record.findings.get("extractor", ""))
            what = measured(record.table)
            before = record.table.columns[: record.table.columns.get_loc(what)]
            drawn = record.table.groupby([*before.drop(["seed", "replicate"], errors="ignore")])
            print(drawn[what].agg(["mean", "std", "count"]).to_string())
    except (RunError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on from {options.output}", file=sys.stderr)
        return 130
    return 0
