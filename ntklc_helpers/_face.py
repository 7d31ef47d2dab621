"""A room's face names what it gathers once, where it imports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import ismodule
from typing import Any


def promised(face: Mapping[str, Any]) -> list[str]:
    """The public names among a face's ``vars()``, in order; its modules are not among them."""
    return [n for n, value in face.items() if not (n.startswith("_") or ismodule(value))]


def later(
    face: Mapping[str, Any], module: str, names: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a face whose ``names`` are in a module imported for them.

    For what brings along a library that takes long to import, and that most readers do not need.
    """
    package = face["__name__"]

    def found(name: str) -> Any:
        if name in names:
            return getattr(import_module(module, package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found, lambda: sorted({*face, *names})
