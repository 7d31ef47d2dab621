"""The steps of `make book`: check the parameters, run one chapter, build the pages.

Called from the repository's root. What is unfinished stays under ``build/``; a finished file is
moved to its place at once, and carries the time its making began: an edit made meanwhile is newer.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import colophon
import compare
import dependencies
import yaml

if TYPE_CHECKING:
    from nbformat import NotebookNode

SOURCES = Path("notebooks")
EXECUTED = Path("book/notebooks")
HTML = Path("book/_build/html")
PARAMETERS = Path("build/parameters")
MODULES = Path("build/modules")
RUNNING = Path("build/running")
AGAIN = Path("build/again")
FAILED = Path("build/failed")
PAGES = Path("build/pages")
RECORDED = Path("build/recorded")

KERNEL = "python3"
# The same run for everyone: no settings of the user's own, no progress bars on the pages.
ENVIRONMENT = {
    "IPYTHONDIR": str(Path("build/ipython").absolute()),
    "JUPYTER_PREFER_ENV_PATH": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
}


class BuildError(Exception):
    """The build cannot go on; the message is all that the reader needs."""


def chapters() -> list[str]:
    return sorted(path.stem for path in SOURCES.glob("[0-9][0-9]_*.ipynb"))


def read_profile(name: str) -> dict[str, dict]:
    """The parameters of every chapter in the profile ``name``, checked against the chapters."""
    path = SOURCES / "profiles" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise BuildError(f"PROFILE={name}: no such profile; there are {known}")
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BuildError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(profile, dict):
        raise BuildError(f"{path} must map each chapter to its parameters")
    for stem in chapters():
        if not isinstance(profile.get(stem), dict):
            raise BuildError(
                f"{path} has no parameters for {stem}; an entry `{stem}: {{}}` is enough"
            )
        unknown = sorted(set(profile[stem]) - parameter_names(SOURCES / f"{stem}.ipynb"))
        if unknown:
            raise BuildError(
                f"{path}: {stem} has no parameter {', '.join(map(repr, unknown))}; its "
                "parameters are the names assigned in its cell tagged `parameters`"
            )
    strangers = sorted(set(profile) - set(chapters()))
    if strangers:
        raise BuildError(f"{path} names {', '.join(map(str, strangers))}: no such notebook")
    return profile


def parameter_names(notebook: Path) -> set[str]:
    """The names that the notebook's cell tagged `parameters` assigns."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{notebook} is not a notebook: {error}") from error
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise BuildError(f"{notebook} must have one cell tagged `parameters`, found {len(tagged)}")
    try:
        assignments = ast.parse("".join(tagged[0]["source"])).body
    except SyntaxError as error:
        raise BuildError(f"{notebook}: the parameters cell is not valid Python: {error}") from error
    return {
        name.id
        for statement in assignments
        for target in getattr(statement, "targets", [getattr(statement, "target", None)])
        for name in ast.walk(target or ast.Pass())
        if isinstance(name, ast.Name)
    }


def write_inputs(profile_name: str) -> None:
    """Put down what each chapter is made from beside its source, touching only what changed."""
    write_parameters(profile_name)
    write_modules()


def write_parameters(profile_name: str) -> None:
    """Record each chapter's profile and parameters, touching only what changed."""
    profile = read_profile(profile_name)
    PARAMETERS.mkdir(parents=True, exist_ok=True)
    for stem in chapters():
        path = PARAMETERS / f"{stem}.json"
        record = {"profile": profile_name, "parameters": profile[stem]}
        try:
            text = json.dumps(record, indent=1, sort_keys=True)
        except TypeError as error:
            raise BuildError(f"{profile_name}: parameters of {stem}: {error}") from error
        write_if_changed(path, text)


def write_modules() -> None:
    """Record the package's modules that each chapter uses, and a fingerprint of what they say."""
    MODULES.mkdir(parents=True, exist_ok=True)
    try:
        modules = dependencies.Modules()
    except SyntaxError as error:
        raise BuildError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    for stem in chapters():
        used = sorted(modules.behind(dependencies.code_cells(SOURCES / f"{stem}.ipynb")))
        record = {name: modules.fingerprint(name) for name in used}
        write_if_changed(MODULES / f"{stem}.json", json.dumps(record, indent=1))


def write_recorded(stem: str, notebook: dict) -> None:
    """Put down what an executed chapter recorded, if it changed.

    What shows these numbers is made from this file, so that a chapter in which only words changed
    leaves it as it is.
    """
    cells = [c for c in notebook["cells"] if "ledger" in c["metadata"].get("tags", [])]
    lines = [output.get("text", []) for cell in cells for output in cell["outputs"]]
    RECORDED.mkdir(parents=True, exist_ok=True)
    write_if_changed(RECORDED / f"{stem}.json", "".join("".join(line) for line in lines))


def write_recorded_again(stem: str) -> None:
    """As :func:`write_recorded`, from the chapter as it stands in the book."""
    write_recorded(stem, json.loads((EXECUTED / f"{stem}.ipynb").read_text(encoding="utf-8")))


def write_if_changed(path: Path, text: str) -> None:
    """Leave a file that holds the text as it is, time included; never half a file."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def run_chapter(stem: str, again: bool = False) -> None:
    """Execute one chapter into ``book/notebooks/``, or keep what ran under ``build/failed/``.

    A chapter run again goes into ``build/again/``, if it shows what it showed the first time.
    """
    os.environ.update(ENVIRONMENT)
    os.environ.pop("MPLBACKEND", None)
    import nbformat
    import papermill

    record = json.loads((PARAMETERS / f"{stem}.json").read_text(encoding="utf-8"))
    place = AGAIN if again else EXECUTED
    for folder in (RUNNING, place):
        folder.mkdir(parents=True, exist_ok=True)
    running, started = RUNNING / f"{stem}.ipynb", time.time_ns()
    about = colophon.record(record["profile"])
    running.unlink(missing_ok=True)
    position = f"{chapters().index(stem) + 1}/{len(chapters())}"
    when = f"{record['profile']}, again" if again else record["profile"]
    print(f"[{position}] {stem} ({when}) … ", end="", flush=True)
    try:
        notebook = papermill.execute_notebook(
            SOURCES / f"{stem}.ipynb",
            running,
            parameters=record["parameters"],
            kernel_name=kernel_name(stem),
            language="python",
            cwd=".",
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],
        )
        skipped = unexecuted_cell(notebook)
        if skipped is not None:
            raise BuildError(f"{stem} ended early: cell {skipped} and what follows did not run")
        tidy(notebook, about)
        if again:
            first = nbformat.read(EXECUTED / running.name, as_version=4)
            found = compare.differences(first, notebook)
            if found:
                raise BuildError(f"{stem} showed something else the second time\n{found}")
    except Exception as error:
        print("failed", flush=True)
        raise BuildError(f"{explain(stem, error)}\n{keep_failed(running)}") from error
    nbformat.write(notebook, running)
    os.utime(running, ns=(started, started))
    if not again:
        # First the numbers: a build stopped between the two runs the chapter once more.
        write_recorded(stem, notebook)
    running.replace(place / running.name)
    (FAILED / running.name).unlink(missing_ok=True)
    print(f"{(time.time_ns() - started) / 1e9:.0f} s", flush=True)


def kernel_name(stem: str) -> str:
    """The kernel that the chapter's source names; the one of the environment if it names none."""
    source = json.loads((SOURCES / f"{stem}.ipynb").read_text(encoding="utf-8"))
    return source["metadata"].get("kernelspec", {}).get("name", KERNEL)


def is_injected(cell: NotebookNode) -> bool:
    tags = cell.metadata.get("tags", [])
    return "injected-parameters" in tags or "papermill-error-cell-tag" in tags


def unexecuted_cell(notebook: NotebookNode) -> int | None:
    """The first code cell that did not run, counted from 1 as in the source."""
    own = [cell for cell in notebook.cells if not is_injected(cell)]
    for number, cell in enumerate(own, start=1):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            return number
    return None


def explain(stem: str, error: Exception) -> str:
    """What went wrong in a chapter, for the terminal: where, and the traceback of the cell."""
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, BuildError):
        return str(error)
    if isinstance(error, OSError):
        return f"{stem}: {os_error(error)}"
    if isinstance(error, NoSuchKernel):
        return (
            f"{SOURCES / stem}.ipynb asks for the kernel {error.name!r}, and there is none here; "
            f"chapters run with {KERNEL!r}, which `make env` installs"
        )
    if isinstance(error, PapermillExecutionError):
        traceback = "\n".join(error.traceback)
        return f"{failing_cell(stem)}\n{without_colour(traceback)}"
    if isinstance(error, DeadKernelError):
        return (
            f"{failing_cell(stem)}\nThe kernel stopped: it was interrupted, killed or ran out "
            "of memory"
        )
    return f"{stem}: {type(error).__name__}: {error}"


def failing_cell(stem: str) -> str:
    """Notebook, number and source of the last cell that was started."""
    import nbformat

    notebook = nbformat.read(RUNNING / f"{stem}.ipynb", as_version=4)
    started = [c for c in notebook.cells if c.metadata.get("papermill", {}).get("start_time")]
    own = [cell for cell in notebook.cells if not is_injected(cell)]
    if started[-1] not in own:
        where = "the cell of injected parameters"
    else:
        where = f"cell {own.index(started[-1]) + 1} of {len(own)}"
    code = textwrap.indent(started[-1].source, "    ")
    return f"{SOURCES / stem}.ipynb failed in {where}:\n{code}"


def keep_failed(running: Path) -> str:
    """Move the partly executed copy away from the pages and say where it is."""
    if not running.is_file():
        return "Nothing ran, so no copy is kept"
    kept = FAILED / running.name
    try:
        FAILED.mkdir(parents=True, exist_ok=True)
        running.replace(kept)
    except OSError as error:
        return f"The partly executed copy is {running} ({os_error(error)})"
    return f"The partly executed copy is {kept}; the next `make book` goes on from here"


def tidy(notebook: NotebookNode, about: dict) -> None:
    """Drop times and random names, so that the same run gives the same page; add the record.

    Pictures take 256 colours, which drawings do not miss: a third of the bytes.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata[colophon.KEY] = about
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if is_injected(cell):
            cell.id = "injected-parameters"
            cell.source = cell.source.replace("# Parameters", f"# Profile {about['profile']}", 1)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small_picture(output.data["image/png"])


def small_picture(png: str) -> str:
    """A PNG in base64, in 256 colours."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        picture.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def write_colab_cells() -> None:
    """Give every chapter's source the cell that installs the package on Colab."""
    import nbformat

    address = colophon.repository()
    if not address:
        raise BuildError(
            "the book's address is not known: set repository.url in _config.yml, or git's remote "
            "`origin` to its repository on GitHub"
        )
    for stem in chapters():
        path = SOURCES / f"{stem}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        title, *cells = [c for c in notebook.cells if "colab" not in c.metadata.get("tags", [])]
        install = nbformat.v4.new_code_cell(colophon.install_cell(address))
        install.metadata["tags"] = ["colab", "remove-cell"]
        notebook.cells = [title, install, *cells]
        for number, cell in enumerate(notebook.cells):
            cell.id = str(number)
        write_if_changed(path, nbformat.writes(notebook) + "\n")


def build_pages() -> None:
    """Build the HTML anew, with every warning an error, and put it in place when complete.

    Always from scratch: Sphinx repeats no warning for a page it has already read.
    """
    started = time.time_ns()
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    print("pages … ", end="", flush=True)
    arguments = ["build", "book", "--path-output", str(PAGES), "--config", "_config.yml"]
    result = subprocess.run(
        [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
        + arguments
        + ["-W", "-n", "--keep-going", "--quiet"],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        print("failed", flush=True)
        raise BuildError(f"Jupyter Book could not build the pages:\n{explain_pages(result.stdout)}")
    made, old = PAGES / "_build/html", PAGES / "old"
    os.utime(made / "index.html", ns=(started, started))
    HTML.parent.mkdir(parents=True, exist_ok=True)
    if HTML.exists():
        HTML.replace(old)
    made.replace(HTML)
    shutil.rmtree(PAGES)
    print(f"{(time.time_ns() - started) / 1e9:.0f} s", flush=True)


def explain_pages(output: str) -> str:
    """What Sphinx warned of; the system's own word alone where that ended the build."""
    text = without_colour(output)
    refused = re.findall(r"^\w*Error: \[Errno \d+\] (.+)$", text, re.MULTILINE)
    return refused[-1] if refused else text.split("\nTraceback (most recent call last):")[0]


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def os_error(error: OSError) -> str:
    files = [str(name) for name in (error.filename, error.filename2) if name]
    return f"{' → '.join(files)}{': ' * bool(files)}{error.strerror or error}"


def main(arguments: list[str]) -> int:
    """Run one step; 0 when it is done, 1 with a message when it is not."""
    match arguments:
        case ["inputs", profile]:
            step, inputs = write_inputs, [profile]
        case ["chapter", stem]:
            step, inputs = run_chapter, [stem]
        case ["again", stem]:
            step, inputs = run_chapter, [stem, True]
        case ["recorded", stem]:
            step, inputs = write_recorded_again, [stem]
        case ["pages"]:
            step, inputs = build_pages, []
        case ["colab"]:
            step, inputs = write_colab_cells, []
        case _:
            print(
                "usage: build.py inputs PROFILE | chapter NAME | again NAME | recorded NAME "
                "| pages | colab",
                file=sys.stderr,
            )
            return 2
    try:
        step(*inputs)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the next `make book` goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
