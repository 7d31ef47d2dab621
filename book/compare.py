"""Whether two runs of a chapter show the same.

All that a reader sees counts: text, tables, every digit that a chapter records for the ledger, and
each picture bit by bit. Cells tagged ``varies`` are left out: they show times.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

VARIES = "varies"


def differences(first: NotebookNode, second: NotebookNode) -> str:
    """What two runs of one notebook show differently, cell by cell; empty if nothing."""
    before, after = shown(first), shown(second)
    if len(before) != len(after):
        return f"{len(before)} cells were run the first time, {len(after)} the second"
    pairs = enumerate(zip(before, after, strict=True), start=1)
    return "\n".join(told(number, *pair) for number, pair in pairs if pair[0] != pair[1])


def shown(notebook: NotebookNode) -> list[dict[str, str]]:
    """What each code cell shows, by type of content."""
    return [
        {} if VARIES in cell.metadata.get("tags", []) else contents(cell)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def contents(cell: NotebookNode) -> dict[str, str]:
    found: dict[str, str] = {}
    for output in cell.outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        for kind, content in data.items():
            found[kind] = found.get(kind, "") + str(content)
    return found


def told(number: int, before: dict[str, str], after: dict[str, str]) -> str:
    """The lines that changed in one cell, or that its picture is another one."""
    lines = [f"  code cell {number}:"]
    for kind in sorted(before.keys() | after.keys()):
        old, new = before.get(kind, ""), after.get(kind, "")
        if old != new and kind.startswith("image/"):
            lines.append("    another picture")
        elif old != new:
            changes = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
            lines += [
                f"    {line}" for line in changes if not line.startswith(("---", "+++", "@@"))
            ]
    return "\n".join(lines)
