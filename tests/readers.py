"""The reader in JavaScript beside the one in Python: networks that they run, files that they refuse.

`python tests/readers.py agreement` runs all 10,000 test images of MNIST through both, for each
network below; `python tests/readers.py fuzzing` gives both 10,000 damaged files. Both need chromium.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from damages import damaged, places
from torch import nn

import ntklc_helpers as nh
from ntklc_helpers.compression import ConvertedNetwork, NetworkFileError
from ntklc_helpers.compression.loading import of_bytes
from ntklc_helpers.compression.storage import from_bytes

ROOT = Path(__file__).parents[1]
READER = ROOT / "book/_static/draw/ntklc.js"
NETWORKS = ROOT / "book/_static/networks"
VECTORS = ROOT / "book/_static/format_vectors.json"


# --- JavaScript

# Bytes come as base64. A file that is refused for a reason has it; anything else is an error.
HARNESS = """
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const numbers = (text) => new Float64Array(bytes(text).buffer);

function classes(file, X) {
    const network = ntklc.read(bytes(file));
    const [x, p] = [numbers(X), network.shape.reduce((a, b) => a * b, 1)];
    return Array.from({ length: x.length / p }, (_, i) => network.predict(x.subarray(i * p, (i + 1) * p)));
}

function verdict(file, mostWork) {
    try {
        const network = ntklc.read(bytes(file));
        const told = { shape: network.shape, kind: network.kind };
        if (network.work > mostWork) return told;
        const size = network.shape.reduce((a, b) => a * b, 1);
        const x = Float64Array.from({ length: size }, (_, i) => ((7 * i) % 11) / 4 - 1);
        try {
            told.outputs = Array.from(network.outputs(x), String);
        } catch (error) {
            if (!/no readout/.test(error.message)) throw error;
        }
        return told;
    } catch (error) {
        if (!(error instanceof ntklc.FileError)) throw error;
        return { reason: error.message };
    }
}
"""


def text_of(content):
    return base64.b64encode(content).decode()


class JavaScript:
    """The reader, on an empty page of a browser."""

    def __init__(self, browser):
        self.page = browser.new_page()
        self.page.add_script_tag(content=READER.read_text(encoding="utf-8"))
        self.page.add_script_tag(content=HARNESS)

    def classes(self, content, X):
        rows = np.ascontiguousarray(X, "<f8")
        found = []
        for part in np.array_split(rows, max(1, len(rows) // 500)):
            given = [text_of(content), text_of(part.tobytes())]
            found += self.page.evaluate("([file, X]) => classes(file, X)", given)
        return np.array(found)

    def verdicts(self, contents, most_work=1e7):
        found = []
        for start in range(0, len(contents), 100):
            files = [text_of(content) for content in contents[start : start + 100]]
            run = "([files, most]) => files.map((file) => verdict(file, most))"
            found += self.page.evaluate(run, [files, most_work])
        return found


# --- networks


def _trained(net, X, y, epochs, rate=3e-3, batch=100):
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def _random(X, y, widths, levels, sparsity, seed, weights="seed", dtype="float32"):
    net = nh.RandomMLP(X.shape[1], widths, ["relu"] * len(widths), seed=seed)
    small = nh.compress(net, X, levels=levels, sparsity=sparsity, seed=seed)
    return small.fit_readout(X, y, dtype=dtype).to_bytes(weights)


def networks(X, y):
    """Files by what is in them, for images X (n, p) of labels y: of every kind, small and large."""
    torch.manual_seed(0)
    epochs = -(-20_000 // len(X))
    p, side = X.shape[1], round(X.shape[1] ** 0.5)
    few = X[:: max(1, len(X) // 1000)]
    x, target = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
    image = nn.Unflatten(1, (1, side, side))
    dense = nn.Sequential(nn.Linear(p, 60), nn.ReLU(), nn.Linear(60, 10))
    conv = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(8, 16, 3, padding=1, groups=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.LazyLinear(10)),
    )
    conv(image(x[:2]))
    _trained(dense, x, target, epochs)
    _trained(nn.Sequential(image, conv), x, target, epochs)
    machine = nh.NTKLCClassifier(widths=(300,), levels=16, sparsity=0.9).fit(
        X, [f"a {k}" for k in y]
    )
    uneven = nh.match(["relu"] * 2, tau0=1.0, levels=5, objective="lloyd-max").activations
    loose = nh.RandomMLP(p, [200, 100], uneven, weights="ternary", sparsity=0.5, seed=6)
    images = few.reshape(-1, 1, side, side).astype(np.float32)
    return {
        "one neuron of 2 levels, by seed": _random(X, y, [1], 2, 0.0, 1),
        "2,000 of 2 levels, ε = 0.97, by seed": _random(X, y, [2000], 2, 0.97, 2, dtype="int8"),
        "400-300-200 of 4 levels, ε = 0.5, packed": _random(
            X, y, [400, 300, 200], 4, 0.5, 3, "packed"
        ),
        "500-1 of 16 levels, ε = 0.9, packed": _random(
            X, y, [500, 1], 16, 0.9, 4, "packed", "float16"
        ),
        "600-400 of 16 levels, by seed": _random(X, y, [600, 400], 16, 0.0, 5),
        "200-100 of uneven levels, packed": nh.compress(loose, X)
        .fit_readout(X, y)
        .to_bytes("packed"),
        "an estimator with its scaling and names": machine.network_.to_bytes(),
        "a trained network, signs alone": nh.compress(dense, few, levels=4, sparsity=0.5)
        .fit_readout(X, y)
        .to_bytes(),
        "a trained network, ternary": nh.compress(dense, few, levels=16, bits="ternary").to_bytes(),
        "trained convolutions, 4 bits": nh.compress(conv, images, levels=8, bits=4).to_bytes(),
    }


def in_shape(network, X):
    return X.reshape(-1, *network.shape) if isinstance(network, ConvertedNetwork) else X


def disagreements(javascript, content, X):
    """Rows whose classes differ between the two languages."""
    network = of_bytes(content)
    ours = network.predict(in_shape(network, X))
    return np.flatnonzero(ours != javascript.classes(content, X))


# --- damaged files


@contextlib.contextmanager
def quiet():
    """Numbers of a forged file may overflow."""
    with np.errstate(all="ignore"):
        yield


def tame(content):
    """Whether no number in a description is so large that all others are lost in rounding."""
    about = from_bytes(content)[1]
    told = (place[key] for place, key in places(about))
    return all(abs(v) < 1e6 for v in told if isinstance(v, int | float))


def python_verdict(content, told):
    """What Python says of a file of which JavaScript told that; outputs where it has some."""
    with quiet():
        try:
            network = of_bytes(content)
        except NetworkFileError as error:
            return {"reason": str(error)}
        found = {"kind": "operations" if isinstance(network, ConvertedNetwork) else "layers"}
        if "outputs" in told:
            size = int(np.prod(told["shape"]))
            x = ((7 * np.arange(size)) % 11) / 4 - 1
            found["outputs"] = network.outputs(in_shape(network, x[None]))[0]
        return found


def differences(contents, told):
    """(file's number, what is wrong) where the two languages do not say the same."""
    for i, (content, theirs) in enumerate(zip(contents, told, strict=True)):
        ours = python_verdict(content, theirs)
        if ("reason" in ours) != ("reason" in theirs):
            yield i, f"Python: {ours}, JavaScript: {theirs}"
        elif not ours.get("reason", "x") or not theirs.get("reason", "x"):
            yield i, "no reason"
        elif "outputs" in theirs and tame(content):
            mine, other = ours["outputs"], np.array(theirs["outputs"], float)
            finite = np.isfinite(mine).all() and np.isfinite(other).all()
            # Of forged weights some are far apart: what their sums round off is in proportion.
            if finite and not np.allclose(
                mine, other, rtol=1e-3, atol=1e-4 * (1 + np.abs(mine).max())
            ):
                yield i, f"outputs {mine} and {other}"


# --- commands


def mnist(n_train):
    train, test = nh.load_mnist("train", n=n_train), nh.load_mnist("test")
    return nh.normalize(train.X, train.X), train.labels, nh.normalize(test.X, train.X), test


def own_files():
    """Of MNIST, as they are committed; of pixels in units of the training images' spread."""
    return {f"{path.stem}, trained convolutions": path.read_bytes() for path in NETWORKS.glob("*")}


def vector_files():
    """Small networks that have all the format has."""
    told = json.loads(VECTORS.read_text(encoding="utf-8"))["networks"]
    return [base64.b64decode(one["file"]) for one in told]


def agreement():
    from printed import launched

    from ntklc_helpers.experiments.images import load_pair

    X, y, X_test, test = mnist(6000)
    pixels = load_pair("mnist").X_test.reshape(len(X_test), -1)
    wrong = 0
    with launched() as browser:
        javascript = JavaScript(browser)
        own = ((name, content, pixels) for name, content in own_files().items())
        made = ((name, content, X_test) for name, content in networks(X, y).items())
        for name, content, rows in (*own, *made):
            differ = len(disagreements(javascript, content, rows))
            print(
                f"{len(rows) - differ:6,} of {len(rows):,}  {len(content):8,} bytes  {name}",
                flush=True,
            )
            wrong += differ
    return wrong


def fuzzing(n=10_000):
    from printed import launched

    train = nh.load_digits("train")
    made = networks(nh.normalize(train.X, train.X), train.labels)
    contents = [*made.values(), *own_files().values(), *vector_files()]
    files = damaged(contents, n)
    with launched() as browser:
        told = JavaScript(browser).verdicts(files)
    found = list(differences(files, told))
    for i, what in found[:20]:
        print(i, what)
    refused = sum("reason" in one for one in told)
    print(f"{len(files):,} files: {refused:,} refused by both, {len(found)} not in the same way")
    return len(found)


if __name__ == "__main__":
    commands = {"agreement": agreement, "fuzzing": fuzzing}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: python tests/readers.py {' | '.join(commands)}")
    sys.path.append(str(ROOT / "book"))
    sys.exit(min(1, commands[sys.argv[1]]()))
