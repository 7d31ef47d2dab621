"""``python -m benchmarks.chip``: networks as C, on this machine and on an emulated Cortex-M0.

Makes the record that the chapter on bytes and inference shows: whether C and Python find the same
class of every test image, and what the networks of MNIST take on a chip. An emulator (QEMU) runs
instructions, and counts them by its own clock; how many cycles a real core takes for each, and how
long it waits for its flash, it does not know.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from .environments import ROOT

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
# Cortex-M0 and M0+ know the same instructions. The board's timer runs at 16 MHz, 62.5 ns a tick,
# while an instruction takes 2^6 ns of the emulator's clock.
BOARDS = {"cortex-m0plus": "microbit", "cortex-m4": "mps2-an386"}
_SHIFT, _TICK = 6, {"microbit": 62.5, "mps2-an386": 40.0}
_FLAGS = ["-std=c99", "-mthumb", "-ffreestanding", "-nostartfiles", "-nostdlib", "-Wall", "-Wextra"]


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


def missing() -> str | None:
    """Which program is not here, if one is."""
    return next((name for name in (COMPILER, EMULATOR) if not shutil.which(name)), None)


def run(folder: Path, images: np.ndarray, chip: Chip, timeout: float = 3600.0) -> Found:
    """Classes of bytes (n, …, rows, columns) by ``net.h`` in the folder, on the emulated chip.

    Images of one channel come row by row, and are nowhere as a whole.
    """
    rows = images.shape[1] if images.ndim > 3 else 1
    size = images[0].size if rows > 1 else images.shape[-1]
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
