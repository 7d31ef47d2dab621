"""Numbers that chapters record, and published claims held against them.

A chapter ends with a cell tagged ``ledger`` that calls :func:`record`. The reproduction ledger
reads those cells of the executed chapters and lays each :class:`Claim` beside what was measured: a
claim is words and rules, and every number in its row comes from the run it stands beside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

TAG = "ledger"

Values = Mapping[str, Any]


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    CONDITION = "holds with a condition"
    FAILS = "does not hold as stated"
    OPEN = "not measured in this build"


def record(**values: object) -> None:
    """Print named numbers as JSON: the output of a chapter's cell tagged ``ledger``.

    Parameters
    ----------
    **values : number, string, or list or dict of these
        Numpy scalars and arrays are taken as numbers and lists. A list of draws keeps its spread.

    Raises
    ------
    TypeError
        If a value is none of these.
    """
    print(json.dumps(values, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"record takes numbers, strings, lists and dicts, got {value!r}")


def read(folder: str | os.PathLike[str]) -> dict[str, Values]:
    """What the executed chapters ``NN_name.ipynb`` in a folder recorded, by chapter.

    A chapter without a ledger cell is left out. No folder is an empty one.

    Raises
    ------
    ValueError
        If a file is not a notebook, or a ledger cell of it did not print one line of JSON.
    """
    found = {}
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            cells = [c for c in notebook["cells"] if TAG in c["metadata"].get("tags", [])]
            if cells:
                found[path.stem] = _values(cells)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: no ledger can be read from it: {error}") from error
    return found


def _values(cells: Sequence[Mapping[str, Any]]) -> Values:
    values: dict[str, Any] = {}
    for cell in cells:
        streams = [out["text"] for out in cell["outputs"] if "text" in out]
        named = json.loads("".join("".join(text) for text in streams))
        if not isinstance(named, dict):
            raise ValueError(f"expected named numbers, got {named!r}")
        values |= named
    return values


@dataclass(frozen=True)
class Claim:
    """A published claim, and how it is judged.

    Attributes
    ----------
    name, claim, source : str
        The claim in a few words, in full, and where it is from.
    ran : str
        What was run here.
    chapter : str
        The chapter that measures it; empty if none does.
    figure : str
        Label of the figure that shows it.
    number : callable
        From the chapter's recorded values to what was measured, in words.
    verdict : callable
        From the same values to a :class:`Verdict`.
    rule : str
        In words, when it holds.
    condition : str
        In words, the condition under which it holds where it does not hold as stated.
    timed : bool
        Whether it is about times, which are others in every run.
    """

    name: str
    claim: str
    source: str
    ran: str
    chapter: str = ""
    figure: str = ""
    number: Callable[[Values], str] = lambda values: ""
    verdict: Callable[[Values], Verdict] = lambda values: Verdict.OPEN
    rule: str = ""
    condition: str = ""
    timed: bool = False

    def judge(self, recorded: Mapping[str, Values]) -> Row:
        """The claim beside what the chapters recorded; open where its chapter did not run."""
        values = recorded.get(self.chapter)
        if values is None:
            missing = f"`{self.chapter}` is not in this build" if self.chapter else "–"
            return Row(self, missing, Verdict.OPEN)
        try:
            return Row(self, self.number(values), self.verdict(values))
        except KeyError as error:
            return Row(self, f"`{self.chapter}` recorded no {error}", Verdict.OPEN)


@dataclass(frozen=True)
class Row:
    """A claim with the number measured and the verdict."""

    claim: Claim
    number: str
    verdict: Verdict

    @property
    def ran(self) -> bool:
        """Whether the claim's chapter recorded what the row needs."""
        return self.verdict is not Verdict.OPEN

    def markdown(self) -> str:
        """The row of a Markdown table: claim, source, what was run, number, verdict, figure."""
        link = f"{{numref}}`{self.claim.figure}`" if self.ran else "–"
        conditional = self.verdict is Verdict.CONDITION and self.claim.condition
        said = f"**{self.verdict}**" + (f": {self.claim.condition}" if conditional else "")
        cells = (self.claim.claim, self.claim.source, self.claim.ran, self.number, said, link)
        return f"| {' | '.join(cells)} |"


def mean_spread(draws: Sequence[float], spec: str = ".3g", unit: str = "") -> str:
    """Mean and standard deviation of draws in words; a single one without spread."""
    values = np.asarray(draws, dtype=np.float64)
    if values.size < 2:
        return f"{values.mean():{spec}}{unit} (one draw)"
    spread = values.std(ddof=1)
    return f"{values.mean():{spec}} ± {spread:.2g}{unit} ({values.size} draws)"


def span(values: Sequence[float], spec: str = ".3g") -> str:
    """Smallest to largest, in words."""
    low, high = (format(value, spec) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
