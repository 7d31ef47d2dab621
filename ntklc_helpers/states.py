"""The state of a training on disk, from which it goes on as if it had not been stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .storage import NetworkFileError, from_bytes, replace_file, to_bytes

_NETWORK, _MOMENTUM, _GENERATOR = "network.", "momentum.", "generator"


class TrainingState:
    """One safetensors file: weights, running statistics, momentum, step, rate and random state.

    Parameters
    ----------
    path : path
    settings : mapping
        What the training depends on, as JSON knows it; a file made under others is refused.
    net, optimizer, schedule, generator
        What is kept and set back.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: Mapping[str, Any],
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> None:
        self.path, self.settings = Path(path), dict(settings)
        self.net, self.optimizer = net, optimizer
        self.schedule, self.generator = schedule, generator
        self._seconds, self._begun = 0.0, time.perf_counter()

    def write(self, step: int) -> None:
        """Keep the state after ``step`` steps, in place of an earlier one."""
        tensors = {_NETWORK + name: value for name, value in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[_MOMENTUM + name] = momentum
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        arrays[_GENERATOR] = self.generator.get_state().numpy()
        rate = self.optimizer.param_groups[0]["lr"]
        seconds = self._seconds + time.perf_counter() - self._begun
        about = {"settings": self.settings, "step": step, "rate": rate, "seconds": seconds}
        replace_file(self.path, to_bytes(arrays, about))

    def read(self) -> int:
        """Set everything back to what was kept; the number of steps done, 0 without a file.

        Raises
        ------
        ValueError
            If the file is damaged or of another training; nothing is then changed.
        """
        if not self.path.exists():
            return 0
        arrays, about = _content(self.path)
        settings, step, rate = (about[name] for name in ("settings", "step", "rate"))
        if settings != self.settings:
            different = [
                f"{name} is {settings.get(name)!r} there and {self.settings.get(name)!r} here"
                for name in sorted(settings.keys() | self.settings.keys())
                if settings.get(name) != self.settings.get(name)
            ]
            raise ValueError(f"{self.path} is the state of another training: {different[0]}")
        target = self.net.state_dict()
        for name, value in target.items():
            value.copy_(torch.from_numpy(arrays[_NETWORK + name]).reshape(value.shape))
        for name, parameter in self.net.named_parameters():
            if _MOMENTUM + name in arrays:
                kept = torch.from_numpy(arrays[_MOMENTUM + name]).reshape(parameter.shape)
                momentum = torch.empty_like(parameter, requires_grad=False).copy_(kept)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        self.generator.set_state(torch.from_numpy(arrays[_GENERATOR]))
        # The rate is kept as it is: a schedule may have reached it by a product of many factors.
        self.schedule.load_state_dict({"last_epoch": step, "_step_count": step + 1})
        self.optimizer.param_groups[0]["lr"] = rate
        self._seconds, self._begun = about["seconds"], time.perf_counter()
        return step


def training_seconds(path: str | os.PathLike) -> float:
    """Wall time of a training up to the state kept; what was lost when it was stopped is not in it.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    return float(_content(Path(path))[1]["seconds"])


def _content(path: Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    try:
        arrays, about = from_bytes(path.read_bytes())
        if missing := {"settings", "step", "rate", "seconds"} - set(about):
            raise NetworkFileError(f"holds no {', '.join(sorted(missing))}")
    except NetworkFileError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to train anew") from error
    return arrays, about


def digest(*tensors: torch.Tensor) -> str:
    """SHA-256 of the entries of tensors, in order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return found.hexdigest()
