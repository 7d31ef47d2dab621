"""`make book`: the whole book in the smoke profile, and what runs again after which change."""

import importlib.util
import json
import os
import platform
import re
import subprocess

import nbformat
import pytest
import yaml
from books import CHAPTERS, ROOT, TWO_AT_A_TIME, environment, make
from small_book import (
    EXECUTED,
    STEMS,
    chapters_run,
    made,
    outcome,
    output_of,
    write_chapter,
    write_profile,
)


@pytest.fixture(scope="session")
def build_steps():
    spec = importlib.util.spec_from_file_location("build_steps", ROOT / "book/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dependencies(build_steps):
    return build_steps.dependencies


# --- the book itself


def test_the_book_is_built_without_a_warning(smoke_book):
    html = smoke_book / "book/_build/html"
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    for page in [toc["root"], *pages]:
        assert (html / f"{page}.html").is_file(), page
    assert [page for page in pages if page.startswith("notebooks/")] == [
        f"notebooks/{stem}" for stem in CHAPTERS
    ]


@pytest.mark.parametrize("stem", CHAPTERS)
def test_the_chapter_ran_and_is_shown(smoke_book, stem):
    notebook = nbformat.read(smoke_book / f"book/notebooks/{stem}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # Neither warnings nor progress bars: both would show this machine, not the chapter.
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert "widgets" not in notebook.metadata
    page = (smoke_book / f"book/_build/html/notebooks/{stem}.html").read_text()
    assert page.count("<img") >= sum("image/png" in output.get("data", {}) for output in outputs)


def test_building_again_does_nothing(smoke_book):
    before = {path: path.stat().st_mtime_ns for path in (smoke_book / "book").rglob("*")}
    result = make(smoke_book, "book", "PROFILE=smoke")
    assert result.stdout == "The book: book/_build/html/index.html\n"
    assert {path: path.stat().st_mtime_ns for path in (smoke_book / "book").rglob("*")} == before


@pytest.mark.parametrize("stem", CHAPTERS)
def test_the_source_is_stored_without_outputs(stem):
    notebook = json.loads((ROOT / f"notebooks/{stem}.ipynb").read_text())
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.parametrize("stem", CHAPTERS)
def test_a_cell_is_what_one_reads_at_a_glance(stem, dependencies):
    cells = dependencies.code_cells(ROOT / f"notebooks/{stem}.ipynb")
    assert max(len(cell.splitlines()) for cell in cells) <= 30


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu"])
def test_every_profile_fits_the_chapters(profile, build_steps, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert sorted(build_steps.read_profile(profile)) == CHAPTERS


def test_a_second_run_of_every_chapter_gives_the_same_numbers(smoke_book):
    """What ran since its chapter changed last does not run again."""
    result = make(smoke_book, "-k", "again", *TWO_AT_A_TIME)
    assert result.returncode == 0, result.stdout


# --- a small book


def test_only_what_changed_runs_again(small):
    assert outcome(small, targets=["book"]) == ([], ["first 2\n", "second 20\n"])
    write_profile(small, "smoke", **{"01_first": {"size": 2}, "02_second": {"size": 5}})
    assert outcome(small) == (["02_second"], ["first 2\n", "second 50\n"])
    write_chapter(small, "01_first", enumerate(["print('changed', size)"]))
    assert outcome(small, targets=["book"]) == (["01_first"], ["changed 2\n", "second 50\n"])
    for stem, text in (("01_first", "changed 2"), ("02_second", "second 50")):
        assert text in (small / f"book/_build/html/notebooks/{stem}.html").read_text()


def test_two_chapters_run_at_a_time_each_on_its_part_of_the_processors(small):
    # Each waits for the other: one after the other they would not end.
    code = (
        "import os, time\nfrom pathlib import Path\nPath('build/{0}').touch()\n"
        "until = time.monotonic() + 120\n"
        "while not Path('build/{1}').exists():\n    assert time.monotonic() < until\n"
        "print(os.environ['OMP_NUM_THREADS'])"
    )
    for stem, names in zip(STEMS, [("one", "other"), ("other", "one")], strict=True):
        write_chapter(small, stem, enumerate([code.format(*names)]))
    result = make(small, "book", "PROFILE=smoke", "JOBS=2", OMP_NUM_THREADS="")
    assert result.returncode == 0, result.stdout
    counted = subprocess.run(["nproc"], env=environment(OMP_NUM_THREADS=""), capture_output=True)
    threads = f"{(int(counted.stdout) + 1) // 2}\n"
    assert [output_of(small, stem) for stem in STEMS] == [threads, threads]


def test_a_second_run_must_show_the_same_but_for_what_varies(small):
    for _ in range(2):
        result = make(small, "again", "PROFILE=smoke")
        assert result.returncode == 0, result.stdout
    assert chapters_run(result) == []

    code = "import os\nprint('same')\nprint(os.urandom(4).hex())"
    write_chapter(small, "01_first", enumerate([code]))
    write_chapter(small, "02_second", enumerate([code]))
    path = small / "notebooks/02_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["varies"]
    nbformat.write(notebook, path)
    result = make(small, "-k", "again", "PROFILE=smoke")
    assert result.returncode != 0 and chapters_run(result) == sorted(STEMS * 2)
    assert "error: 01_first showed something else the second time" in result.stdout
    assert re.search(r"\n  code cell 3:\n    -\w{8}\n    \+\w{8}\n", result.stdout)
    assert {path.name for path in (small / "build/again").iterdir()} == {
        "01_first.ipynb",  # of the run before
        "02_second.ipynb",
    }
    result = make(small, "again", "PROFILE=smoke")
    assert result.returncode != 0 and chapters_run(result) == ["01_first"]


def shows(*contents, tags=()):
    """A notebook of one code cell for each mapping from kinds of content to contents."""
    cells = []
    for number, data in enumerate(contents):
        cell = nbformat.v4.new_code_cell("", id=f"cell{number}")
        cell.metadata["tags"] = list(tags)
        cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells)


def test_what_two_runs_show_is_compared_to_the_last_digit_and_bit(build_steps):
    differences = build_steps.compare.differences
    table = {"text/markdown": "| a | 0.1 |\n| b | 0.2 |", "image/png": "QUJD"}
    assert differences(shows(table), shows(table)) == ""
    other = table | {"text/markdown": "| a | 0.1 |\n| b | 0.3 |"}
    found = "  code cell 2:\n    -| b | 0.2 |\n    +| b | 0.3 |"
    assert differences(shows(table, table), shows(table, other)) == found
    other = table | {"image/png": "QUJE"}
    assert differences(shows(table), shows(other)) == "  code cell 1:\n    another picture"
    assert differences(shows(table, tags=["varies"]), shows(other, tags=["varies"])) == ""
    assert "2 cells were run the first time, 1" in differences(shows(table, other), shows(table))


def write_recording_chapter(folder, sentence, value):
    code = [f"print({sentence!r})", f"print({value})"]
    write_chapter(folder, "02_second", enumerate(code))
    path = folder / "notebooks/02_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["ledger"]
    nbformat.write(notebook, path)


def test_the_ledger_runs_again_when_a_recorded_number_changed_and_only_then(small):
    code = """import json
chapter = json.load(open("book/notebooks/02_second.ipynb"))
print("read", *chapter["cells"][-1]["outputs"][0]["text"])"""
    write_chapter(small, "23_ledger", enumerate([code]))
    write_profile(small, "smoke", **{"01_first": {"size": 2}, "02_second": {}, "23_ledger": {}})
    ledger = "book/notebooks/23_ledger.ipynb"

    def runs():
        return outcome(small, targets=[*EXECUTED, ledger])[0], output_of(small, "23_ledger")

    write_recording_chapter(small, "one", 5)
    assert runs() == (["02_second", "23_ledger"], "read 5\n\n")
    write_recording_chapter(small, "other words", 5)
    assert runs() == (["02_second"], "read 5\n\n")
    write_chapter(small, "01_first", enumerate(["print('changed')"]))
    assert runs() == (["01_first"], "read 5\n\n")
    write_recording_chapter(small, "other words", 6)
    assert runs() == (["02_second", "23_ledger"], "read 6\n\n")
    assert runs() == ([], "read 6\n\n")

    # The ledger was stopped after the numbers were put down: it is still to be run.
    write_recording_chapter(small, "other words", 7)
    assert outcome(small, targets=EXECUTED)[0] == ["02_second"]
    assert runs() == (["23_ledger"], "read 7\n\n")
    (small / "build/recorded/02_second.json").unlink()
    assert runs() == (["23_ledger"], "read 7\n\n")


def test_another_profile_runs_every_chapter_again(small):
    assert outcome(small, "cpu") == (STEMS, ["first 3\n", "second 30\n"])


def test_the_same_run_gives_the_same_pages(small):
    before = made(small, "book/_build/html")
    assert outcome(small, "cpu", targets=["book"])[0] == STEMS
    assert outcome(small, targets=["book"])[0] == STEMS
    assert made(small, "book/_build/html") == before


@pytest.mark.parametrize(
    ("module", "text", "run", "printed"),
    [
        ("room/units.py", "from ..scales import scale\n\nunit = 6 * scale\n", STEMS[1:], 24),
        ("scales.py", "scale = 3\n", STEMS[1:], 30),
        ("scales.py", "scale = 2  # said in a comment\n", [], 20),
        ("aside.py", "unused = 2\n", [], 20),
        ("room/unheard.py", "new = 1\n", [], 20),
        # Not a name that the chapters use, yet done whenever the package is imported.
        ("aside.py", "import sys\n\nsys.unused = 1\nunused = 1\n", STEMS, 20),
    ],
)
def test_a_chapter_runs_again_when_a_module_changed_that_it_uses(small, module, text, run, printed):
    (small / "ntklc_helpers" / module).write_text(text)
    assert outcome(small) == (run, ["first 2\n", f"second {printed}\n"])
    assert outcome(small)[0] == []


USES = [
    ("from ntklc_helpers.scales import scale", {"scales"}),
    ("import ntklc_helpers as nh\nnh.unit", {"room.units", "scales"}),
    ("import ntklc_helpers as nh\nf'{nh.room.units.unit}'", {"room.units", "scales"}),
    ("from ntklc_helpers import room, aside\nroom.unit", {"room.units", "scales", "aside"}),
    ("import ntklc_helpers.aside\nntklc_helpers.unit", {"aside", "room.units", "scales"}),
    ("import ntklc_helpers as nh\nif 1:\n    %pip install x\nnh.unused", {"aside"}),
    ("import ntklc_helpers as nh\nnh.rare", {"later"}),
    ("print('no package')", set()),
]


@pytest.mark.parametrize(("code", "modules"), USES)
def test_modules_are_found_by_the_names_that_code_uses(built, dependencies, code, modules):
    found = dependencies.Modules(built / "ntklc_helpers").behind([code])
    assert found == {f"ntklc_helpers.{name}" for name in modules}


@pytest.mark.parametrize(
    "code",
    [
        "import ntklc_helpers as nh\ngetattr(nh, 'unit')",
        "import ntklc_helpers as nh\nnh.nowhere",
        "from ntklc_helpers import *",
        "import ntklc_helpers as nh\nthis is no Python",
    ],
)
def test_where_a_name_cannot_be_followed_all_modules_count(built, dependencies, code):
    modules = dependencies.Modules(built / "ntklc_helpers")
    assert modules.behind([code]) == set(modules.trees)


def test_chapters_depend_on_the_rooms_that_they_use(dependencies):
    modules = dependencies.Modules(ROOT / "ntklc_helpers")
    used = {
        stem: modules.behind(dependencies.code_cells(ROOT / f"notebooks/{stem}.ipynb"))
        for stem in CHAPTERS
    }
    rooms = {stem: {name.split(".")[1] for name in names} for stem, names in used.items()}
    assert rooms["01_gaussian_mixture"] <= {"_checks", "plots", "data", "theory"}
    assert rooms["11_m_levels"].isdisjoint({"compression"})
    for stem in CHAPTERS:
        cells = "".join(dependencies.code_cells(ROOT / f"notebooks/{stem}.ipynb"))
        assert ("experiments" in rooms[stem]) == ("ntklc_helpers.experiments" in cells), stem
        assert modules.at_import <= used[stem] < set(modules.trees), stem


def test_each_page_says_how_it_was_made(small):
    def foot(page):
        text = (small / f"book/_build/html/{page}.html").read_text()
        return dict(re.findall(r"<span class='ntklc-(\w+)'>(.*?)</span>", text))

    write_profile(small, "cpu", **{"01_first": {"size": 3}, "02_second": {"size": 3}})
    result = make(small, "book", "PROFILE=cpu", SOURCE_DATE_EPOCH="86400", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stdout
    pages = ("intro", "genindex", *(f"notebooks/{stem}" for stem in STEMS))
    for entries in map(foot, pages):
        assert entries["commit"] == "none"
        assert (entries["profile"], entries["date"]) == ("cpu", "1970-01-02")
        assert entries["device"].endswith(f"{os.cpu_count()} cores")
        assert f"python {platform.python_version()}, " in entries["versions"]
        assert "torch 2.13.0" in entries["versions"]

    # A page keeps the record of its chapter's run.
    git = ("git", "-c", "user.name=me", "-c", "user.email=me@localhost")
    for step in (["init", "-q"], ["add", "Makefile"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *step], cwd=small, check=True)
    address = "git@github.com:somebody/a.book.git"
    subprocess.run([*git, "remote", "add", "origin", address], cwd=small, check=True)
    write_chapter(small, "02_second", enumerate(["print('changed')"]))
    assert outcome(small, "cpu", targets=["book"])[0] == ["02_second"]
    assert foot("notebooks/01_first")["commit"] == "none"
    assert re.fullmatch("[0-9a-f]{12} with changes", foot("notebooks/02_second")["commit"])

    # And the launch buttons lead to the repository it came from.
    binder = "https://mybinder.org/v2/gh/somebody/a.book/main?urlpath=lab/tree/notebooks"
    colab = "https://colab.research.google.com/github/somebody/a.book/blob/main/notebooks"
    page = small / "book/_build/html/notebooks/02_second.html"
    assert f'href="{binder}/02_second.ipynb"' in page.read_text()
    assert colab not in page.read_text()

    # To Colab, too, when the chapters install the package there. The cell is not on the page.
    for _ in range(2):
        result = make(small, "colab")
        assert result.returncode == 0, result.stdout
        source = nbformat.read(small / "notebooks/02_second.ipynb", as_version=4)
        nbformat.validate(source)
        assert "%pip install -q git+https://github.com/somebody/a.book" in source.cells[1].source
        assert [cell.id for cell in source.cells] == ["0", "1", "2", "3"]
    assert outcome(small, "cpu", targets=["book"])[1] == ["first 3\n", "changed\n"]
    assert f'href="{colab}/02_second.ipynb"' in page.read_text()
    assert "%pip" not in page.read_text() and "google.colab" not in page.read_text()


def test_without_an_address_there_is_nothing_to_launch(small):
    result = make(small, "colab")
    assert result.returncode != 0 and "error: the book's address is not known" in result.stdout
    assert "mybinder" not in (small / "book/_build/html/notebooks/01_first.html").read_text()


def test_an_edit_during_the_run_is_not_missed(small):
    source = small / "notebooks/01_first.ipynb"
    code = f"import os, time; time.sleep(0.1); os.utime({str(source)!r})"
    write_chapter(small, "01_first", enumerate([code]))
    assert outcome(small)[0] == ["01_first"]
    assert outcome(small)[0] == ["01_first"]
