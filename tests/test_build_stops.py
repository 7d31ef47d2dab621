"""`make book` where it fails, is killed or lacks something: one message, and no half of a page."""

import contextlib
import os
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
from books import command, environment, make
from small_book import (
    EXECUTED,
    STEMS,
    chapters_run,
    made,
    outcome,
    refused,
    wait_for,
    write_chapter,
    write_profile,
)


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


def test_a_module_that_cannot_be_read_is_named(small):
    (small / "ntklc_helpers/scales.py").write_text("scale = \n")
    said = refused(small)
    assert "error: ntklc_helpers/scales.py, line 1: invalid syntax" in said


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


@pytest.mark.parametrize("blocked", ["build", "book/notebooks"])
def test_a_folder_that_cannot_be_written_is_named(small, blocked):
    shutil.rmtree(small / blocked)
    (small / blocked).write_text("in the way")
    result = make(small, "book", "PROFILE=smoke")
    assert result.returncode != 0
    assert re.search(rf"error: {blocked}.*: (File exists|Not a directory)", result.stdout)
    assert "Traceback" not in result.stdout


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
