"""``python -m benchmarks.chip``: networks as C, on this machine and on an emulated Cortex-M0.

Makes the record that the chapter on bytes and inference shows: whether C and Python find the same
class of every test image, and what the networks of MNIST take on a chip. An emulator (QEMU) runs
instructions, and counts them by its own clock; how many cycles a real core takes for each, and how
long it waits for its flash, it does not know.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from pandas import DataFrame

import ntklc_helpers as nh
from ntklc_helpers.experiments.images import Images, load_pair
from ntklc_helpers.experiments.records import Record
from ntklc_helpers.experiments.runs import provenance

from .environments import ROOT

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
# Cortex-M0 and M0+ know the same instructions. The board's timer runs at 16 MHz, 62.5 ns a tick,
# while an instruction takes 2^6 ns of the emulator's clock.
BOARDS = {"cortex-m0plus": "microbit", "cortex-m4": "mps2-an386"}
_SHIFT, _TICK = 6, {"microbit": 62.5, "mps2-an386": 40.0}
_FLAGS = ["-std=c99", "-mthumb", "-ffreestanding", "-nostartfiles", "-nostdlib", "-Wall", "-Wextra"]


MHZ = 48
SETTINGS: dict[str, Any] = {
    "data": "mnist",
    "seed": 0,
    "every": 12,
    "trained": {"widths": [200, 100], "levels": 4, "sparsity": 0.9, "epochs": 4},
    "brief": 200,
    "mhz": MHZ,
}
# Hidden widths, levels, sparsity, and how weights are kept.
RANDOM: tuple[tuple[list[int], int, float, str], ...] = (
    ([1], 2, 0.0, "packed"),
    ([50, 50], 4, 0.5, "two_bits"),
    ([300], 2, 0.9, "seed"),
    ([500, 500, 200], 16, 0.9, "packed"),
    ([1000, 500], 4, 0.9, "seed"),
    ([2000], 16, 0.9, "seed"),
    ([2000, 2000, 1000], 16, 0.9, "packed"),
)
TRAINED = {"mnist_small": (6 * 1024, 4 * 1024), "mnist_large": (16 * 1024, 2 * 1024)}
"""Files of networks with ternary convolutions, and the flash and memory that each is to fit."""


@frozen
class Chip:
    """A core, how the compiler translates, and bytes that the linker may use; more is an error.

    ``stack`` is a part of ``ram``.
    """

    core: str = "cortex-m0plus"
    optimise: str = "-Os"
    flash: int = 16 * 1024
    ram: int = 2 * 1024
    stack: int = 384


@frozen(eq=False)
class Found:
    """Of each image its class and instructions; bytes of code and tables, of data, of the stack."""

    classes: Any
    instructions: Any
    flash: int
    data: int
    stack: int


@frozen(eq=False)
class Case:
    """A network, how its weights are kept in C, and what Python makes of the test images."""

    network: str
    net: Any
    weights: str
    classes: np.ndarray
    about: dict[str, Any]

    @property
    def labels(self) -> np.ndarray:
        """The labels, in the order in which C counts them."""
        readout = getattr(self.net, "readout", None)
        return self.net.classes if readout is None else readout.classes


@frozen(eq=False)
class Pixels:
    """Images in bytes, (n, p), and what a byte stands for where pixels are standardised."""

    images: Images
    train: np.ndarray
    test: np.ndarray
    low: float
    step: float

    @classmethod
    def load(cls, data: str) -> Pixels:
        train, test = (nh.load_images(data, part, fallback=True) for part in ("train", "test"))
        most = 255 if data == train.name == "mnist" else 16
        X = train.X.astype(np.float32)
        mean, spread = float(X.mean(dtype=np.float64)), float(X.std(dtype=np.float64))
        bytes_ = (np.rint(most * part.X).astype(np.uint8) for part in (train, test))
        return cls(load_pair(data), *bytes_, -mean / spread, 1 / (most * spread))

    def scaled(self) -> tuple[float, float]:
        """Centred at a byte, rows of norm 1 on average: what random networks are made for."""
        zero = round(float(self.train.mean()))
        power = np.mean(np.sum((self.train.astype(np.float64) - zero) ** 2, axis=1))
        return -zero * float(power**-0.5), float(power**-0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chip", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "records" / "chip")
    parser.add_argument("--results", type=Path, default=ROOT / "book" / "results")
    parser.add_argument("--data", choices=["mnist", "digits"], default=SETTINGS["data"])
    arguments = parser.parse_args()
    if absent := missing():
        parser.error(f"{absent} is not here: it compiles for the chip, or emulates it")
    settings = SETTINGS | {"data": arguments.data}
    for folder in (arguments.output, arguments.results):
        folder.mkdir(parents=True, exist_ok=True)
    pixels, rows = Pixels.load(arguments.data), []
    settings |= {"source": pixels.images.source}
    for name, make in measured(pixels, settings):
        path = arguments.output / f"{name}.json"
        if not path.exists() or json.loads(path.read_text())["settings"] != settings:
            start = time.perf_counter()
            found = make()
            told = {"rows": found, "seconds": time.perf_counter() - start, "settings": settings}
            path.write_text(json.dumps(told))
        rows.append(json.loads(path.read_text()))
        print(DataFrame(rows[-1]["rows"]).to_string(), flush=True)
    where = provenance(torch.device("cpu"), sum(part["seconds"] for part in rows)) | versions()
    table = DataFrame([row for part in rows for row in part["rows"]])
    Record(table, settings, where).write(arguments.results / "chip")


def versions() -> dict[str, str]:
    """What compiled and what emulated, as they say themselves."""

    def first(*command: str) -> str:
        told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        return told.stdout.splitlines()[0]

    return {"gcc": first("gcc"), "arm_gcc": first(COMPILER), "qemu": first(EMULATOR)}


def measured(pixels: Pixels, settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is measured, by name, and what measures it."""
    for name, (flash, ram) in TRAINED.items() if settings["data"] == "mnist" else ():
        yield (
            name,
            lambda n=name: [on_host(kept(n, pixels, w), pixels) for w in ("packed", "two_bits")],
        )
        yield f"{name}-chip", lambda a=(name, flash, ram): on_chips(*a, pixels, settings)
    for widths, levels, sparsity, weights in RANDOM:
        name = "random-" + "-".join(map(str, [*widths, levels, weights]))
        yield (
            name,
            lambda a=(widths, levels, sparsity, weights): [on_host(random(pixels, *a), pixels)],
        )
    yield "trained", lambda: [on_host(trained(pixels, settings), pixels)]
    yield "flash-or-time", lambda: flash_or_time(pixels, settings)


def random(pixels: Pixels, widths: list[int], levels: int, sparsity: float, weights: str) -> Case:
    """A random network compressed, its readout in bytes fitted on all training images."""
    low, step = pixels.scaled()
    X, X_test = (low + step * part.astype(np.float64) for part in (pixels.train, pixels.test))
    net = nh.RandomMLP(X.shape[1], widths, ["relu"] * len(widths), tau0=1.0)
    small = nh.compress(net, X[::20], levels=levels, sparsity=sparsity, seed=SETTINGS["seed"])
    small.fit_readout(X, pixels.images.y, dtype="int8")
    about = {"widths": "-".join(map(str, widths)), "levels": levels, "low": low, "step": step}
    return Case("random", small, weights, small.predict(X_test), about)


def trained(pixels: Pixels, settings: dict[str, Any]) -> Case:
    """Fully connected, its ternary weights trained."""
    told, (low, step) = settings["trained"], pixels.scaled()
    X, X_test = (low + step * part.astype(np.float64) for part in (pixels.train, pixels.test))
    # Images are in the order of their classes.
    some, relus = slice(None, None, settings["every"]), ["relu"] * len(told["widths"])
    stairs = nh.match(relus, tau0=1.0, levels=told["levels"], grid="uniform").activations
    net = nh.RandomMLP(
        X.shape[1], told["widths"], stairs, tau0=1.0, weights="ternary", sparsity=told["sparsity"]
    )
    y = pixels.images.y
    found = nh.train_ternary(net, X[some], y[some], epochs=told["epochs"], seed=0, progress=False)
    small = found.model
    small.readout = small.readout.rounded("int8")
    about = {"widths": "-".join(map(str, told["widths"])), "levels": told["levels"]}
    about |= {"low": low, "step": step}
    return Case("trained ternary", small, "packed", small.predict(X_test), about)


def kept(name: str, pixels: Pixels, weights: str) -> Case:
    """A network of ternary convolutions that the book keeps."""
    net = nh.load(ROOT / "book" / "_static" / "networks" / f"{name}.safetensors")
    about = {"widths": "", "levels": 16, "low": pixels.low, "step": pixels.step}
    return Case(name, net, weights, net.predict(pixels.images.X_test), about)


def on_host(case: Case, pixels: Pixels) -> dict[str, Any]:
    """Compiled by this machine's gcc: for how many test images C finds the class of Python."""
    with tempfile.TemporaryDirectory() as folder:
        told = exported(case, Path(folder))
        (Path(folder) / "main.c").write_text(
            '#include <stdio.h>\n#include "net.h"\nstatic net_workspace work;\n'
            "static uint8_t u[NET_INPUTS];\nint main(void) {\n"
            "    while (fread(u, 1, sizeof u, stdin) == sizeof u) {\n"
            "        putchar(net_classify(u, &work));\n    }\n"
            "    return 0;\n}\n"
        )
        made = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "main.c", "-o", "main"]
        subprocess.run(made, cwd=folder, check=True)
        given = pixels.test.tobytes()
        out = subprocess.run(["./main"], cwd=folder, input=given, capture_output=True, check=True)
    return row(case, told, np.frombuffer(out.stdout, np.uint8), pixels, "this machine")


def exported(case: Case, folder: Path) -> Any:
    about = case.about
    return case.net.export_c(
        folder / "net.h", low=about["low"], step=about["step"], weights=case.weights
    )


def row(
    case: Case, told: Any, found: np.ndarray, pixels: Pixels, where: str, every: int = 1
) -> dict[str, Any]:
    """What C found on the test images, or every so many, beside what Python did."""
    labels = case.labels[found]
    return {
        "network": case.network,
        "widths": case.about["widths"],
        "levels": case.about["levels"],
        "weights": case.weights,
        "where": where,
        "images": len(found),
        "agree": int((labels == case.classes[::every]).sum()),
        "accuracy": 100 * float((labels == pixels.images.y_test[::every]).mean()),
        "exact": told.exact,
        "tables": told.flash,
        "workspace": told.ram,
    }


def on_chip(case: Case, pixels: Pixels, chip: Chip, every: int) -> dict[str, Any]:
    """On the emulated core: also bytes as linked, and instructions an image."""
    with tempfile.TemporaryDirectory() as folder:
        told = exported(case, Path(folder))
        some = pixels.test[::every]
        found = run(Path(folder), some.reshape(len(some), told.inputs[0], -1), chip)
    mean = float(found.instructions.mean())
    more = {
        "optimise": chip.optimise,
        "flash": found.flash,
        "ram": found.data + found.stack,
        "stack": found.stack,
        "instructions": round(mean),
        "ms": mean / (1e3 * MHZ),
    }
    return row(case, told, found.classes, pixels, f"emulated {chip.core}", every) | more


def on_chips(
    name: str, flash: int, ram: int, pixels: Pixels, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Within the flash and memory that a network is to fit: code, tables, data and stack."""
    case, found = kept(name, pixels, "packed"), []
    for core in BOARDS:
        for optimise in ("-Os", "-O2"):
            first = core == "cortex-m0plus" and optimise == "-Os"
            every = 1 if first else settings["brief"]
            found.append(on_chip(case, pixels, Chip(core, optimise, flash, ram), every))
    return found


def flash_or_time(pixels: Pixels, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """One random network, its weights kept in three ways."""
    case = random(pixels, [300], 2, 0.9, "packed")
    chip, every = Chip(flash=256 * 1024, ram=16 * 1024), settings["brief"]
    ways = ("packed", "two_bits", "seed")
    return [on_chip(evolve(case, weights=how), pixels, chip, every) for how in ways]


def missing() -> str | None:
    """Which program is not here, if one is."""
    return next((name for name in (COMPILER, EMULATOR) if not shutil.which(name)), None)


def run(folder: Path, images: np.ndarray, chip: Chip, timeout: float = 3600.0) -> Found:
    """Classes of bytes (n, …, rows, columns) by ``net.h`` in the folder, on the emulated chip.

    Images of one channel come row by row, and are nowhere as a whole.
    """
    size = images.shape[-1] if images.ndim == 3 else images[0].size
    script = (ROOT / "benchmarks" / "chip.ld").read_text()
    for name in ("flash", "ram", "stack"):
        script = script.replace(f"CHIP_{name.upper()}", str(getattr(chip, name)))
    (folder / "chip.ld").write_text(script)
    images.astype(np.uint8).tofile(folder / "images.bin")
    own = [f"-mcpu={chip.core}", chip.optimise, f"-DNET_ROW_BYTES={size}", f"-I{folder}"]
    made = ["-Wl,-T,chip.ld", "-o", "chip.elf", ROOT / "benchmarks" / "chip.c", "-lgcc"]
    subprocess.run([COMPILER, *_FLAGS, *own, *made], cwd=folder, check=True)
    told = subprocess.run(
        ["arm-none-eabi-size", "chip.elf"], cwd=folder, capture_output=True, text=True, check=True
    )
    flash, data, bss = map(int, told.stdout.splitlines()[1].split()[:3])
    board = BOARDS[chip.core]
    how = [
        "-M",
        board,
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "none",
        "-icount",
        f"shift={_SHIFT}",
    ]
    how += ["-semihosting-config", "enable=on,target=native", "-kernel", "chip.elf"]
    subprocess.run([EMULATOR, *how], cwd=folder, check=True, timeout=timeout)
    found = np.fromfile(folder / "classes.bin", np.int32).reshape(-1, 3)
    count = found[:, 1] * (_TICK[board] / 2**_SHIFT)
    return Found(found[:, 0], count, flash, data + bss - chip.stack, int(found[:, 2].max()))


if __name__ == "__main__":
    main()
