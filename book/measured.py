"""Numbers of this build for pages that compute none: `{{ name }}` in their text.

This Sphinx extension reads what the executed chapters recorded for the ledger, and the records of
long runs. A name whose chapter did not run is not there, and a page that uses it is not built.
Files are read without the package's own readers, so that pages of any book can be built with it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

BOOK = Path(__file__).parent


def recorded(stem: str) -> dict[str, Any]:
    """What an executed chapter recorded by name; nothing if it did not run."""
    path = BOOK / f"notebooks/{stem}.ipynb"
    found: dict[str, Any] = {}
    if path.is_file():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "ledger" in cell["metadata"].get("tags", []):
                found |= json.loads("".join("".join(out["text"]) for out in cell["outputs"]))
    return found


def of_chapters() -> dict[str, str]:
    """By name, as a sentence shows them."""
    found = {}
    if kernels := recorded("04_ck_theory_vs_simulation"):
        slopes = kernels["slopes"].values()
        found["kernel_error"] = f"{max(kernels['errors'].values()):.0%}"
        found["kernel_p"] = f"{kernels['p']:,}"
        found["kernel_slopes"] = f"{min(slopes):.2f} to {max(slopes):.2f}".replace("-", "−")
    if finite := recorded("06_finite_size"):
        found["finite_error"] = f"{max(finite['finite_errors'].values()):.1%}"
    if levels := recorded("11_m_levels"):
        found["levels"] = f"{levels['most_levels']}"
        found["levels_served"] = f"{levels['served']} of {levels['activations']}"
    if forecasts := recorded("12_accuracy_before_training"):
        found["forecast_miss"] = f"{fmean(map(abs, forecasts['forecast_misses'])):.1f}"
    if ledger := recorded("23_ledger"):
        found["claims"] = f"{ledger['claims']}"
        found |= {f"claims_{name}": f"{count}" for name, count in ledger["verdicts"].items()}
    return found


def rows(record: str) -> list[dict[str, str]]:
    """The table of a record; none if it was not made."""
    path = BOOK / f"results/{record}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def means(table: list[dict[str, str]], *columns: str) -> dict[str, tuple[float, ...]]:
    """Of columns, over the rows of each scheme."""
    schemes = {row["scheme"] for row in table}
    return {
        name: tuple(fmean(float(r[c]) for r in table if r["scheme"] == name) for c in columns)
        for name in schemes
    }


def of_records() -> dict[str, str]:
    """By name, as a sentence shows them."""
    found = {}
    trained = {"mnist": "mnist_conv", "cifar10": "cifar10_70kb", "cifar10_large": "cifar10_150kb"}
    for name, record in trained.items():
        if files := means(rows(f"trained_{record}"), "bytes", "accuracy"):
            size, accuracy = min(files.values())
            found[f"{name}_accuracy"], found[f"{name}_bytes"] = f"{accuracy:.1f}%", f"{size:,.0f}"
    if files := means(rows("conversions"), "bytes", "accuracy"):
        (before, accurate), (after, left) = files["as trained"], files["ternary, 16 levels"]
        found["converted_lost"] = f"{accurate - left:.2f}"
        found["converted_smaller"] = f"{before / after:.0f}"
    if forecasts := rows("forecast_mnist"):
        misses = [float(r["accuracy_test"]) - float(r["accuracy_forecast"]) for r in forecasts]
        found["forecast_mnist_miss"] = f"{100 * fmean(map(abs, misses)):.1f}"
    path = BOOK / "results/published_kernels.json"
    if path.is_file():
        errors = json.loads(path.read_text(encoding="utf-8"))["kernels"]["CK"]["errors"]
        found["published_error"] = f"{errors['equivalent']:.1%}"
        found["published_finite_error"] = f"{errors['finite']:.2%}"
    return found


def tell(app: Sphinx, config: Config) -> None:
    config.myst_substitutions |= of_chapters() | of_records()


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", tell)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
