"""What a run keeps on disk: its settings, and the state of each chain after every level."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .records import Level
from .storage import replace_file

SETTINGS = "settings.json"


def write_chain(path: Path, levels: list[Level], masks: Mapping[str, torch.Tensor]) -> None:
    """Keep the finished levels of a chain, and the masks that the next one starts with."""
    tensors = {name: mask.cpu().contiguous() for name, mask in masks.items()}
    rows = json.dumps([asdict(level) for level in levels])
    replace_file(path, save(tensors, {"levels": rows}))


def read_chain(path: Path | None) -> tuple[list[Level], dict[str, torch.Tensor]]:
    """Finished levels of a chain, and the masks that the next one starts with.

    Raises
    ------
    ValueError
        If the file is there and damaged.
    """
    if path is None or not path.exists():
        return [], {}
    try:
        with safe_open(path, "pt") as file:
            levels = [Level(**row) for row in json.loads(file.metadata()["levels"])]
            return levels, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it to run its levels again"
        ) from error


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder that of a run with these settings, or find that it is.

    Raises
    ------
    ValueError
        If it holds a run with other settings, which are named, or something else.
    """
    path = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"folder {folder} holds something else than a run; name another")
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(settings, indent=1) + "\n").encode())
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        flat_old, flat_new = _flatten(old), _flatten(settings)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if flat_old != flat_new:
        names = sorted(flat_old.keys() | flat_new.keys())
        different = [
            f"{name} is {flat_old.get(name)!r} there and {flat_new.get(name)!r} here"
            for name in names
            if flat_old.get(name) != flat_new.get(name)
        ]
        raise ValueError(
            f"folder {folder} holds a run with other settings: {'; '.join(different)}. "
            "Name another folder, or the same settings to go on"
        )


def _flatten(settings: dict[str, Any]) -> dict[str, Any]:
    training = {f"training.{name}": value for name, value in settings["training"].items()}
    return {name: value for name, value in settings.items() if name != "training"} | training
