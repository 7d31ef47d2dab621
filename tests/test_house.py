"""The house: rooms in one order, faces, floors, sizes; what is imported and what is not."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import ntklc_helpers

ROOT = Path(ntklc_helpers.__file__).parent
# Each may import from those before it. The checks, what makes faces and the figures' style are no rooms.
ORDER = ("_checks", "_face", "data", "theory", "matching", "compression", "plots", "experiments")
ROOMS = tuple(name for name in ORDER if (ROOT / name).is_dir())
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
}
MOST_FLOORS, MOST_OF_A_FUNCTION = 8, 45


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


def resolved(module, node):
    """Modules of the package that an import statement of ``module`` names, and the names taken."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "ntklc_helpers":
                yield alias.name.partition(".")[2] or "__init__", ()
        return
    if not isinstance(node, ast.ImportFrom):
        return
    if node.level:
        base = [*module.split(".")][: -node.level]
    elif node.module and node.module.split(".")[0] == "ntklc_helpers":
        base = []
    else:
        return
    inside = (node.module or "").split(".") if node.level else (node.module or "").split(".")[1:]
    parts = [part for part in (*base, *inside) if part]
    for alias in node.names:
        whole = ".".join([*parts, alias.name])
        for name in (whole, f"{whole}.__init__"):
            if name in MODULES:
                yield name, ()
                break
        else:
            name = ".".join(parts) or "__init__"
            yield (name if name in MODULES else f"{name}.__init__"), (alias.name,)


def imports(module):
    """Pairs (module imported, names taken from it), wherever the import stands."""
    return [found for node in ast.walk(tree(module)) for found in resolved(module, node)]


def room(module):
    return module.split(".")[0]


def faces():
    return [module for module in MODULES if module.endswith("__init__")]


def test_the_table_names_all_there_is():
    assert {room(module) for module in MODULES} == {*ORDER, "__init__"}
    assert len(ROOMS) == 5


def test_rooms_import_from_rooms_before_them():
    against = [
        f"{module} imports {other}"
        for module in MODULES
        if module != "__init__"
        for other, _ in imports(module)
        if other == "__init__" or ORDER.index(room(other)) > ORDER.index(room(module))
    ]
    assert not against, "\n".join(against)


@pytest.mark.parametrize("name", ["_checks", "_face"])
def test_what_stands_before_the_rooms_imports_nothing_of_ours(name):
    assert imports(name) == []


def test_a_room_is_entered_by_its_modules_not_by_its_face():
    """A room's own modules, and later rooms, name the module they need: a face would be a cycle."""
    against = [
        f"{module} imports {other}"
        for module in MODULES
        if module not in faces()
        for other, _ in imports(module)
        if other.endswith("__init__")
    ]
    assert not against, "\n".join(against)


def floors():
    """Length of the longest chain of imports that ends in each module; a cycle is an error."""
    height = {}

    def climb(module, path):
        assert module not in path, " → ".join([*path, module])
        if module not in height:
            below = {other for other, _ in imports(module) if other != module}
            height[module] = 1 + max((climb(o, (*path, module)) for o in below), default=0)
        return height[module]

    for module in MODULES:
        climb(module, ())
    return height


def test_imports_point_one_way_and_few_floors_up():
    """No cycles; faces and the list of records, which only gather, are no floors."""
    gather = {*faces(), "experiments.__main__"}
    assert not {m: h for m, h in floors().items() if h > MOST_FLOORS and m not in gather}
    for module in gather:
        assert not any(
            isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree(module).body
        )


def test_private_names_stay_in_their_module():
    against = [
        f"{module} takes {name} from {other}"
        for module in MODULES
        for other, names in imports(module)
        for name in names
        if name.startswith("_")
    ]
    assert not against, "\n".join(against)


@pytest.mark.parametrize("name", ROOMS)
def test_each_room_has_a_face_and_a_readme(name):
    module = __import__(f"ntklc_helpers.{name}", fromlist=["__all__"])
    assert module.__doc__ and module.__all__
    modules = {path.stem for path in (ROOT / name).glob("*.py")}
    assert all(hasattr(module, found) or found in modules for found in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    homes = {
        getattr(getattr(module, n), "__module__", module.__name__)
        for n in module.__all__
        if n not in modules
    }
    assert all(home.startswith("ntklc_helpers.") for home in homes), homes
    readme = (ROOT / name / "README.md").read_text().strip()
    assert 3 <= len(readme.splitlines()) <= 5
    for path in (ROOT / name).glob("[!_]*.py"):
        assert path.stem in readme, f"{name}/README.md does not name {path.stem}"


def test_the_face_is_in_the_order_of_the_rooms():
    nh = ntklc_helpers
    rooms = [name for name in ROOMS if name in nh.__all__]
    assert rooms == ["data", "theory", "matching", "compression"]
    places = []
    for name in nh.__all__:
        if name not in rooms:
            home = next(r for r in rooms if name in getattr(nh, r).__all__)
            assert getattr(nh, name) is getattr(getattr(nh, home), name)
            places.append(rooms.index(home))
    assert places == sorted(places) and len(places) <= 50


def test_what_the_face_imports():
    """Chapters' machinery and tables are for those who ask for them."""
    code = "import ntklc_helpers, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "ntklc_helpers.compression" in loaded
    unwanted = {"ntklc_helpers.experiments", "ntklc_helpers.plots", "pandas", "seaborn", "PIL"}
    unwanted |= {"sklearn", "ntklc_helpers.compression.estimators"}
    assert not unwanted & set(loaded)


def test_what_is_imported_when_asked_for_is_there_for_all():
    nh = ntklc_helpers
    for name in ("NTKLCClassifier", "NTKLCRegressor"):
        for face in (nh, nh.compression):
            assert name in face.__all__ and name in dir(face)
        assert getattr(nh, name).__module__ == "ntklc_helpers.compression.estimators"
    with pytest.raises(
        AttributeError, match="module 'ntklc_helpers' has no attribute 'unheard_of'"
    ):
        nh.unheard_of  # noqa: B018


def lengths(module):
    """Name and number of lines, without its docstring, of each function."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_doc = ast.get_docstring(node) is not None
            doc = first.end_lineno - first.lineno + 1 if has_doc else 0
            yield node.name, node.end_lineno - node.lineno + 1 - doc


def test_functions_are_short():
    long = [
        f"{module}.{name}: {length}"
        for module in MODULES
        for name, length in lengths(module)
        if length > MOST_OF_A_FUNCTION
    ]
    assert not long, "\n".join(long)
