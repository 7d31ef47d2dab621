"""``python -m benchmarks.inference``: how fast networks run, beside what one would use instead.

Makes the record that the chapter on bytes and inference draws. In rounds, each contestant on each
batch after another, so that whatever else the machine does meets them all; the fastest call
counts. Widths that are done are kept under the output folder, and not timed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from pandas import DataFrame

import ntklc_helpers as nh
from ntklc_helpers.experiments.records import Record
from ntklc_helpers.experiments.runs import provenance

from .environments import ROOT, peer_environment

SETTINGS: dict[str, Any] = {
    "source": "Gaussian rows",
    "p": 784,
    "classes": 10,
    "levels": 16,
    "widths": [1000, 2000, 4000],
    "sparsities": [0.0, 0.5, 0.9, 0.97],
    "batches": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "rounds": 6,
}
FEATURES = [
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_vpopcntdq", "avx512_bf16", "amx_int8",
    "amx_bf16",
]  # fmt: skip
# A product with a sparse matrix of floats takes seconds where half of it is not zero.
CSR_FROM = 0.9

Network = Callable[[np.ndarray], Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "records" / "inference")
    parser.add_argument("--results", type=Path, default=ROOT / "book" / "results")
    parser.add_argument("--widths", type=int, nargs="+", default=SETTINGS["widths"])
    parser.add_argument("--rounds", type=int, default=SETTINGS["rounds"])
    arguments = parser.parse_args()
    settings = SETTINGS | {"widths": arguments.widths, "rounds": arguments.rounds}
    for folder in (arguments.output, arguments.results):
        folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for width in settings["widths"]:
        path = arguments.output / f"{width}.json"
        if not path.exists() or json.loads(path.read_text())["settings"] != settings:
            path.write_text(json.dumps(timed(width, settings) | {"settings": settings}))
        kept.append(json.loads(path.read_text()))
    where = provenance(torch.device("cpu"), sum(part["seconds"] for part in kept))
    where |= machine() | {"onnxruntime": kept[-1]["onnxruntime"]}
    where["load"] = [part["load"] for part in kept]
    table = DataFrame([row for part in kept for row in part["rows"]])
    Record(table, settings, where).write(arguments.results / "inference")
    print(table.pivot_table("ms", ["width", "how", "sparsity"], "batch", dropna=False).to_string())


def machine() -> dict[str, Any]:
    """The processor's name, how many cores there are to use, and which fast instructions."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    told = {key.strip(): value.strip() for key, value in told.items()}
    flags = told.get("flags", told.get("Features", "")).split()
    return {
        "processor": told.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [name for name in FEATURES if name in flags],
    }


def timed(width: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of all contestants at one width, and how much else the machine had to do."""
    start, load = time.perf_counter(), os.getloadavg()[0]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(max(settings["batches"]), settings["p"]))
    X /= np.sqrt(settings["p"])
    networks = {**floats(width, settings), **compressed(width, settings, X)}
    best: dict[tuple[str, float, int], float] = {}

    def keep(how: str, sparsity: float, batch: int, seconds: float) -> None:
        key = how, sparsity, batch
        best[key] = min(best.get(key, np.inf), seconds)

    with onnxruntime(width) as (version, ask):
        for _ in range(settings["rounds"]):
            for batch in settings["batches"]:
                calls = 12 if batch <= 16 else 4
                for name, seconds in ask(batch, calls).items():
                    keep(f"onnxruntime, {name} int8", np.nan, batch, seconds)
                for (how, sparsity), network in networks.items():
                    keep(how, sparsity, batch, fastest(network, X[:batch], calls))
    rows = [
        {"width": width, "how": how, "sparsity": zeros, "batch": batch, "ms": 1e3 * seconds}
        for (how, zeros, batch), seconds in sorted(best.items(), key=lambda one: str(one[0]))
    ]
    spent = time.perf_counter() - start
    return {"rows": rows, "seconds": spent, "onnxruntime": version, "load": round(load, 1)}


def beside_int8() -> str:
    """A line for each of three batches, ours beside the 8 bits of others, in one run."""
    chosen = {"sparsities": [0.9], "batches": [1, 16, 256], "rounds": 3}
    table = DataFrame(timed(4000, SETTINGS | chosen)["rows"])
    who, kind = table.how.str.partition(",")[0], table.how.str.rpartition(" ")[2]
    table["how"] = table.how.where(kind == "bytes", who)
    best = table[kind.isin(["ours", "bytes", "int8"])].groupby(["batch", "how"]).ms.min().unstack()
    lines = [] if "onnxruntime" in best else ["  left out: onnxruntime could not be installed"]
    for batch, times in best.iterrows():
        ours, of_bytes = times.pop("ours"), times.pop("ours, bytes")
        beside = [
            f"{name} {ms:.3g} ms, {ms / ours:.2g} × faster, {ms / of_bytes:.2g} × of bytes"
            for name, ms in times.items()
        ]
        head = f"  batch {batch}: ours {ours:.3g} ms, of bytes {of_bytes:.3g};  "
        lines.append(head + ";  ".join(beside))
    return "\n".join(lines)


def fastest(network: Network, X: np.ndarray, calls: int) -> float:
    """Seconds of the fastest call, after one that warms up; slow ones are not repeated much."""
    seconds, spent = [], 0.0
    # Whoever ran before has threads that wait for more to do, on cores that are needed here.
    time.sleep(0.01)
    network(X)
    while len(seconds) < calls and spent < 0.3:
        start = time.perf_counter()
        network(X)
        seconds.append(time.perf_counter() - start)
        spent += seconds[-1]
    return min(seconds)


def compressed(
    width: int, settings: dict[str, Any], X: np.ndarray
) -> dict[tuple[str, float], Network]:
    """Ours on floats and on bytes, and beside the sparse ones products of sparse matrices."""
    found: dict[tuple[str, float], Network] = {}
    base = nh.RandomMLP(settings["p"], [width] * 3, ["relu"] * 3, tau0=1.0)
    X = nh.normalize(X)
    # Pixels of the same network: columns of one scale, as images have.
    spread = 40 * np.sqrt(settings["p"])
    pixels = np.clip(np.rint(128 + spread * X), 0, 255).astype(np.uint8)
    scaling = nh.compression.Scaling(np.full(settings["p"], 128.0), np.full(settings["p"], spread))
    rng, classes = np.random.default_rng(1), np.arange(settings["classes"])
    weights = rng.normal(size=(width, len(classes)))
    for zeros in settings["sparsities"]:
        net = nh.compress(base, X, levels=settings["levels"], sparsity=zeros)
        net.readout = nh.compression.Readout.from_weights(weights, np.zeros(len(classes)), classes)
        found["ours", zeros] = net.predict
        of_pixels = nh.CompressedNetwork(net.layers, net.readout, scaling=scaling)
        found["ours, bytes", zeros] = lambda X, of=of_pixels: of.predict(pixels[: len(X)])
        if zeros >= CSR_FROM:
            dense = [layer.weights.to_dense().astype(np.float32) for layer in net.layers]
            found["CSR, float32", zeros] = csr([*map(scipy.sparse.csr_array, dense)], weights)
    return found


def csr(matrices: list[Any], weights: np.ndarray) -> Network:
    def network(X: np.ndarray) -> np.ndarray:
        h = np.ascontiguousarray(X.T, np.float32)
        for matrix in matrices:
            h = np.maximum(matrix @ h, 0)
        return (h.T @ weights).argmax(axis=1)

    return network


def floats(width: int, settings: dict[str, Any]) -> dict[tuple[str, float], Network]:
    """The dense network by torch, in two kinds of floats and in its 8 bits."""
    sizes = [settings["p"], width, width, width]
    pairs = zip(sizes, sizes[1:], strict=False)
    hidden = [m for a, b in pairs for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    dense = torch.nn.Sequential(*hidden, torch.nn.Linear(width, settings["classes"])).eval()
    quantised = torch.ao.quantization.quantize_dynamic(dense, {torch.nn.Linear}, torch.qint8)
    half = copy.deepcopy(dense).to(torch.bfloat16)

    def classes(net: torch.nn.Module, dtype: torch.dtype) -> Network:
        def network(X: np.ndarray) -> torch.Tensor:
            with torch.inference_mode():
                return net(torch.from_numpy(X).to(dtype)).argmax(1)

        return network

    return {
        ("torch, float32", np.nan): classes(dense, torch.float32),
        ("torch, bfloat16", np.nan): classes(half, torch.bfloat16),
        ("torch, dynamic int8", np.nan): classes(quantised, torch.float32),
    }


@contextmanager
def onnxruntime(width: int) -> Iterator[tuple[str, Callable[[int, int], dict[str, float]]]]:
    """Its version, and a function that times it on a batch; nothing where it cannot be had."""
    python = peer_environment("onnxruntime")
    if python is None:
        yield "", lambda batch, calls: {}
        return
    script, threads = str(ROOT / "benchmarks" / "onnxruntime_peer.py"), torch.get_num_threads()
    command = [python, "-W", "ignore", script, str(width), str(threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as peer:
        to, back = peer.stdin, peer.stdout
        assert to is not None and back is not None

        def ask(batch: int, calls: int) -> dict[str, float]:
            print(batch, calls, file=to, flush=True)
            return json.loads(back.readline())

        yield json.loads(back.readline()), ask
        to.close()


if __name__ == "__main__":
    main()
