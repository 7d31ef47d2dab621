"""A small book of two short chapters, to show how the build behaves when things happen."""

import re
import shutil
import subprocess
import time

import nbformat
import yaml
from books import ROOT, command, environment, make

STEMS = ["01_first", "02_second"]
EXECUTED = [f"book/notebooks/{stem}.ipynb" for stem in STEMS]
# The second chapter uses `unit`, and so `scale`; nobody uses the rest.
PACKAGE = {
    "__init__.py": "import typing\n\nfrom .room import unit\nfrom .aside import unused\n\n"
    "if typing.TYPE_CHECKING:\n    from .later import rare\n",
    "room/__init__.py": "from .units import unit\n",
    "room/units.py": "from ..scales import scale\n\nunit = 5 * scale\n",
    "scales.py": "scale = 2\n",
    "aside.py": "unused = 1\n",
    # Imported when it is asked for, and does more than to define names.
    "later.py": "import sys\n\nsys.rare = 1\nrare = 1\n",
}


def chapters_run(result):
    return re.findall(r"^\[ ?\d+/\d+\] (\w+)", result.stdout, re.MULTILINE)


def write_chapter(folder, stem, code, parameters="size = 1"):
    tagged = nbformat.v4.new_code_cell(parameters, id="parameters")
    tagged.metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell(f"# {stem}", id="title")
    cells = [title, tagged, *(nbformat.v4.new_code_cell(c, id=f"code{i}") for i, c in code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"notebooks/{stem}.ipynb")


def write_profile(folder, name, **chapters):
    (folder / f"notebooks/profiles/{name}.yaml").write_text(yaml.safe_dump(chapters))


def build(folder):
    """Write the small book, and build it."""
    (folder / "notebooks/profiles").mkdir(parents=True)
    (folder / "book").mkdir()
    (folder / "ntklc_helpers").mkdir()
    for name in ("Makefile", "_config.yml", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    for path in [
        *(ROOT / "book").glob("*.py"),
        ROOT / "book/build.mk",
        ROOT / "book/references.bib",
    ]:
        shutil.copyfile(path, folder / "book" / path.name)
    for name, text in PACKAGE.items():
        (folder / "ntklc_helpers" / name).parent.mkdir(exist_ok=True)
        (folder / "ntklc_helpers" / name).write_text(text)
    (folder / "book/intro.md").write_text("# A small book\n")
    files = [{"file": "notebooks/01_first"}, {"file": "notebooks/02_second"}]
    (folder / "book/_toc.yml").write_text(
        yaml.safe_dump({"format": "jb-book", "root": "intro", "chapters": files})
    )
    write_chapter(folder, "01_first", enumerate(["print('first', size)"]))
    write_chapter(
        folder,
        "02_second",
        enumerate(["from ntklc_helpers import unit", "print('second', size * unit)"]),
    )
    for name, size in (("smoke", 2), ("cpu", 3)):
        write_profile(folder, name, **{"01_first": {"size": size}, "02_second": {"size": size}})
    result = make(folder, "book", "PROFILE=smoke")
    assert result.returncode == 0, result.stdout
    assert chapters_run(result) == STEMS


def output_of(folder, stem):
    notebook = nbformat.read(folder / f"book/notebooks/{stem}.ipynb", as_version=4)
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)


def outcome(folder, profile="smoke", targets=EXECUTED):
    """Chapters that ran, without the pages unless asked for, and what each then prints."""
    result = make(folder, *targets, f"PROFILE={profile}")
    assert result.returncode == 0, result.stdout
    return chapters_run(result), [output_of(folder, stem) for stem in STEMS]


def made(folder, below):
    """Every file that a build put below the folder, and what it holds."""
    paths = (folder / below).rglob("*")
    return {p.relative_to(folder): p.read_bytes() for p in paths if p.is_file()}


def refused(folder, *before, limit=None):
    """What `make book` says where it cannot write; nothing finished may have changed."""
    whole = [made(folder, name) for name in ("book/notebooks", "book/_build/html")]
    result = subprocess.run(
        [*before, *command("book", "PROFILE=smoke")],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
    )
    assert result.returncode != 0
    assert [made(folder, name) for name in ("book/notebooks", "book/_build/html")] == whole
    assert result.stdout.count("error:") == 1
    return result.stdout


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
