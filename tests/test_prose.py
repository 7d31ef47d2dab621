"""The chapters as texts: exercises with solutions that run, sources, and no number that is typed."""

import json
import re

import pytest
from books import CHAPTERS, ROOT
from pybtex.database import parse_file

# Entries that occur twice are an error there.
BIBLIOGRAPHY = dict(parse_file(ROOT / "book/references.bib").entries)


def cells(stem):
    notebook = json.loads((ROOT / f"notebooks/{stem}.ipynb").read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def text(stem, kind="markdown"):
    return "\n\n".join(source for of, source in cells(stem) if of == kind)


TEXTS = {stem: text(stem) for stem in CHAPTERS}


# --- exercises


@pytest.mark.parametrize("stem", CHAPTERS)
def test_every_exercise_has_a_title_and_a_solution(stem):
    exercises = re.findall(r"```\{exercise\} (.+)\n:label: (ex-[\w-]+)", TEXTS[stem])
    solved = re.findall(r"```\{solution(?:-start)?\} (ex-[\w-]+)\n:label: sol-", TEXTS[stem])
    assert len(exercises) >= 3
    assert sorted(label for _, label in exercises) == sorted(solved)
    assert TEXTS[stem].count("{solution-start}") == TEXTS[stem].count("{solution-end}")
    # Nothing but exercises stands after their heading.
    assert not re.search(r"^## ", TEXTS[stem].partition("## Exercises")[2], re.MULTILINE)


@pytest.mark.parametrize("stem", CHAPTERS)
def test_solutions_run_and_state_what_they_found(stem):
    running, inside = {}, None
    for kind, source in cells(stem):
        if kind == "markdown":
            marks = re.findall(r"\{solution-start\} (ex-[\w-]+)|\{(solution-end)\}", source)
            for label, _ in marks:
                inside = label or None
        elif inside:
            running[inside] = running.get(inside, "") + source
    assert len(running) >= 2
    assert any("assert " in code for code in running.values())


def test_labels_of_blocks_are_used_once_in_the_book():
    labels = re.findall(r"^:label: ([\w-]+)", "\n".join(TEXTS.values()), re.MULTILINE)
    assert len(labels) == len(set(labels))


# --- sources


def test_every_entry_of_the_bibliography_leads_somewhere():
    for key, entry in BIBLIOGRAPHY.items():
        link = entry.fields.get("doi", entry.fields.get("url", ""))
        assert re.match(r"10\.\d{4,}/|https?://", link), key
        assert entry.fields["title"] and entry.persons["author"], key


def test_the_bibliography_is_what_is_cited():
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md")]
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join([*TEXTS.values(), *pages]))
    named = {key.strip() for keys in cited for key in keys.split(",")}
    assert named == set(BIBLIOGRAPHY)


# --- numbers


def prose(source):
    """What is read as sentences: no code, mathematics, addresses, labels or names in backquotes.

    What is cited or leads to another's page is marked so.
    """
    source = re.sub(r"\{cite[^`]*`[^`]*`|\]\(https?://[^)]*\)", " CITED ", source)
    for pattern in (
        r"(?s)```\w.*?```",
        r"(?m)^:[\w-]+:.*$|^`{3,}.*$|^:::.*$",
        r"(?s)\$\$.*?\$\$|\$[^$]*\$",
        r"\{[\w:]+\}`[^`]*`|`[^`]*`",
        r"\]\([^)]*\)|https?://\S+|<[^>]*>",
    ):
        source = re.sub(pattern, " ", source)
    return source


# A name with a number in it, or a size: VGG19, CIFAR-10, 784-300-100-10, 3 × 3, 2011.
NAMES = r"\b[A-Za-z]\w*-?\d+\b|\b\d+(?:-\d+)+\b|\d+ × \d+|\b(?:19|20)\d\d\b|\b\d+-bit|float\d+"
MEASURED = r"\d[\d,]*\.\d+|\d[\d,]*\.?\d* ?%|\d[\d,]*"


def typed(stem):
    """Numbers in a chapter's sentences that are neither its parameters nor somebody's, cited."""
    told = set(re.findall(r"\d+(?:\.\d+)?", text(stem, "code").replace("_", "")))
    found = []
    for sentence in re.split(r"(?<=[.!?:;])\s+|\n\n|\n[-*|]", prose(TEXTS[stem])):
        if "CITED" in sentence:
            continue
        for match in re.finditer(MEASURED, re.sub(NAMES, " ", sentence)):
            number = match[0].rstrip("%, ").replace(",", "")
            small = "." not in number and "%" not in match[0] and int(number) <= 12
            if not small and number not in told:
                found.append(f"{match[0]}: {' '.join(sentence.split())[:90]}")
    return found


@pytest.mark.parametrize("stem", CHAPTERS)
def test_no_number_in_a_sentence_is_typed(stem):
    assert typed(stem) == []


def test_a_typed_number_would_be_seen(monkeypatch):
    monkeypatch.setitem(
        TEXTS, CHAPTERS[0], "It loses 0.37 points, or 14%, in 1,234 bytes.\n\nVGG19 in 2015."
    )
    assert [one.split(":")[0] for one in typed(CHAPTERS[0])] == ["0.37", "14%", "1,234"]
