"""The reference pages leave nothing out, what they name exists, and their examples run."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import attrs
import dependencies
import matplotlib
import pytest
import reference
import yaml
from sphinx.util.inspect import stringify_signature

import ntklc_helpers as nh

ROOT = Path(__file__).parents[1]
matplotlib.use("Agg")

MODULES = dependencies.Modules(ROOT / "ntklc_helpers")
API = {path.stem: path.read_text() for path in (ROOT / "book/api").glob("*.md")}
PAGES = {stem: reference.filled(text, MODULES) for stem, text in API.items()}
AUTOMODULE = re.compile(r"^\.\. automodule:: (\S+)$", re.MULTILINE)
DOCUMENTED = {stem: AUTOMODULE.findall(text) for stem, text in PAGES.items()}
PUBLIC = [
    name
    for name in MODULES.trees
    if name not in MODULES.faces and not name.rpartition(".")[2].startswith("_")
]
GLOSSARY = (ROOT / "book/glossary.md").read_text()


def test_every_module_has_one_entry_on_the_page_of_its_room():
    assert sorted(sum(DOCUMENTED.values(), [])) == sorted(PUBLIC)
    for stem, names in DOCUMENTED.items():
        assert {name.split(".")[1] for name in names} in ({stem}, {"plots"}, set())
        # And a line in the room's map, which says what it is for.
        rows = re.findall(
            r"^\| \[`(\w+)`\]\(module-[\w-]+\) \| (.*) \|$", PAGES[stem], re.MULTILINE
        )
        assert [short for short, _ in rows] == [name.rpartition(".")[2] for name in names]
        assert all(line.endswith((".", ")")) or "``" in line for _, line in rows), rows


def test_the_map_is_in_the_order_of_the_imports():
    for names in DOCUMENTED.values():
        for place, name in enumerate(names):
            assert MODULES.uses[name].isdisjoint(names[place + 1 :]), name


@pytest.mark.parametrize("name", nh.__all__)
def test_every_public_name_is_documented(name):
    value = getattr(nh, name)
    if callable(value):
        assert value.__doc__ and value.__doc__.strip()
        assert value.__module__ in PUBLIC


ATTRS = [
    thing
    for name in PUBLIC
    for thing in vars(importlib.import_module(name)).values()
    if isinstance(thing, type) and attrs.has(thing) and thing.__module__ == name
]


@pytest.mark.parametrize("thing", ATTRS, ids=lambda thing: thing.__name__)
def test_signatures_show_every_default(thing):
    plain = stringify_signature(inspect.signature(thing), show_annotation=False)
    shown = reference.with_factories(plain, thing)
    assert "NOTHING" not in shown and shown.count("=") == plain.count("=")


def test_a_signature_names_what_makes_a_default():
    plain = stringify_signature(inspect.signature(nh.theory.Pruned), show_annotation=False)
    shown = reference.with_factories(plain, nh.theory.Pruned)
    assert shown == "(sparsity, law=Gaussian(), rescale=True)"
    # And nothing that is no class of attrs is touched.
    assert reference.with_factories("(law=NOTHING)", nh.match) == "(law=NOTHING)"


def test_methods_that_another_library_adds_are_left_out():
    clf = nh.NTKLCClassifier
    added, own = (
        reference.skip(None, "class", method.__name__, method, False, {})
        for method in (clf.set_fit_request, clf.fit)
    )
    assert added is True and own is None


def test_the_tasks_of_the_first_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", API["index"], re.MULTILINE | re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    lengths = [len(ast.parse(block).body) for block in blocks]
    assert lengths == [1, 3, 3, 3, 3, 2, 3]
    assert names["K"].shape == names["N"].shape == (200, 200)
    assert names["outliers"] and names["small"].score(names["X"], names["digits"].labels) > 0.8
    assert len(names["record"].table) == 2


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
    moments = GLOSSARY.split("### Activations")[1].split("### Kernels")[0]
    for name in re.findall(r"`\.(\w+)`", moments):
        assert hasattr(g, name), name
    mixture = nh.GaussianMixture.preset("mixed", p=6)
    sample = mixture.sample(8, seed=0)
    stats = mixture.statistics(sample)
    n, p, K = 8, 6, 2
    sizes = {"n": n, "p": p, "K": K, "n, p": (n, p), "n, K": (n, K), "K, K": (K, K), "K, p": (K, p)}
    sizes |= {"K,": (K,), "n,": (n,), "K, p, p": (K, p, p)}
    for line in GLOSSARY.split("### Activations")[0].splitlines():
        found = re.match(
            r"\| .* \| `(sample|mixture|stats)\.(\w+)` \|.*\| (?:\$\((.*)\)\$|scalar) \|", line
        )
        if found:
            owner = {"sample": sample, "mixture": mixture, "stats": stats}[found[1]]
            shape = getattr(getattr(owner, found[2]), "shape", ())
            named = (found[3] or "").replace(r"\mathcal K", "K")
            assert shape == (sizes[named] if named else ()), line


def test_the_glossary_links_each_term_to_where_it_is_explained():
    terms = re.split(r"\n\n", GLOSSARY.split("```{glossary}\n")[1].split("\n```")[0])
    names = [term.partition("\n")[0] for term in terms]
    assert names == sorted(names, key=str.lower) and len(names) > 25
    for term in terms:
        linked = re.findall(r"\]\((notebooks/\w+)\)", term)
        assert linked and all((ROOT / f"{page}.ipynb").is_file() for page in linked), term


def test_every_reference_has_a_link():
    entries = re.split(r"^@", (ROOT / "book/references.bib").read_text(), flags=re.M)[1:]
    for entry in entries:
        link = re.search(r"(?:url|doi)\s*=\s*\{(.*?)\}", entry)
        assert link and re.match(r"https://|10\.\d{4,}/", link[1]), entry.splitlines()[0]
