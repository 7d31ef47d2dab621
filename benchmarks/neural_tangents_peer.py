"""The peer's side of three cases, in neural-tangents' own environment: CASE OUTPUT.npy REPEATS.

Prints seconds and peak memory as JSON. Shares no code with the package.
"""

import json
import resource
import sys
import time

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from neural_tangents import stax  # noqa: E402

READOUT = stax.Dense(1, W_std=1.0, b_std=0.0)


def fully_connected(activation, n):
    X = np.random.default_rng(0).normal(size=(n, 800)) / np.sqrt(800)
    layers = [layer for _ in range(3) for layer in (READOUT, activation)]
    # Their first dense layer divides by the dimension, ours does not; the last is the readout.
    return stax.serial(*layers, READOUT), X * np.sqrt(800)


def convolutional():
    images = np.random.default_rng(0).normal(size=(500, 16, 16, 3))
    conv = stax.Conv(1, (3, 3), padding="SAME", W_std=1.0, b_std=0.0)
    layers = [conv, stax.Relu(), conv, stax.Relu(), stax.Flatten()]
    return stax.serial(*layers, READOUT), images


CASES = {
    "relu": lambda: fully_connected(stax.Relu(), 4000),
    "tanh": lambda: fully_connected(stax.ElementwiseNumerical(jax.numpy.tanh, deg=25), 1000),
    "conv": convolutional,
}


def main(case: str, path: str, repeats: int) -> None:
    network, X = CASES[case]()
    kernel = jax.jit(network[2], static_argnums=(2,))

    def work():
        out = kernel(X, None, ("nngp", "ntk"))
        return out.nngp.block_until_ready(), out.ntk.block_until_ready()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    np.save(path, np.stack(result))
    print(json.dumps({"seconds": min(seconds), "peak_mib": peak / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
