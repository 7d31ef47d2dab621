"""Workflows fit GitHub's schema and run the commands of the README; the hooks are those of lint."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import books
import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def parsed(path):
    # YAML 1.1 reads the key `on` as true.
    workflow = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in workflow.items()}


def steps(path):
    return [step for job in parsed(path)["jobs"].values() for step in job["steps"]]


def validate(schema, *files):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        schema,
        *map(str, files),
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"]
)
def test_the_workflows_fit_the_published_schema(schema):
    assert len(WORKFLOWS) == 3
    result = validate(schema, *WORKFLOWS)
    assert result.returncode == 0, result.stdout


def test_the_schema_would_notice(tmp_path):
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs_on:"))
    assert validate("vendor.github-workflows", broken).returncode != 0


def test_the_citation_fits_its_schema():
    result = validate("vendor.citation-file-format", ROOT / "CITATION.cff")
    assert result.returncode == 0, result.stdout


def test_actions_are_pinned_by_commit_and_alike():
    text = "".join(path.read_text() for path in WORKFLOWS)
    used = re.findall(r"uses: *(\S+?)@(\S+)(.*)", text)
    assert used
    for name, commit, comment in used:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), name
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), name
    assert len({name for name, *_ in used}) == len(set(used))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_little_and_caches(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    python = [
        s["with"] for s in steps(path) if s.get("uses", "").startswith("actions/setup-python@")
    ]
    named = dict(entry.split("=") for entry in CONDA["dependencies"] if "=" in str(entry))
    for settings in python:
        assert settings["cache"] == "pip" and settings["python-version"] == named["python"]
        for name in settings["cache-dependency-path"].split():
            assert (ROOT / name).is_file()


def runs(path):
    return [step["run"] for step in steps(path) if "run" in step]


@pytest.mark.parametrize("command", sorted({run for path in WORKFLOWS for run in runs(path)}))
def test_what_a_workflow_runs_can_be_run(command):
    """A goal that the Makefile has, tried without doing it, or a module of the environment."""
    program, *arguments = command.split()
    if program == "make":
        result = books.make(ROOT, "--dry-run", *arguments)
        assert result.returncode == 0, result.stdout
    else:
        assert program == ".venv/bin/python" and arguments[0] == "-m"
        assert importlib.util.find_spec(arguments[1])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_steps_come_after_what_they_need(path):
    def place(start):
        return next((k for k, run in enumerate(runs(path)) if run.startswith(start)), None)

    made, browser, again = map(place, ("make book", "make test-browser", "make -k again"))
    if browser is not None:
        assert place(".venv/bin/python -m playwright install") < browser
    if again is not None:  # and with the same sizes
        assert made < again
        assert re.search(r"PROFILE=\w+", runs(path)[made])[0] in runs(path)[again]


def test_when_the_workflows_run():
    assert {"push", "pull_request"} <= set(parsed(ROOT / ".github/workflows/test.yml")["on"])
    nightly = parsed(ROOT / ".github/workflows/nightly.yml")["on"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", nightly["schedule"][0]["cron"])


def test_pages_are_published_from_the_book_that_was_built():
    build, deploy = parsed(ROOT / ".github/workflows/pages.yml")["jobs"].values()
    *_, upload = build["steps"]
    assert upload["uses"].startswith("actions/upload-pages-artifact@")
    assert upload["with"]["path"] == "book/_build/html"
    assert deploy["needs"] == "build" and deploy["environment"]["name"] == "github-pages"
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step["uses"].split("@")[0] for step in deploy["steps"]] == ["actions/deploy-pages"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_is_downloaded_is_kept(path):
    kept = {
        step["with"]["path"]: step["with"]["key"]
        for step in steps(path)
        if step.get("uses", "").startswith("actions/cache@")
    }
    wanted = {"test": {"ms-playwright"}, "nightly": {"ms-playwright", "ntklc"}, "pages": {"ntklc"}}
    assert {Path(name).name for name in kept} == wanted[path.stem]
    for key in kept.values():
        for name in re.findall(r"'(\S+?)'", key):
            assert list(ROOT.glob(name)), name


def test_the_hooks_are_those_of_lint():
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    checked = set(re.findall(r"-m (ruff check|ruff format|mypy|nbstripout)", recipe))
    hooks = [hook for repo in HOOKS for hook in repo["hooks"]]
    assert all(repo["repo"] == "local" for repo in HOOKS)
    assert {hook["name"] for hook in hooks} == checked
    for hook in hooks:
        assert hook["entry"].startswith(f"python -m {hook['name']}")


def test_no_type_error_is_ignored_without_a_reason():
    for path in (ROOT / "ntklc_helpers").rglob("*.py"):
        for line in path.read_text().splitlines():
            if "type: ignore" in line:
                assert re.search(r"type: ignore\[[\w-]+\]  # \w+", line), f"{path.name}: {line}"
