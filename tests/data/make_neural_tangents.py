"""How neural_tangents_more.npz was made, in an environment of its own:

python3.11 -m venv peer
peer/bin/pip install neural-tangents==0.6.5 jax==0.4.30 jaxlib==0.4.30 "numpy<2" "scipy<1.14"
peer/bin/python tests/data/make_neural_tangents.py tests/data/neural_tangents_more.npz
"""

import sys

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from neural_tangents import stax  # noqa: E402

CASES = {
    "gelu2": [stax.Gelu()] * 2,
    "abs3": [stax.Abs()] * 3,
    "sign": [stax.Sign()],
    "five": [stax.Relu(), stax.Erf(), stax.Gelu(), stax.Sin(), stax.LeakyRelu(0.2)],
}


def main(path: str) -> None:
    X = np.random.default_rng(7).normal(size=(8, 20)) / np.sqrt(20)
    out = {"X": X}
    for case, activations in CASES.items():
        dense = stax.Dense(1, W_std=1.0, b_std=0.0)
        layers = [layer for activation in activations for layer in (dense, activation)]
        # Their first dense layer divides by the dimension, ours does not; the last is the readout.
        kernel = stax.serial(*layers, dense)[2](X * np.sqrt(20), None, ("nngp", "ntk"))
        out[f"{case}__ck"] = np.asarray(kernel.nngp)
        if case != "sign":
            out[f"{case}__ntk"] = np.asarray(kernel.ntk)
    np.savez(path, **out)


if __name__ == "__main__":
    main(sys.argv[1])
