"""Which modules of the package a chapter's numbers can depend on.

Read off the source, nothing is imported: the names that the chapter's code cells use, the modules
that define them, and what these import in turn. To import the package is to import nearly all of
it; but a module that the chapter does not reach by names can change its numbers only by what it
does while it is imported. One that does more then than to define names counts for every chapter.
Where a name cannot be followed, all modules count.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

PACKAGE = Path("ntklc_helpers")


class Untold(Exception):
    """A name that cannot be followed to the module that defines it."""


class Modules:
    """The package's modules by dotted name: their syntax trees, and what each takes from others."""

    def __init__(self, folder: Path = PACKAGE) -> None:
        self.root = folder.name
        self.trees: dict[str, ast.Module] = {}
        self.faces: set[str] = set()
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
            if parts[-1] == "__init__":
                self.faces.add(name)

    def used_by(self, tree: ast.AST, module: str = "") -> set[str]:
        """The modules that define what a piece of code names, without what these use.

        ``module`` is the one that the code stands in: relative imports start there.
        """
        found, rooms = set(), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                source = self.source(node, module)
                for entry in node.names if source in self.trees else ():
                    found.add(target := self.resolve(source, entry.name))
                    if target in self.faces:
                        rooms[entry.asname or entry.name] = target
            elif isinstance(node, ast.Import):
                for entry in node.names:
                    if entry.name.split(".")[0] == self.root:
                        found.add(entry.name)
                        # `import a.b as c` binds b, `import a.b` binds a.
                        rooms[entry.asname or self.root] = entry.name if entry.asname else self.root
        if not found <= self.trees.keys():
            raise Untold(", ".join(found - self.trees.keys()))
        return (found | self.by_attribute(tree, rooms)) - self.faces

    def source(self, node: ast.ImportFrom, module: str) -> str:
        """The absolute name of what a `from` import takes names from."""
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        above = node.level - (module in self.faces)
        return ".".join([*parts[: len(parts) - above], *filter(None, [node.module])])

    def resolve(self, source: str, name: str) -> str:
        """The module that defines what ``from source import name`` gives."""
        if f"{source}.{name}" in self.trees:
            return f"{source}.{name}"
        if source not in self.faces:
            return source
        for node in written(self.trees[source].body):
            if (
                isinstance(node, ast.ImportFrom)
                and (origin := self.source(node, source)) in self.trees
            ):
                for entry in node.names:
                    if (entry.asname or entry.name) == name:
                        return self.resolve(origin, entry.name)
            elif name in defined(node):
                return source
        raise Untold(f"{source}.{name}")

    def by_attribute(self, tree: ast.AST, rooms: dict[str, str]) -> set[str]:
        """The modules behind `nh.name`, for each name that stands for the package or a room."""
        found, followed = set(), set()
        for node in ast.walk(tree):
            chain, inner = [], node
            while isinstance(inner, ast.Attribute):
                chain.insert(0, inner.attr)
                inner = inner.value
            if chain and isinstance(inner, ast.Name) and inner.id in rooms:
                target = rooms[inner.id]
                while target in self.faces and chain:
                    target = self.resolve(target, chain.pop(0))
                found.add(target)
                followed.add(inner)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in rooms and node not in followed:
                raise Untold(f"{node.id} is used as a whole")
        return found

    @cached_property
    def uses(self) -> dict[str, set[str]]:
        return {name: self.used_by(tree, name) for name, tree in self.trees.items()}

    @cached_property
    def at_import(self) -> set[str]:
        """Modules that are imported with the package and do more then than to define names."""
        waiting, seen = [self.root], set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += [name.rpartition(".")[0]] * ("." in name)
                for node in self.trees[name].body:
                    if isinstance(node, ast.ImportFrom):
                        source = self.source(node, name)
                        named = [source, *(f"{source}.{entry.name}" for entry in node.names)]
                        waiting += [module for module in named if module in self.trees]
        return {name for name in seen if self.acts(name)}

    def acts(self, name: str) -> bool:
        """Whether a module does more, while it is imported, than to define names of its own."""
        body = self.trees[name].body
        theirs = {
            entry.asname or entry.name
            for node in body
            if isinstance(node, ast.ImportFrom) and self.source(node, name) in self.trees
            for entry in node.names
        }
        return not all(defines(node, theirs) for node in body)

    def closure(self, names: set[str]) -> set[str]:
        """The modules named, and all that they use, directly and through others."""
        waiting, seen = list(names), set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += self.uses[name]
        return seen

    def behind(self, cells: list[str]) -> set[str]:
        """All modules that code cells can depend on."""
        try:
            tree = ast.parse("\n".join(map(plain_python, cells)))
            return self.closure(self.used_by(tree) | self.at_import)
        except (SyntaxError, Untold):
            return set(self.trees)

    def fingerprint(self, name: str) -> str:
        """The same after a change of comments or layout alone."""
        return hashlib.sha256(ast.dump(self.trees[name]).encode()).hexdigest()[:16]


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module binds to something of its own."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    names = [n for t in targets(node) for n in ast.walk(t) if isinstance(n, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def targets(node: ast.stmt) -> list[ast.expr]:
    return [t for t in getattr(node, "targets", [getattr(node, "target", None)]) if t]


def defines(node: ast.stmt, theirs: set[str]) -> bool:
    """Whether a statement at the top of a module does no more than define a name.

    ``theirs`` are the module's names for what is defined in others: a decorator that is one of
    them may put down elsewhere what it decorates.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        named = {n.id for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)}
        return named.isdisjoint(theirs)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return all(isinstance(target, ast.Name | ast.Tuple) for target in targets(node))
    if isinstance(node, ast.If):
        return for_types(node)
    said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return said or isinstance(node, ast.Import | ast.ImportFrom | ast.Pass)


def for_types(node: ast.stmt) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, in whose place a face may import later."""
    test = ast.unparse(node.test) if isinstance(node, ast.If) else ""
    return test.rpartition(".")[2] == "TYPE_CHECKING"


def written(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements at the top of a module, and those that are there for types."""
    for node in body:
        yield from node.body if isinstance(node, ast.If) and for_types(node) else [node]


def plain_python(cell: str) -> str:
    """The cell with its magic commands, which name no module, put out of the way."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell, flags=re.MULTILINE)


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
