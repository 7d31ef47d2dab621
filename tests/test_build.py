"""`make book`: the whole book in the smoke profile, and how the build behaves when things happen.

The behaviours are shown on a small book of two short chapters, written by the tests.
"""

import contextlib
import importlib.util
import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from books import CHAPTERS, ROOT, TWO_AT_A_TIME, command, environment, make


def chapters_run(result):
    return re.findall(r"^\[ ?\d+/\d+\] (\w+)", result.stdout, re.MULTILINE)


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


def write_chapter(folder, stem, code, parameters="size = 1"):
    tagged = nbformat.v4.new_code_cell(parameters, id="parameters")
    tagged.metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell(f"# {stem}", id="title")
    cells = [title, tagged, *(nbformat.v4.new_code_cell(c, id=f"code{i}") for i, c in code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"notebooks/{stem}.ipynb")


def write_profile(folder, name, **chapters):
    (folder / f"notebooks/profiles/{name}.yaml").write_text(yaml.safe_dump(chapters))


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


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A small book, built once."""
    folder = tmp_path_factory.mktemp("small") / "with a space"
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
    return folder


@pytest.fixture
def small(built, tmp_path):
    """A copy of the built small book, with its times."""
    return Path(shutil.copytree(built, tmp_path / "a book", copy_function=shutil.copy2))


def output_of(folder, stem):
    notebook = nbformat.read(folder / f"book/notebooks/{stem}.ipynb", as_version=4)
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)


STEMS = ["01_first", "02_second"]
EXECUTED = [f"book/notebooks/{stem}.ipynb" for stem in STEMS]


def outcome(folder, profile="smoke", targets=EXECUTED):
    """Chapters that ran, without the pages unless asked for, and what each then prints."""
    result = make(folder, *targets, f"PROFILE={profile}")
    assert result.returncode == 0, result.stdout
    return chapters_run(result), [output_of(folder, stem) for stem in STEMS]


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


def test_a_module_that_cannot_be_read_is_named(small):
    (small / "ntklc_helpers/scales.py").write_text("scale = \n")
    said = refused(small)
    assert "error: ntklc_helpers/scales.py, line 1: invalid syntax" in said


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


def test_a_second_build_waits_for_the_first(small):
    """Started while a chapter runs: neither fails, nothing is run twice and nothing is lost."""
    code = "import pathlib, time; pathlib.Path('running').touch(); time.sleep(3); print('slow')"
    write_chapter(small, "01_first", enumerate([code]))
    first = subprocess.Popen(
        command("book", "PROFILE=smoke"),
        cwd=small,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for((small / "running").exists)
    second = make(small, "book", "PROFILE=smoke")
    said, _ = first.communicate()
    assert first.returncode == 0, said
    assert second.returncode == 0, second.stdout
    assert "Another build is at work in this folder; this one waits" in second.stdout
    assert re.findall(r"\] (\w+)", said) == ["01_first"] and chapters_run(second) == []
    assert "slow" in (small / "book/_build/html/notebooks/01_first.html").read_text()


def test_a_failing_chapter_stops_the_build_and_the_next_goes_on(small):
    write_chapter(small, "01_first", enumerate(["print('changed', size)"]))
    write_chapter(small, "02_second", enumerate(["done = size", "print(done)\n1 / (done - 2)"]))
    before = (small / "book/notebooks/02_second.ipynb").read_bytes()
    result = make(small, "book", "PROFILE=smoke")
    assert result.returncode != 0 and chapters_run(result) == STEMS
    assert "notebooks/02_second.ipynb failed in cell 4 of 4:\n    print(done)\n" in result.stdout
    assert "----> 2 1 / (done - 2)" in result.stdout and "\x1b" not in result.stdout
    assert "ZeroDivisionError: division by zero" in result.stdout
    assert "The partly executed copy is build/failed/02_second.ipynb" in result.stdout
    failed = nbformat.read(small / "build/failed/02_second.ipynb", as_version=4)
    assert any(output.get("text") == "2\n" for output in failed.cells[-1].outputs)
    assert (small / "book/notebooks/02_second.ipynb").read_bytes() == before

    write_chapter(small, "02_second", enumerate(["print('mended')"]))
    assert outcome(small) == (["02_second"], ["changed 2\n", "mended\n"])
    assert not (small / "build/failed/02_second.ipynb").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "The kernel stopped"),
        ("import sys; sys.exit(0)", "02_second ended early: cell 4 and what follows did not run"),
    ],
)
def test_a_chapter_that_ends_early_is_not_finished(small, code, message):
    write_chapter(small, "02_second", enumerate([code, "print('never')"]))
    before = (small / "book/notebooks/02_second.ipynb").read_bytes()
    result = make(small, "book", "PROFILE=smoke")
    assert result.returncode != 0 and message in result.stdout
    assert (small / "book/notebooks/02_second.ipynb").read_bytes() == before
    assert (small / "build/failed/02_second.ipynb").is_file()


def test_a_warning_fails_the_pages_again_and_again(small):
    (small / "book/intro.md").write_text("# A small book\n\n{ref}`nowhere`\n")
    for _ in range(2):
        result = make(small, "book", "PROFILE=smoke")
        assert result.returncode != 0 and chapters_run(result) == []
        assert "undefined label: 'nowhere'" in result.stdout
    assert "nowhere" not in (small / "book/_build/html/intro.html").read_text()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"01_first": {"size": 1}}, "smoke.yaml has no parameters for 02_second"),
        ({"01_first": {"width": 1}, "02_second": {}}, "01_first has no parameter 'width'"),
        ({"01_first": {}, "02_second": {}, "03_third": {}}, "names 03_third: no such notebook"),
        (None, "PROFILE=smoke: no such profile; there are cpu"),
    ],
)
def test_a_profile_that_does_not_fit_is_an_error(small, profile, message):
    if profile is None:
        (small / "notebooks/profiles/smoke.yaml").unlink()
    else:
        write_profile(small, "smoke", **profile)
    result = make(small, "book", "PROFILE=smoke")
    assert result.returncode != 0 and chapters_run(result) == []
    assert message in result.stdout and "Traceback" not in result.stdout


def start_and_kill(folder, seen, how=signal.SIGKILL, may_end=False):
    """Start the build, wait until ``seen()`` is true, and kill make and all it started."""
    process = subprocess.Popen(
        command("book", "PROFILE=smoke"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # What a shell starts in the background ignores interrupts, and so would the build.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(seen)
    assert may_end or process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait()


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_chapter_is_not_finished_and_leaves_no_kernel(small, how):
    code = "import os, time; open('pid', 'w').write(str(os.getpid()) + ' ')\ntime.sleep(90)"
    write_chapter(small, "02_second", enumerate([code]))
    before = (small / "book/notebooks/02_second.ipynb").read_bytes()
    pid = small / "pid"
    start_and_kill(small, lambda: pid.exists() and pid.read_text().endswith(" "), how)
    assert (small / "book/notebooks/02_second.ipynb").read_bytes() == before
    wait_for(lambda: not is_running(int(pid.read_text())))
    write_chapter(small, "02_second", enumerate(["print('quick')"]))
    assert outcome(small) == (["02_second"], ["first 2\n", "quick\n"])


def made(folder, below):
    """Every file that a build put below the folder, and what it holds."""
    paths = (folder / below).rglob("*")
    return {p.relative_to(folder): p.read_bytes() for p in paths if p.is_file()}


def test_killed_at_any_moment_the_build_goes_on_to_the_same_book(built, small):
    """What is in place after a kill is finished; what is not there is made by the next build."""
    below = ("book/notebooks", "book/_build/html")
    whole = [made(built, name) for name in below]
    for name in ("build", *below):
        shutil.rmtree(small / name)
    start = time.monotonic()
    assert make(small, "book", "PROFILE=smoke").returncode == 0
    length = time.monotonic() - start
    assert [made(small, name) for name in below] == whole
    for name in ("build", *below):
        shutil.rmtree(small / name)
    moments = sorted(random.SystemRandom().uniform(0, length) for _ in range(4))
    for moment in moments:
        end = time.monotonic() + moment
        start_and_kill(small, lambda end=end: time.monotonic() > end, may_end=True)
        notebooks, pages = [made(small, name) for name in below]
        assert notebooks.items() <= whole[0].items(), moments
        assert pages in ({}, whole[1]), moments
    assert make(small, "book", "PROFILE=smoke").returncode == 0
    assert [made(small, name) for name in below] == whole, moments


def test_killed_pages_are_not_finished(small):
    html = small / "book/_build/html"
    shutil.rmtree(html)
    start_and_kill(small, lambda: any((small / "build").glob("pages/_build/html/*")))
    assert not html.exists()
    assert outcome(small, targets=["book"])[0] == []
    assert (html / "notebooks/02_second.html").is_file()


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


# --- what the machine may lack


@pytest.fixture(scope="session")
def build_steps():
    spec = importlib.util.spec_from_file_location("build_steps", ROOT / "book/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dependencies(build_steps):
    return build_steps.dependencies


@pytest.mark.parametrize("blocked", ["build", "book/notebooks"])
def test_a_folder_that_cannot_be_written_is_named(small, blocked):
    shutil.rmtree(small / blocked)
    (small / blocked).write_text("in the way")
    result = make(small, "book", "PROFILE=smoke")
    assert result.returncode != 0
    assert re.search(rf"error: {blocked}.*: (File exists|Not a directory)", result.stdout)
    assert "Traceback" not in result.stdout


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


@pytest.mark.parametrize(
    "blocked", ["build/parameters", "build/running", "book/notebooks", "build", "book/_build"]
)
def test_a_read_only_folder_is_named(small, blocked):
    write_profile(small, "smoke", **{"01_first": {"size": 7}, "02_second": {"size": 7}})
    if blocked in ("build", "book/_build"):
        (small / "book/intro.md").write_text("# Another\n")
        write_profile(small, "smoke", **{"01_first": {"size": 2}, "02_second": {"size": 2}})
    (small / blocked).chmod(0o555)
    # Root writes everywhere, unless it gives that right away.
    root = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    said = refused(small, *root)
    (small / blocked).chmod(0o755)
    assert re.search(rf"error: .*{blocked}\b.*: Permission denied", said)
    assert "Traceback" not in said


@pytest.mark.parametrize(("step", "room"), [("chapter", 1_000), ("pages", 200_000)])
def test_where_files_cannot_grow_the_build_stops(small, step, room):
    """A limit on the size of files: writes fail in the midst of a file, as on a full disk."""
    write_chapter(small, "02_second", enumerate(["print('changed' * 100)"]))
    if step == "pages":
        assert outcome(small)[0] == ["02_second"]
    said = refused(small, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    assert said.count("File too large") == 1 and "Traceback" not in said
    assert outcome(small, targets=["book"])[1] == ["first 2\n", "changed" * 100 + "\n"]


def can_mount():
    mount = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") and subprocess.run(mount, capture_output=True).returncode == 0


# Copies a book to a disk of 64 MB, builds it there, and copies back what is then in its place.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=64m tmpfs "$1"
cp -a "$2/." "$1" && cd "$1" && shift 2 && out="$1" && shift && "$@"
status=$?
cp -a book "$out"
exit $status
"""
FILL_THE_DISK = """import contextlib
with contextlib.suppress(OSError), open("filler", "wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))"""


@pytest.mark.skipif(not can_mount(), reason="a small disk cannot be mounted here")
@pytest.mark.parametrize("step", ["chapter", "pages"])
def test_a_full_disk_is_one_message_and_leaves_no_page(small, tmp_path, step):
    if step == "chapter":  # the disk is full when the chapter ran half
        write_chapter(small, "02_second", enumerate([FILL_THE_DISK, "print('late' * 10_000)"]))
    else:
        (small / "book/intro.md").write_text("# Another\n")
        (small / "filler").write_bytes(bytes(64_000_000 - size_of(small) - 400_000))
    below = ("book/notebooks", "book/_build/html")
    whole = [made(small, name) for name in below]
    disk, after = tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    after.mkdir()
    unshared = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    result = subprocess.run(
        [*unshared, str(disk), str(small), str(after), *command("book", "PROFILE=smoke")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode != 0
    assert result.stdout.count("error:") == 1 and "Traceback" not in result.stdout
    assert result.stdout.count("No space left on device") == 1
    assert [made(after, name) for name in below] == whole


def size_of(folder):
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


def test_a_missing_kernel_is_one_message_and_leaves_no_page(small):
    path = small / "notebooks/02_second.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "nowhere", "display_name": "No", "language": "no"}
    nbformat.write(notebook, path)
    said = refused(small)
    asks = "notebooks/02_second.ipynb asks for the kernel 'nowhere', and there is none here"
    assert asks in said and "chapters run with 'python3', which `make env` installs" in said
    assert "Traceback" not in said

    for name in ("book/notebooks", "book/_build"):
        shutil.rmtree(small / name)
    result = make(small, "book", "PROFILE=smoke")
    assert result.returncode != 0 and chapters_run(result) == STEMS and asks in result.stdout
    assert set(made(small, "book/notebooks")) == {Path(EXECUTED[0])}
    assert not (small / "book/_build").exists()


def test_a_kernel_that_does_not_start_is_one_message(small, tmp_path):
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit(1)\n")
    write_chapter(small, "02_second", enumerate(["print('changed')"]))
    said = refused(small, "env", f"PYTHONPATH={tmp_path}")
    assert "02_second: RuntimeError: Kernel died before replying to kernel_info" in said
    assert "Traceback" not in said


def test_no_python_is_one_message(small):
    result = subprocess.run(
        ["make", "env", "VENV=env", "PYTHON=/nowhere/python3"],
        cwd=small,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "PYTHON=/nowhere/python3 must be Python 3.11 or newer" in result.stderr
    assert not (small / "env").exists()
