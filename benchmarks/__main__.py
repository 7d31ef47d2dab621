"""``python -m benchmarks``: time every case, ours and the peer's, and print the ratios.

``python -m benchmarks NAME …`` runs only those. Peers from neural-tangents get an environment of
their own under build/, made on first use; without a network those rows are reported as left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .cases import CASES, Case
from .environments import ROOT, peer_environment
from .inference import beside_int8

# Timed side by side in one run, not one after the other.
INT8 = "inference-int8"
INT8_TITLE = "the same network beside a dense one in 8 bits, the faster of a library's kinds"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*CASES, INT8]))
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {*CASES, INT8}
    if unknown:
        parser.error(f"unknown case {sorted(unknown)}; known: {', '.join([*CASES, INT8])}")
    if arguments.side:
        measure(CASES[arguments.names[0]], arguments.side, arguments.output)
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; best of the repeats"
    )
    for name in arguments.names or [*CASES, INT8]:
        print(f"\n{INT8_TITLE if name == INT8 else CASES[name].title}", flush=True)
        print(beside_int8() if name == INT8 else row(name), flush=True)


def row(name: str) -> str:
    """Both sides of one case in fresh processes, one after the other, as a line of text."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        results, numbers = [], []
        for side in ("ours", "peer"):
            path = str(Path(folder) / f"{side}.npy")
            if side == "peer" and isinstance(case.peer, str):
                python = peer_environment("neural-tangents")
                if python is None:
                    return f"  left out: {case.peer_name} could not be installed"
                script = str(ROOT / "benchmarks" / "neural_tangents_peer.py")
                command = [python, script, case.peer, path, str(case.repeats)]
            else:
                command = [sys.executable, "-m", "benchmarks", name, "--side", side]
                command += ["--output", path]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            numbers.append(json.loads(done.stdout.splitlines()[-1]))
            results.append(np.load(path, allow_pickle=False))
    ours, peer = numbers
    return (
        f"  ours {ours['seconds']:.4g} s, {ours['peak_mib']:.0f} MiB;  "
        f"{case.peer_name} {peer['seconds']:.4g} s, {peer['peak_mib']:.0f} MiB\n"
        f"  {peer['seconds'] / ours['seconds']:.1f} × faster; agreement "
        f"{case.compare(*results):.1e}"
    )


def measure(case: Case, side: str, path: str) -> None:
    """One side of a case in this process: its best time, and by how much its peak memory grew."""
    setup = case.ours if side == "ours" else case.peer
    work = setup()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(case.repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    np.save(path, np.asarray(result))
    print(json.dumps({"seconds": min(seconds), "peak_mib": peak / 1024}))


if __name__ == "__main__":
    main()
