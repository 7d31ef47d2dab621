"""Every example in the package runs; every public function says what it returns and refuses."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap

import numpy as np
import pytest
import torch
from small_data import write_cifar, write_mnist

import ntklc_helpers as nh
from ntklc_helpers import data, experiments, matching, plots, theory

ROOMS = (data, theory, matching, nh.compression, experiments)
MODULES = [
    found.name
    for found in pkgutil.walk_packages(nh.__path__, "ntklc_helpers.")
    if not found.name.endswith("__main__")
]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# One thing of a class has no shape and no parts to be told: its first line says what it is.
ONE_THING = re.compile(r"(bool|float|int|str|(?!.*Array|.*Tensor)([a-z]+\.)?[A-Z]\w+)( \| None)?")
# As told by another's docstring: 'Arguments, result and errors as for :func:`load_images`.'
REFERENCE = re.compile(r"\b[Aa]s (for |in )?(:\w+:)?`")


@pytest.fixture
def few_images(tmp_path, monkeypatch):
    """MNIST and CIFAR-10 of a few images, and a folder to write to."""
    write_mnist(tmp_path)
    write_cifar(tmp_path)
    monkeypatch.setenv("NTKLC_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, few_images, capsys):
    module = importlib.import_module(name)
    names = {"nh": nh, "np": np, "plots": plots, "torch": torch}
    finder = doctest.DocTestFinder(exclude_empty=True)
    for test in finder.find(module, name, extraglobs=names):
        torch.manual_seed(0)  # layers that an example makes have the same weights each time
        found = doctest.DocTestRunner(optionflags=FLAGS).run(test)
        assert not found.failed, f"{test.name}\n{capsys.readouterr().out}"


def promised():
    """What the face and the rooms name, once, by its full name; of a module what it promises."""
    found = {}
    for room in (nh, *ROOMS):
        for name in room.__all__:
            thing = getattr(room, name, None) or importlib.import_module(f"{room.__name__}.{name}")
            inside = [thing]
            if inspect.ismodule(thing) and thing not in ROOMS:
                public = [key for key in vars(thing) if not key.startswith("_")]
                public = [getattr(thing, key) for key in getattr(thing, "__all__", public)]
                inside = [v for v in public if getattr(v, "__module__", "") == thing.__name__]
            for one in inside:
                if inspect.isfunction(one) or isinstance(one, type) and not _is_error(one):
                    found[f"{one.__module__}.{one.__qualname__}"] = one
    return found


def _is_error(thing):
    return isinstance(thing, type) and issubclass(thing, Exception)


PROMISED = promised()


def said(thing):
    doc = inspect.getdoc(thing) or ""
    sections = set(re.findall(r"^(\w+)\n-{3,}$", doc, re.MULTILINE))
    return doc, sections


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_what_is_promised_has_an_example(name):
    doc, sections = said(PROMISED[name])
    assert "Examples" in sections and ">>> " in doc.partition("Examples\n")[2]


def refuses(function):
    """Whether the function itself raises, or hands its arguments to a check."""
    checks = {name for name, _ in inspect.getmembers(nh._checks, inspect.isfunction)}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise):
            return True
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in checks
        ):
            return True
    return False


FUNCTIONS = sorted(name for name, thing in PROMISED.items() if inspect.isfunction(thing))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_return_and_refuse(name):
    function = PROMISED[name]
    doc, sections = said(function)
    elsewhere = REFERENCE.search(doc)
    returns = str(inspect.signature(function).return_annotation)
    plain = returns == "None" or ONE_THING.fullmatch(returns)
    assert plain or sections & {"Returns", "Yields"} or elsewhere, "no Returns"
    raises = "Raises" in sections or re.search(r"\bRaises\s+\w*Error", doc)
    assert not refuses(function) or raises or elsewhere, "no Raises"
