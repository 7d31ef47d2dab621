"""The book that tests read: built once in the smoke profile, and kept for the next tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
KEPT = ROOT / "build/smoke"
# Two chapters at a time, each on the one thread that the environment below allows.
TWO_AT_A_TIME = ("JOBS=2", "PROFILE=smoke")
# What make leaves in a folder, and a listing without git would take for sources.
MADE = {"build", "_build", ".git", ".hypothesis", ".venv", "__pycache__"} | {Path(sys.prefix).name}


def environment(**changes):
    """Ours, without the data and another package's path, and what a surrounding make hands down.

    On one thread: with another number of them sums come out otherwise in their last digits.
    """
    dropped = ("NTKLC_DATA", "PYTHONPATH", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    return kept | {"OMP_NUM_THREADS": "1"} | changes


def command(*arguments):
    # Not to be remade: the tests run in the environment there is.
    made = f"{sys.prefix}/.ntklc-installed"
    return ["make", f"VENV={sys.prefix}", "-o", made, "JOBS=1", *arguments]


def make(folder, *arguments, **changes):
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sources():
    """What a checkout holds, with the changes not yet committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = {Path(name) for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    if Path("Makefile") in names:
        return names
    # No git, or a folder that git knows nothing of.
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return {p for p in paths if MADE.isdisjoint(p.parts) and Path("book/notebooks") != p.parent}


def update(folder):
    """Bring a copy of the sources up to date; the times of what did not change stay."""
    wanted = sources()
    for name in wanted:
        target = folder / name
        if not target.is_file() or target.read_bytes() != (ROOT / name).read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    made = (folder / "build", folder / "book/notebooks", folder / "book/_build")
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        strange = path.relative_to(folder) not in wanted and "__pycache__" not in path.parts
        if strange and not any(path.is_relative_to(m) for m in made):
            path.unlink()
    for path in (folder / "book/notebooks").glob("*.ipynb"):
        if Path("notebooks") / path.name not in wanted:
            path.unlink()


def smoke_book():
    """The folder of the book in the smoke profile, with only what changed built again."""
    update(KEPT)
    result = make(KEPT, "book", *TWO_AT_A_TIME)
    assert result.returncode == 0, result.stdout
    return KEPT
