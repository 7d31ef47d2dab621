"""``python -m benchmarks.sweep``: what can be matched, over activations, scales and depths.

Prints how many cases are exact for the conjugate kernel, have every coefficient below 1%, or are
proved impossible; and each case that is neither below 1% nor proved impossible.
"""

from __future__ import annotations

import argparse
import time

import ntklc_helpers as nh

NAMES = ["relu", "leaky_relu", "tanh", "erf", "gelu", "silu", "sigmoid", "softplus"]
NAMES += ["abs", "sin", "cos", "quadratic"]
CLOSE = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--names", nargs="+", default=NAMES, metavar="NAME")
    parser.add_argument("--scales", nargs="+", type=float, default=[0.3, 1.0, 3.0])
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--grid", choices=["free", "uniform"], default="free")
    arguments = parser.parse_args()
    start, found = time.perf_counter(), {}
    for name in arguments.names:
        act = nh.activation(name, slope=0.1) if name == "leaky_relu" else nh.activation(name)
        for tau0 in arguments.scales:
            for depth in arguments.depths:
                try:
                    found[name, tau0, depth] = nh.match(
                        [act] * depth, tau0, arguments.levels, grid=arguments.grid
                    )
                except ValueError as refusal:
                    print(f"{name} × {depth}, tau0 = {tau0:g}, refused: {refusal}")
    report(found)
    print(f"{time.perf_counter() - start:.0f} s")


def report(found: dict[tuple[str, float, int], nh.Matching]) -> None:
    worst = {key: max(m.relative_error.values()) for key, m in found.items()}
    close = {key for key, error in worst.items() if error < CLOSE}
    proved = {key for key, m in found.items() if m.proof_all is not None}
    print(f"cases                                      {len(found)}")
    print(f"conjugate kernel exact                     {sum(m.exact for m in found.values())}")
    print(f"every coefficient below {CLOSE:.0%}                 {len(close)}")
    print(f"above, proved impossible                   {len(proved - close)}")
    kernel = sum(found[key].proof is not None for key in proved - close)
    print(f"  of these even for the conjugate kernel   {kernel}")
    rest = [key for key in found if key not in close | proved]
    print(f"neither                                    {len(rest)}")
    for name, tau0, depth in rest:
        errors = found[name, tau0, depth].relative_error
        shown = ", ".join(f"{k} {v:.1e}" for k, v in errors.items() if v > 1e-9)
        print(f"  {name} × {depth}, tau0 = {tau0:g}: {shown}")


if __name__ == "__main__":
    main()
