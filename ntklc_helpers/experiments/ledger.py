"""Numbers that chapters record, and published claims held against them.

A chapter ends with a cell tagged ``ledger`` that calls :func:`record`. The reproduction ledger
reads those cells of the executed chapters and lays each :class:`Claim` beside what was measured: a
claim is words and rules, and every number in its row comes from the run it stands beside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from scipy.stats import t as student_t

from .._checks import array, number

__all__ = ["Claim", "Loss", "Row", "Verdict", "mean_spread", "read", "record", "span"]

Values = Mapping[str, Any]


class Verdict(StrEnum):
    """What became of a claim.

    Examples
    --------
    >>> Verdict("holds with a condition").name
    'CONDITION'
    """

    HOLDS = "holds"
    CONDITION = "holds with a condition"
    INCONCLUSIVE = "inconclusive"
    FAILS = "does not hold as stated"
    OPEN = "not measured in this build"


def record(**values: object) -> None:
    """Print named numbers as JSON: the output of a chapter's cell tagged ``ledger``.

    Values are numbers, strings, or lists and dicts of these; numpy scalars and arrays are taken as
    numbers and lists. A list of draws keeps its spread. Raises TypeError if a value is none of
    these.

    Examples
    --------
    >>> record(error=np.float64(0.5), draws=np.arange(2))
    {"error": 0.5, "draws": [0, 1]}
    """
    print(json.dumps(values, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"record takes numbers, strings, lists and dicts, got {value!r}")


def book_folder(name: str) -> Path | None:
    """``book/NAME`` in the working folder or in the one above it; None if there is neither."""
    found = (Path(above, "book", name) for above in (".", ".."))
    return next((folder for folder in found if folder.is_dir()), None)


def read(folder: str | os.PathLike[str] | None = None) -> dict[str, Values]:
    """What the executed chapters ``NN_name.ipynb`` in a folder recorded, by chapter.

    By default of the book that the working folder belongs to. A chapter without a ledger cell is
    left out. No folder is an empty one. Raises ValueError if a file is not a notebook, or a ledger
    cell of it did not print one line of JSON.

    Returns
    -------
    dict of str to dict
        By chapter, what it recorded by name.

    Examples
    --------
    >>> read("no/such/folder")
    {}
    """
    folder = folder or book_folder("notebooks")
    found = {}
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")) if folder else ():
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            cells = [c for c in notebook["cells"] if "ledger" in c["metadata"].get("tags", [])]
            if cells:
                found[path.stem] = _values(cells)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: no ledger can be read from it: {error}") from error
    return found


def _values(cells: Sequence[Mapping[str, Any]]) -> Values:
    values: dict[str, Any] = {}
    for cell in cells:
        named = json.loads("".join("".join(out.get("text", "")) for out in cell["outputs"]))
        if not isinstance(named, dict):
            raise ValueError(f"expected named numbers, got {named!r}")
        values |= named
    return values


@frozen(eq=False)
class Claim:
    """A published claim, and how it is judged.

    ``name`` and ``claim`` say it in a few words and in full, ``source`` where it is from, ``ran``
    what was run here; ``chapter`` measures it (empty if none does), its ``figure`` has that label.
    From the values that the chapter recorded ``number`` tells what was measured, in words, and
    ``verdict`` judges. ``rule`` and ``condition`` say when it holds, and on what condition where
    it does not hold as stated; ``timed`` claims are about times, which are others in every run.

    Examples
    --------
    >>> claim = Claim("small", "x is small", "paper", "once", "01_first", "fig-x",
    ...     number=lambda v: f"{v['x']}", verdict=lambda v: Verdict(v["said"]))
    >>> claim.judge({"01_first": {"x": 0.5, "said": "holds"}}).cells
    ('x is small', 'paper', 'once', '0.5', '**holds**', '{numref}`fig-x`')
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


@frozen
class Loss:
    """By how much draws lie below those of a reference, and how well that is known.

    ``points`` is the difference of their means, and ``margin`` half the width of its 90% interval
    by Welch's t: infinite where there is a single draw, for nothing is known of its spread.

    Examples
    --------
    >>> lost = Loss.of([92.0, 92.2, 92.1], [91.9, 92.2, 92.1])
    >>> f"{lost.points:.2f} ± {lost.margin:.2f}", lost.below(0.3), lost.below(0.1), lost.below(-1)
    ('0.03 ± 0.24', True, None, False)
    """

    points: float
    margin: float

    @classmethod
    def of(cls, reference: Sequence[float], other: Sequence[float]) -> Loss:
        """Of two lists of draws; ValueError if one has none."""
        drawn = [array("reference", reference, 1), array("other", other, 1)]
        if not all(map(len, drawn)):
            raise ValueError("reference and other must each hold a draw or more, got none")
        points = float(drawn[0].mean() - drawn[1].mean())
        if min(map(len, drawn)) < 2:
            return cls(points, np.inf)
        parts = [values.var(ddof=1) / len(values) for values in drawn]
        if sum(parts) == 0:
            return cls(points, 0.0)
        freedom = sum(parts) ** 2 / sum(
            part**2 / (len(values) - 1) for part, values in zip(parts, drawn, strict=True)
        )
        return cls(points, float(student_t.ppf(0.95, freedom) * np.sqrt(sum(parts))))

    def below(self, allowed: float) -> bool | None:
        """Whether less than that is lost, at a level of 5%; None where the draws do not tell."""
        allowed = number("allowed", allowed)
        if self.points + self.margin < allowed:
            return True
        return False if self.points - self.margin > allowed else None


@frozen
class Row:
    """A claim with the number measured and the verdict.

    Examples
    --------
    >>> Row(Claim("small", "x is small", "paper", "once"), "0.5", Verdict.HOLDS).ran
    True
    """

    claim: Claim
    number: str
    verdict: Verdict

    @property
    def ran(self) -> bool:
        """Whether the claim's chapter recorded what the row needs."""
        return self.verdict is not Verdict.OPEN

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table: claim, source, what was run, number, verdict, figure; in Markdown."""
        of = self.claim
        link = f"{{numref}}`{of.figure}`" if self.ran else "–"
        conditional = self.verdict is Verdict.CONDITION and of.condition
        said = f"**{self.verdict}**" + (f": {of.condition}" if conditional else "")
        return of.claim, of.source, of.ran, self.number, said, link


def mean_spread(draws: Sequence[float], spec: str = ".3g", unit: str = "") -> str:
    r"""Mean and standard deviation of draws in words; a single one without spread.

    Both are rounded to one place: the spread's first digit, or its second if the first two are
    below 36. ``spec`` is for a mean without spread. Spaces beside the ± are no-break spaces.

    Examples
    --------
    >>> mean_spread([1.0, 2.0], ".1f", " s"), mean_spread([3.0])
    ('1.5\xa0±\xa00.7 s (2 draws)', '3 (one draw)')
    """
    values = np.asarray(draws, dtype=np.float64)
    if values.size < 2:
        return f"{values.mean():{spec}}{unit} (one draw)"
    mean, spread = values.mean(), values.std(ddof=1)
    if spread > 1e-9 * abs(mean):
        first = int(np.floor(np.log10(spread)))
        spec = f".{max(0, (spread / 10.0**first < 3.55) - first)}f"
    return f"{mean:{spec}}\xa0±\xa0{spread:{spec}}{unit} ({values.size} draws)"


def span(values: Sequence[float], spec: str = ".3g") -> str:
    """Smallest to largest, in words.

    Examples
    --------
    >>> span([0.2, 0.1, 0.3]), span([0.5]), span([-0.01, -0.0001], ".1%")
    ('0.1 to 0.3', '0.5', '-1.0% to 0.0%')
    """
    sign = "+" * spec.startswith("+")
    without_minus_zero = f"{sign}z{spec.removeprefix(sign)}"
    low, high = (f"{value:{without_minus_zero}}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
