"""The reference pages leave nothing out, and what they name exists."""

import re
from pathlib import Path

import pytest
import yaml

import ntklc_helpers as nh

ROOT = Path(__file__).parents[1]
API = {path.stem: path.read_text() for path in (ROOT / "book/api").glob("*.md")}
DOCUMENTED = re.findall(r"^\.\. automodule:: ntklc_helpers\.(\w+)$", "\n".join(API.values()), re.M)
GLOSSARY = (ROOT / "book/glossary.md").read_text()


def test_every_module_has_one_entry():
    modules = {path.stem for path in (ROOT / "ntklc_helpers").glob("*.py")} - {"__init__"}
    assert sorted(DOCUMENTED) == sorted(modules)
    listed = re.findall(r"`(\w+)`", API["index"].split("| modules |")[1].split("\n\n")[0])
    assert sorted(listed) == sorted(DOCUMENTED)


@pytest.mark.parametrize("name", nh.__all__)
def test_every_public_name_is_documented(name):
    value = getattr(nh, name)
    if callable(value):
        assert value.__doc__ and value.__doc__.strip()
        assert value.__module__.removeprefix("ntklc_helpers.") in DOCUMENTED


def test_every_page_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = {toc["root"]} | {
        entry["file"] for c in chapters for entry in [c, *c.get("sections", [])]
    }
    pages = {
        str(p.relative_to(ROOT / "book").with_suffix("")) for p in (ROOT / "book").rglob("*.md")
    }
    assert {page for page in pages if not page.startswith("_build")} <= files


def test_the_glossary_names_what_there_is():
    for name in re.findall(r"`nh\.(\w+)", GLOSSARY):
        assert hasattr(nh, name), name
    g = nh.gaussian_moments(nh.activation("relu"))
    moments = GLOSSARY.split("## Activations")[1].split("## Kernels")[0]
    for name in re.findall(r"`\.(\w+)`", moments):
        assert hasattr(g, name), name
    mixture = nh.GaussianMixture.preset("mixed", p=6)
    sample = mixture.sample(8, seed=0)
    stats = mixture.statistics(sample)
    n, p, K = 8, 6, 2
    sizes = {"n": n, "p": p, "K": K, "n, p": (n, p), "n, K": (n, K), "K, K": (K, K), "K, p": (K, p)}
    sizes |= {"K,": (K,), "n,": (n,), "K, p, p": (K, p, p)}
    for line in GLOSSARY.split("## Activations")[0].splitlines():
        found = re.match(
            r"\| .* \| `(sample|mixture|stats)\.(\w+)` \|.*\| (?:\$\((.*)\)\$|scalar) \|", line
        )
        if found:
            owner = {"sample": sample, "mixture": mixture, "stats": stats}[found[1]]
            shape = getattr(getattr(owner, found[2]), "shape", ())
            assert shape == (sizes[found[3]] if found[3] else ()), line


def test_every_reference_has_a_link():
    entries = re.split(r"^@", (ROOT / "book/references.bib").read_text(), flags=re.M)[1:]
    for entry in entries:
        link = re.search(r"(?:url|doi)\s*=\s*\{(.*?)\}", entry)
        assert link and re.match(r"https://|10\.\d{4,}/", link[1]), entry.splitlines()[0]
