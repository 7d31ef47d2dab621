"""One way to keep a run: its settings, and a folder that one run at a time may use.

The folder holds ``settings.json``, which is locked while a run uses it, and a file with a digest
for each stage that is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import attrs
import torch
from attrs import Factory, frozen
from torch import nn

from .._checks import checked, one_of, torch_device, whole
from ..compression.train import digest, load_state, save_state, settings_difference
from ..data.files import DataError
from .image_nets import TrainingSettings, architecture, build
from .images import SHAPES, Images, load_pair
from .records import Record, RunError

__all__ = ["Experiment", "Run", "Settings", "Stages", "Study", "begin", "claimed", "preset_of"]

_ROOT = Path(__file__).parents[2]


def _optional(argument: str, value: Any) -> int | None:
    return None if value is None else whole(argument, value)


@frozen(kw_only=True)
class Settings:
    """What every run is told; ValueError if an argument is not as stated.

    Attributes
    ----------
    seed : int
        Of all draws.

    Examples
    --------
    >>> Settings(seed=1).difference({"seed": 0})
    'seed is 0 there and 1 here'
    """

    seed: int = checked(whole, 0, 0)

    def plain(self) -> dict[str, Any]:
        """All settings as JSON knows them, and as a record keeps them."""
        return json.loads(json.dumps(attrs.asdict(self)))

    def difference(self, settings: Mapping[str, Any]) -> str | None:
        """In words, where a record's settings are others; those it does not name are the same."""
        here = {name: value for name, value in self.plain().items() if name in settings}
        return settings_difference({name: settings[name] for name in here}, here)


@frozen(kw_only=True)
class Study(Settings):
    """What all that is run on images is told; ValueError if an argument is not as stated.

    Attributes
    ----------
    data, n_train, seed
        As in :func:`~ntklc_helpers.experiments.images.load_pair`; the seed is of all draws.

    Examples
    --------
    >>> Study(data="digits", n_train=200).difference({"n_train": 100})
    'n_train is 100 there and 200 here'
    """

    data: str = checked(one_of, "mnist", SHAPES)
    n_train: int | None = checked(_optional, None)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""


@frozen(kw_only=True)
class Experiment(Study):
    """A study that trains networks.

    Attributes
    ----------
    network : str
        As :func:`~ntklc_helpers.experiments.image_nets.build` knows it, for images of that size.
    width : int
        Channels of a ResNet's first stage.
    training : TrainingSettings

    Examples
    --------
    >>> Experiment(data="digits", network="resnet_8").width
    16
    """

    network: str = "lenet_300_100"
    width: int = checked(whole, 16)
    training: TrainingSettings = Factory(TrainingSettings)

    def __attrs_post_init__(self) -> None:
        with torch.device("meta"):  # no weights are made
            architecture(self.network, SHAPES[self.data], 10, self.width)

    def build(self, images: Images, seed: int) -> nn.Sequential:
        """The network for these images, with weights drawn by ``seed``, on the CPU."""
        return build(self.network, *images.kind, self.width, seed)

    def check(self, images: Images) -> None:
        """Refuse what these images do not allow, before anything is written."""
        if self.training.batch_size > len(images.X):
            raise ValueError(f"batch_size must be at most {len(images.X)}, the number of images")
        with torch.device("meta"):
            architecture(self.network, *images.kind, self.width)


@frozen(eq=False, kw_only=True)
class Stages:
    """A run under way: its device, and the stages kept in its folder, if it has one.

    Examples
    --------
    >>> with claimed(Settings(), None, source="none") as run:
    ...     run.once("first", lambda: {"found": 64})["found"]
    64
    """

    device: torch.device
    settings: dict[str, Any]
    folder: Path | None

    def path(self, stage: str) -> Path | None:
        """The file of a stage; None where nothing is kept."""
        return None if self.folder is None else self.folder / f"{stage}.pt"

    def read(self, stage: str) -> dict[str, Any] | None:
        """What is kept of a stage, None if nothing; RunError if the file is damaged."""
        path = self.path(stage)
        if path is None or not path.exists():
            return None
        try:
            return load_state(path)
        except ValueError as error:
            raise RunError(f"{path} is damaged; delete it to make it anew") from error

    def write(self, stage: str, content: Mapping[str, Any]) -> None:
        """Keep tensors, numbers and text, in place of what was kept of the stage."""
        if path := self.path(stage):
            save_state(path, content)

    def once(
        self, stage: str, make: Callable[[], dict[str, Any]], *trainings: str
    ) -> dict[str, Any]:
        """What ``make`` returns and the ``seconds`` that it took; made where it is not kept.

        What ``trainings``, stages that ``make`` goes on with, took before they were stopped counts.
        """
        kept = self.read(stage)
        if kept is None:
            begun = [self.read(name) or {"seconds": 0.0} for name in trainings]
            start = time.perf_counter() - sum(state["seconds"] for state in begun)
            made = make()
            kept = {"seconds": time.perf_counter() - start} | made
            self.write(stage, kept)
        return kept

    def record(
        self, rows: list[dict[str, Any]], stages: Mapping[str, float], **findings: Any
    ) -> Record:
        """The record of the run, whose stages took so many seconds."""
        from pandas import DataFrame

        where = provenance(self.device, sum(stages.values())) | self.note
        where["stages"] = {name: round(seconds, 1) for name, seconds in stages.items()}
        return Record(DataFrame(rows), self.settings, where, findings)

    @property
    def note(self) -> dict[str, str]:
        """What a record's provenance says of the data."""
        return {}


@frozen(eq=False, kw_only=True)
class Run(Stages):
    """A run on images.

    Examples
    --------
    >>> with begin(Study(data="digits", n_train=200), None, "cpu") as run:
    ...     run.once("first", lambda: {"pixels": run.images.X[0].size})["pixels"]
    64
    """

    images: Images

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """X, y, X_test and y_test on the device."""
        return tuple(torch.tensor(array, device=self.device) for array in self.images.arrays)

    @property
    def note(self) -> dict[str, str]:
        """What a record's provenance says of the data."""
        return {"note": self.images.note}


@contextmanager
def begin(
    experiment: Study, folder: str | os.PathLike | None, device: torch.device | str | None
) -> Iterator[Run]:
    """A run of an experiment, in a folder that is its own until the block ends.

    Yields
    ------
    Run

    Raises
    ------
    RunError
        Before anything is written: if device or images do not allow the run, another run uses the
        folder, or it holds one of other settings, data, device or version of torch.
    DataError
        As the loader of the data does.

    Examples
    --------
    >>> with begin(Study(data="digits", n_train=200), None, "cpu") as run:
    ...     run.settings["n_images"]
    [200, 599]
    """
    try:
        place = torch_device(device)
        images = load_pair(experiment.data, experiment.n_train, experiment.seed)
        experiment.check(images)
    except DataError:
        raise
    except ValueError as error:
        raise RunError(str(error)) from error
    sizes = [len(images.X), len(images.X_test)]
    settings = experiment.plain() | {"source": images.source, "n_images": sizes}
    told: dict[str, Any] = {"device": place, "settings": settings}
    if folder is None:
        yield Run(**told, folder=None, images=images)
        return
    folder = Path(folder)
    here = {"device": _device_name(place), "torch": torch.__version__}
    here["sha256"] = digest(*map(torch.from_numpy, images.arrays))
    with _locked(folder, settings | here):
        yield Run(**told, folder=folder, images=images)


@contextmanager
def claimed(
    experiment: Settings, folder: str | os.PathLike | None, **told: Any
) -> Iterator[Stages]:
    """A run on the CPU without images: as :func:`begin`, with what more its record is ``told``.

    Examples
    --------
    >>> with claimed(Settings(), None, source="a mixture") as run:
    ...     run.settings
    {'seed': 0, 'source': 'a mixture'}
    """
    place, settings = torch.device("cpu"), experiment.plain() | told
    if folder is None:
        yield Stages(device=place, settings=settings, folder=None)
        return
    here = {"device": _device_name(place), "torch": torch.__version__}
    with _locked(Path(folder), settings | here):
        yield Stages(device=place, settings=settings, folder=Path(folder))


@contextmanager
def _locked(folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Hold the lock on a folder's settings, which are written where there are none."""
    path = folder / "settings.json"
    try:
        if not path.exists() and folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise RunError(f"folder {folder} holds something else than a run; name another")
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"folder {folder} cannot be used: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"folder {folder} is in use by another run ({error})") from error
        _agree(file, settings, folder)
        yield


def _agree(file: IO[str], settings: dict[str, Any], folder: Path) -> None:
    """Write the settings into a file that is empty; elsewhere see that it holds the same."""
    file.seek(0)
    if not (text := file.read()):
        file.write(json.dumps(settings, indent=1) + "\n")
        file.flush()
        return
    try:
        different = settings_difference(json.loads(text), settings)
    except ValueError as error:
        raise RunError(f"{file.name} is damaged: {error}") from error
    if different:
        raise RunError(
            f"folder {folder} holds a run with other settings: {different}. "
            "Name another folder, or the same settings to go on"
        )


def _device_name(device: torch.device) -> str:
    """The device in words: a GPU's name, or ``"cpu"``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def provenance(device: torch.device, seconds: float) -> dict[str, Any]:
    """Where and when: device, date, commit (None outside the repository), versions, wall time."""
    # The repository is named: git is not to find another one around an installed copy.
    git = ["git", f"--git-dir={_ROOT / '.git'}", f"--work-tree={_ROOT}"]
    try:
        told = subprocess.run(
            [*git, "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        told = ""
    return {
        "device": _device_name(device),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": told or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": round(seconds),
    }


def preset_of(settings: Mapping[str, Any], presets: Mapping[str, Settings]) -> str | None:
    """The name of the preset that a record's settings are of; None for others.

    Examples
    --------
    >>> preset_of({"n_train": 100}, {"small": Study(n_train=100)})
    'small'
    """
    return next((name for name, one in presets.items() if not one.difference(settings)), None)
