"""A room's face names what it gathers once, where it imports it."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import ismodule
from typing import Any


def promised(face: Mapping[str, Any]) -> list[str]:
    """The public names among a face's ``vars()``, in order; its modules are not among them."""
    return [n for n, value in face.items() if not (n.startswith("_") or ismodule(value))]
