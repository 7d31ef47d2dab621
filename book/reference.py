"""The pages of the API reference: each room's map, and an entry for each of its modules.

A page says where its modules go with a line ``% modules of ROOM``; this Sphinx extension puts them
there, in the order in which they import each other. A module that is added is on its page. Of a
default that is made anew each time, signatures name what makes it.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import dependencies

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PLACE = re.compile(r"^% modules of (\w+)$", re.MULTILINE)


def public_modules(modules: dependencies.Modules, room: str) -> list[str]:
    """The room's modules, each after those that it imports; a room of one file is that file."""
    whole = f"{modules.root}.{room}"
    names = [whole] if whole not in modules.faces else []
    names += [name for name in modules.trees if name.startswith(f"{whole}.")]
    names = [name for name in names if not name.rpartition(".")[2].startswith("_")]
    order: list[str] = []

    def place(name: str) -> None:
        for used in sorted(modules.uses[name] & set(names) - {name} - set(order)):
            place(used)
        if name not in order:
            order.append(name)

    for name in names:
        place(name)
    return order


def first_sentence(tree: ast.Module) -> str:
    """The first line of the module's docstring, as it stands in a table."""
    return (ast.get_docstring(tree) or "").partition("\n")[0].replace("|", "\\|")


def entries(modules: dependencies.Modules, room: str) -> str:
    """The room's map, a line a module, and below it the modules themselves."""
    names = public_modules(modules, room)
    lines = ["| module | |", "|---|---|"]
    sections = []
    for name in names:
        short = name.rpartition(".")[2]
        lines.append(
            f"| [`{short}`](module-{room}-{short}) | {first_sentence(modules.trees[name])} |"
        )
        sections += [f"(module-{room}-{short})=", f"## `{short}`", ""]
        sections += ["```{eval-rst}", f".. automodule:: {name}", "   :members:", "```", ""]
    return "\n".join([*lines, "", *sections])


def filled(text: str, modules: dependencies.Modules) -> str:
    """A page's source with each room's modules in their place."""
    return PLACE.sub(lambda found: entries(modules, found[1]), text)


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    if PLACE.search(source[0]):
        package = Path(app.srcdir).parent / dependencies.PACKAGE
        source[0] = filled(source[0], dependencies.Modules(package))


def with_factories(signature: str | None, thing: Any) -> str | None:
    """A class's signature with ``law=Gaussian()`` where attrs has ``law=NOTHING``."""
    for field in attrs.fields(thing) if attrs.has(thing) else ():
        if signature and isinstance(field.default, attrs.Factory):
            maker = field.default.factory
            made = "…" if field.default.takes_self else f"{maker.__name__}()"
            signature = signature.replace(f"{field.alias}=NOTHING", f"{field.alias}={made}")
    return signature


def sign(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    return with_factories(signature, thing if what == "class" else None), returns


def skip(app: Sphinx, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out methods that another library puts into classes that are built on its own."""
    foreign = (
        inspect.isfunction(thing) and thing.__module__.split(".")[0] != dependencies.PACKAGE.name
    )
    return True if foreign else None


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-skip-member", skip)
    app.connect("source-read", fill)
    app.connect("autodoc-process-signature", sign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
