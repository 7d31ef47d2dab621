"""The project file, the lock and the conda environment say the same; the lock is what runs."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_LINES = (ROOT / "constraints.txt").read_text().splitlines()
LOCK = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in LOCK_LINES)}
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + sum(EXTRAS.values(), [])]


def test_the_lock_holds_exact_versions_and_nothing_else():
    for line in LOCK_LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line
    assert len(LOCK) == len(LOCK_LINES)
    assert LOCK["torch"] == "2.13.0"
    assert Version(LOCK["jupyter-book"]).major == 1


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_the_lock_satisfies_the_project(requirement):
    assert LOCK[canonicalize_name(requirement.name)] in requirement.specifier


def installed_requirements(distribution):
    """What an installed distribution asks for here, without what it pins exactly itself."""
    for line in metadata.requires(distribution) or []:
        requirement = Requirement(line)
        exact = any(part.operator == "==" for part in requirement.specifier)
        if not exact and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
            yield canonicalize_name(requirement.name)


def test_the_lock_is_complete():
    waiting, seen = [canonicalize_name(r.name) for r in DIRECT], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += installed_requirements(name)
    assert seen - set(LOCK) == set()


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_what_runs_is_what_is_locked(requirement):
    installed = Version(metadata.version(requirement.name)).public
    assert installed == LOCK[canonicalize_name(requirement.name)]


def test_conda_gets_the_same():
    pip = next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", f"-e .[{','.join(sorted(EXTRAS))}]"]
    assert f"'.[{','.join(sorted(EXTRAS))}]'" in (ROOT / "Makefile").read_text()
    named = dict(entry.split("=") for entry in CONDA["dependencies"] if "=" in str(entry))
    assert named == {"python": "3.11"}
    assert PROJECT["requires-python"] == f">={named['python']}"


def test_the_package_needs_only_what_it_declares():
    """Importing it pulls in none of the book's and the tests' tools, and not torchvision."""
    code = "import sys, ntklc_helpers; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    extra = {"torchvision", "papermill", "nbformat", "jupyter_book", "sphinx", "IPython", "pytest"}
    extra |= {"pandas"}  # for records and tables, by those who make some
    assert extra.isdisjoint(result.stdout.split())


def test_binder_installs_the_book_from_the_lock(tmp_path):
    """Its script, with a `python` that only notes what it is asked to do."""
    made = yaml.safe_load((ROOT / ".binder/environment.yml").read_text())
    assert made["dependencies"] == CONDA["dependencies"][: len(made["dependencies"])]
    noted = tmp_path / "noted"
    (tmp_path / "python").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {noted}\n')
    (tmp_path / "python").chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run([ROOT / ".binder/postBuild"], cwd=ROOT, env=path, check=True)
    *_, lock, editable, what = noted.read_text().splitlines()
    assert lock in (path.name for path in ROOT.iterdir()) and editable == "-e"
    assert what == ".[book]" and "book" in EXTRAS
