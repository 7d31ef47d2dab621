"""What came of a run: a CSV of numbers, a JSON of how they came about, and cells for readers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from attrs import Factory, field, frozen
from numpy.typing import ArrayLike, NDArray

from .._checks import one_of
from ..compression.storage import replace_file
from .ledger import book_folder

if TYPE_CHECKING:
    from pandas import DataFrame


class RunError(ValueError):
    """A run is refused, or what is kept of one cannot be used: the message says what to do."""


@frozen
class Record:
    """What a run found, the settings that made it and where it ran; the same for all experiments.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each network measured, with a column ``accuracy``, or ``ms`` for what is timed, or
        ``error`` of a kernel.
    settings, provenance : dict
        ``settings["source"]`` says what the data are, ``provenance["seconds"]`` how long it took.
    findings : dict
        What is not in the table, as JSON knows it.

    Examples
    --------
    >>> import pandas
    >>> Record(pandas.DataFrame({"accuracy": [0.1]}), {"seed": 1}, {"seconds": 2}).settings
    {'seed': 1}
    """

    table: DataFrame = field(eq=attrs.cmp_using(eq=lambda a, b: a.equals(b)))
    settings: dict[str, Any]
    provenance: dict[str, Any]
    findings: dict[str, Any] = Factory(dict)

    def write(self, stem: str | os.PathLike) -> None:
        """Write ``stem.csv``, the table, and ``stem.json``, all else; each whole or not at all."""
        note = {"settings": self.settings, "provenance": self.provenance, **self.findings}
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(note[key])}" for key in note)
        table = self.table.to_csv(index=False, lineterminator="\n")
        replace_file(f"{stem}.csv", table.encode())
        replace_file(f"{stem}.json", f"{{\n{lines}\n}}\n".encode())


def read_record(stem: str | os.PathLike) -> Record:
    """The :class:`Record` that :meth:`Record.write` wrote.

    Raises FileNotFoundError or RunError without it, or if it is no record.

    Examples
    --------
    >>> import pandas, tempfile
    >>> made = Record(pandas.DataFrame({"method": ["dense"], "accuracy": [0.1]}), {"seed": 1}, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made.write(f"{folder}/made")
    ...     read_record(f"{folder}/made") == made
    True
    """
    from pandas import read_csv

    try:
        note = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
        table = read_csv(f"{stem}.csv", engine="python")  # to the last digit
        table[measured(table)].astype(float)
        return Record(table, note.pop("settings"), note.pop("provenance"), note)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{stem}.csv and {stem}.json are not the record of a run") from error


def measured(table: DataFrame) -> str:
    """The name of the column that says what was measured. Raises KeyError if there is none.

    Returns
    -------
    str

    Examples
    --------
    >>> import pandas
    >>> measured(pandas.DataFrame({"draws": [1], "error": [0.1]}))
    'error'
    """
    found = [name for name in ("accuracy", "ms", "error") if name in table]
    if not found:
        raise KeyError("accuracy, ms or error")
    return found[0]


def find_record(name: str) -> Record | None:
    """The record of that name among the book's results; errors as for :func:`read_record`.

    Returns
    -------
    Record or None
        None if it has not been made yet.

    Examples
    --------
    >>> find_record("never_made") is None
    True
    """
    folder = book_folder("results")
    made = folder is not None and (folder / f"{name}.json").exists()
    return read_record(folder / name) if folder and made else None


def draws(table: DataFrame, column: str = "accuracy", **where: Any) -> NDArray[np.float64]:
    """The values of a column in the rows where others are as given.

    Raises ValueError if there is no such row or column.

    Returns
    -------
    (rows,) array

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame({"width": [5, 5, 9], "accuracy": [0.7, 0.8, 0.9]})
    >>> draws(table, width=5)
    array([0.7, 0.8])
    """
    rows = table
    for name, value in where.items():
        rows = rows[rows[one_of("column", name, table.columns)] == value]
    if rows.empty:
        raise ValueError(f"no row of the table has {where}")
    return rows[one_of("column", column, table.columns)].to_numpy()


def cell(values: ArrayLike, spec: str = ".2f", unit: str = "") -> str:
    r"""Mean and standard deviation of draws in words; one draw without spread.

    Spaces beside the ± are no-break spaces.

    Examples
    --------
    >>> cell([91.0, 92.0]), cell([91.0], ".1f", "%")
    ('91.50\xa0±\xa00.71', '91.0%')
    """
    values = np.asarray(values, dtype=np.float64)
    spread = f"\xa0±\xa0{values.std(ddof=1):{spec}}" if values.size > 1 else ""
    return f"{values.mean():{spec}}{spread}{unit}"


def cells(table: DataFrame, row: str = "method", column: str = "width") -> DataFrame:
    r""":func:`cell` of the accuracies, in the order of the table; ``.to_markdown()`` shows them.

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame({"method": ["b", "a", "a"], "width": 5, "accuracy": [1, 2, 3]})
    >>> cells(table)[5].to_dict()
    {'b': '1.00', 'a': '2.50\xa0±\xa00.71'}
    """
    found = table.groupby([row, column], sort=False)["accuracy"].agg(cell).unstack()
    return found.loc[table[row].unique(), table[column].unique()]
