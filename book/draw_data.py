"""What the page where one draws a digit is made from: `python book/draw_data.py`, with MNIST there.

Random networks by seed with a trained readout, at three numbers of levels and four sparsities, and
one that is larger; a few training images for the kernel to compare with, and test images to begin
with; how pixels are scaled. All of it in one script, which opens without a server.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path

import numpy as np

import ntklc_helpers as nh
from ntklc_helpers.experiments.images import load_pair

STATIC = Path(__file__).parent / "_static"
LEVELS, SPARSITIES = (2, 4, 16), (0.0, 0.5, 0.9, 0.97)
WIDTH, WIDE, SEED = 400, 1000, 1
EACH, EXAMPLES, GREYS = 30, 2, 15


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def deflated(array: np.ndarray) -> str:
    packer = zlib.compressobj(9, wbits=-15)
    return text_of(packer.compress(array.tobytes()) + packer.flush())


def chosen(labels: np.ndarray, each: int) -> np.ndarray:
    """So many of each class, in the order of a fixed draw."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    return np.concatenate([order[labels[order] == k][:each] for k in range(10)])


def pictures(X: np.ndarray, labels: np.ndarray, each: int) -> dict:
    """Images in 16 greys, two pixels to a byte, the first in the upper four bits."""
    rows = chosen(labels, each)
    greys = np.rint(X[rows] * GREYS).astype(np.uint8)
    return {"images": deflated(greys[:, ::2] << 4 | greys[:, 1::2]), "each": each}


def random_network(both: tuple, width: int, m: int, s: float) -> dict:
    X, y, X_test, y_test = both
    net = nh.RandomMLP(X.shape[1], [width], ["relu"], seed=SEED)
    small = nh.compress(net, X, levels=m, sparsity=s, seed=SEED)
    small.fit_readout(X, y, dtype="int8")
    accuracy = small.score(X_test, y_test)
    print(f"{width} neurons, {m} levels, ε = {s}: {accuracy:.4f}", flush=True)
    content = small.to_bytes("seed")
    about = {"width": width, "levels": m, "sparsity": s, "accuracy": accuracy}
    return about | {"size": len(content), "file": text_of(content)}


def trained_network(name: str, X_test: np.ndarray, y_test: np.ndarray) -> dict:
    path = STATIC / "networks" / f"{name}.safetensors"
    content = path.read_bytes()
    accuracy = nh.load(path).score(X_test, y_test)
    return {"accuracy": accuracy, "size": len(content), "file": text_of(content)}


def made() -> dict:
    train, test = nh.load_mnist("train"), nh.load_mnist("test")
    X, X_test = nh.normalize(train.X, train.X), nh.normalize(test.X, train.X)
    both = X, train.labels, X_test, test.labels
    # The same order of images, standardised as one channel.
    pair = load_pair("mnist")
    first = train.X.astype(np.float32)
    mean, spread = (np.float32(f(dtype=np.float64)) for f in (first.mean, first.std))
    assert np.array_equal(pair.X_test.reshape(X_test.shape), (test.X.astype("f4") - mean) / spread)
    centred = train.X - train.X.mean(axis=0)
    return {
        "source": "MNIST, Y. LeCun, C. Cortes and C. Burges",
        "command": "python book/draw_data.py",
        "mean": deflated(train.X.mean(axis=0).astype("<f4")),
        "scale": float(np.sqrt(np.sum(centred**2) / len(centred))),
        "standard": [float(mean), float(spread)],
        "stock": pictures(train.X, train.labels, EACH),
        "examples": pictures(test.X, test.labels, EXAMPLES),
        "trained": trained_network("mnist_large", pair.X_test, pair.y_test),
        "random": random_network(both, WIDE, 16, 0.9),
        "grid": [random_network(both, WIDTH, m, s) for m in LEVELS for s in SPARSITIES],
    }


def main() -> int:
    script = f"const ntklcData = {json.dumps(made(), indent=1)};\n"
    (STATIC / "draw" / "data.js").write_text(script, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
