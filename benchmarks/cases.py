"""What is compared. A side returns a function to time; that function returns the result.

Each side runs in a process of its own, so that its peak memory is its own. A peer that needs an
environment of its own is named instead of given: see ``neural_tangents_peer.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

import ntklc_helpers as nh

Work = Callable[[], np.ndarray | tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Case:
    """``ours`` and ``peer`` set up and return the work; a peer may be an outside case's name.

    ``compare`` reduces two results to the number shown under 'agreement'.
    """

    title: str
    peer_name: str
    ours: Callable[[], Work]
    peer: Callable[[], Work] | str
    compare: Callable[[np.ndarray, np.ndarray], float]
    repeats: int = 3


def relative_difference(ours: np.ndarray, peer: np.ndarray) -> float:
    return float(np.abs(ours - peer).max() / np.abs(peer).max())


def gaussian_rows(n: int, p: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, p)) / np.sqrt(p)


def kernels(name: str, n: int) -> Callable[[], Work]:
    def setup() -> Work:
        X = gaussian_rows(n, 800)
        layers = [nh.activation(name)] * 3
        return lambda: nh.limit_kernels(X, layers, center=False)

    return setup


def convolutional_kernels() -> Work:
    images = np.random.default_rng(0).normal(size=(500, 16, 16, 3))
    layers = [nh.Conv(3), "relu", nh.Conv(3), "relu", nh.Flatten()]
    return lambda: nh.conv_limit_kernels(images, layers)


def finite_width() -> tuple[nh.RandomMLP, np.ndarray]:
    X = gaussian_rows(300, 300)
    acts = [nh.activation("relu")] * 2
    return nh.RandomMLP(300, [500, 500], acts, dtype=torch.float64, device="cpu"), X


def finite_ntk() -> Work:
    net, X = finite_width()
    return lambda: nh.empirical_ntk(net, X)


def jacobian_ntk() -> Work:
    net, X = finite_width()
    x, centres = net.inputs(X), net.centres

    def output(
        matrices: tuple[torch.Tensor, ...], readout: torch.Tensor, row: torch.Tensor
    ) -> torch.Tensor:
        h = row
        for W, act, centre in zip(matrices, net.activations, centres, strict=True):
            h = (act.function(W @ h) - centre) / len(W) ** 0.5
        return readout @ h

    def work() -> np.ndarray:
        gradient = torch.func.grad(output, argnums=(0, 1))
        weights, last = torch.func.vmap(gradient, in_dims=(None, None, 0))(
            net.matrices, net.readout, x
        )
        flat = [g.flatten(1) for g in (*weights, last)]
        return sum(f @ f.T for f in flat).numpy()

    return work


def pruned_network() -> tuple[nh.RandomMLP, np.ndarray]:
    X = gaussian_rows(60, 300)
    acts = [nh.activation("relu")] * 2
    law = nh.theory.Pruned(0.8)
    options = {"weights": law, "dtype": torch.float64, "device": "cpu"}
    return nh.RandomMLP(300, [500, 500], acts, **options), X


def pruned_ntk() -> Work:
    net, X = pruned_network()
    return lambda: nh.empirical_ntk(net, X)


def masked_jacobian_ntk() -> Work:
    net, X = pruned_network()
    x, centres, masks = net.inputs(X), net.centres, net.masks
    parameters = (*net.matrices, net.readout[None])

    def output(weights: tuple[torch.Tensor, ...], row: torch.Tensor) -> torch.Tensor:
        h = row
        for W, act, centre in zip(weights, net.activations, centres, strict=False):
            h = (act.function(W @ h) - centre) / len(W) ** 0.5
        return (weights[-1] @ h)[0]

    def work() -> np.ndarray:
        gradients = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(parameters, x)
        kept = [(g * m).flatten(1) for g, m in zip(gradients, masks, strict=True)]
        return sum(net.law.gain**2 * (g @ g.T) for g in kept).numpy()

    return work


def equivalent(n: int, p: int) -> nh.KernelEquivalent:
    X = gaussian_rows(n, p)
    stats = nh.estimate_statistics(X, np.arange(n) % 2)
    return nh.ck_equivalent(X, stats, nh.propagate([nh.activation("relu")] * 3, stats.tau0)[-1])


def spectrum(n: int, p: int) -> Callable[[], Work]:
    def setup() -> Work:
        kernel = equivalent(n, p)
        # A fresh operator each time: the factorisation is kept by the one that made it.
        return lambda: nh.KernelEquivalent(
            kernel.X, kernel.V, kernel.A, kernel.scale, kernel.shift
        ).eigenvalues()

    return setup


def dense_spectrum() -> Work:
    kernel = equivalent(4000, 800)
    return lambda: np.linalg.eigvalsh(kernel.to_dense())


def factored_spectrum() -> Work:
    kernel = equivalent(60_000, 784)

    def work() -> np.ndarray:
        R = np.linalg.qr(np.hstack([kernel.X, kernel.V]), mode="r")
        S = np.zeros((len(R), len(R)))
        p = kernel.X.shape[1]
        S[:p, :p] = kernel.scale * np.eye(p)
        S[p:, p:] = kernel.A
        low_rank = np.linalg.eigvalsh(R @ S @ R.T)
        return np.sort(np.concatenate([low_rank, np.zeros(60_000 - len(R))])) + kernel.shift

    return work


def target() -> np.ndarray:
    g = nh.gaussian_moments(nh.activation("relu"), 1.0)
    return np.array([g.d1**2, g.d2**2, g.square_d2])


def residual(x: np.ndarray, demanded: np.ndarray) -> float:
    g = nh.gaussian_moments(nh.sigma_t(*x), 1.0)
    return float(np.sum((np.array([g.d1**2, g.d2**2, g.square_d2]) - demanded) ** 2))


def match_sigma_t() -> Work:
    demanded = target()

    def work() -> np.ndarray:
        (act, *_) = nh.matching.sigma_t_solutions(nh.gaussian_moments(nh.activation("relu"), 1.0))
        s1, s2 = act.thresholds
        return np.array([residual(np.array([s1, s2, act.levels[0]]), demanded)])

    return work


def restarts() -> Work:
    demanded = target()
    rng = np.random.default_rng(0)
    starts = np.column_stack(
        [np.sort(rng.normal(size=(1000, 2)), axis=1), rng.normal(size=1000) * 2]
    )

    def one(start: np.ndarray) -> float:
        ordered = {"type": "ineq", "fun": lambda x: x[1] - x[0] - 1e-6}
        try:
            return minimize(
                residual, start, (demanded,), "SLSQP", constraints=[ordered], tol=1e-15
            ).fun
        except ValueError:  # a step past the constraint: no such activation
            return np.inf

    return lambda: np.array([min(map(one, starts))])


INFERENCE_BATCH, INFERENCE_WIDTHS = 256, [4000] * 3


def compressed_network() -> tuple[nh.CompressedNetwork, np.ndarray]:
    """Widths 4000-4000-4000, 16 levels, ε = 0.9, and a batch as large as MNIST's images."""
    X = gaussian_rows(INFERENCE_BATCH, 784)
    net = nh.RandomMLP(784, INFERENCE_WIDTHS, [nh.activation("relu")] * 3, tau0=1.0)
    small = nh.compress(net, X, levels=16, sparsity=0.9)
    weights = np.random.default_rng(1).normal(size=(INFERENCE_WIDTHS[-1], 10))
    small.readout = nh.compression.Readout.from_weights(weights, np.zeros(10), np.arange(10))
    return small, X


def integer_inference() -> Work:
    small, X = compressed_network()
    return lambda: small.predict(X)


def float_inference(dtype: torch.dtype) -> Callable[[], Work]:
    """Times the dense ReLU network; returns the classes of the compressed one in float64."""

    def setup() -> Work:
        small, X = compressed_network()
        acts, law = small.matching.activations, {"weights": "ternary", "sparsity": 0.9}
        floats = nh.RandomMLP(784, INFERENCE_WIDTHS, acts, tau0=1.0, dtype=torch.float64, **law)
        classes = small.readout.predict(floats.features(X).cpu().numpy().astype(np.float32))
        sizes = [784, *INFERENCE_WIDTHS]
        layers = [
            layer
            for pair in zip(sizes, INFERENCE_WIDTHS, strict=False)
            for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())
        ]
        dense = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 10)).to(dtype)
        x = torch.from_numpy(X).to(dtype)

        def work() -> np.ndarray:
            with torch.inference_mode():
                dense(x).argmax(1)
            return classes

        return work

    return setup


def share_that_differs(ours: np.ndarray, peer: np.ndarray) -> float:
    return float(np.mean(ours != peer))


CASES = {
    "inference": Case(
        "classes of 256 images, widths 4000-4000-4000, 16 levels, ε = 0.9; agreement: differing",
        "dense network in float32",
        integer_inference,
        float_inference(torch.float32),
        share_that_differs,
        10,
    ),
    "inference-bfloat16": Case(
        "the same",
        "dense network in bfloat16",
        integer_inference,
        float_inference(torch.bfloat16),
        share_that_differs,
        10,
    ),
    "relu": Case(
        "exact CK + NTK, relu × 3, n = 4,000, p = 800",
        "neural-tangents, compiled",
        kernels("relu", 4000),
        "relu",
        relative_difference,
    ),
    "tanh": Case(
        "exact CK + NTK, tanh × 3, n = 1,000, p = 800",
        "neural-tangents ElementwiseNumerical(25), compiled",
        kernels("tanh", 1000),
        "tanh",
        relative_difference,
    ),
    "conv": Case(
        "exact CK + NTK, two 3 × 3 convolutions with relu, flattened, n = 500, 16 × 16 × 3",
        "neural-tangents, compiled",
        convolutional_kernels,
        "conv",
        relative_difference,
    ),
    "finite": Case(
        "finite-width NTK, n = 300, widths 500-500, float64",
        "torch.func Jacobian, contracted",
        finite_ntk,
        jacobian_ntk,
        relative_difference,
    ),
    "pruned": Case(
        "NTK in the kept weights, n = 60, widths 500-500, a fifth kept, float64",
        "torch.func Jacobian on the masks, contracted",
        pruned_ntk,
        masked_jacobian_ntk,
        relative_difference,
    ),
    "spectrum": Case(
        "all eigenvalues of the equivalent, n = 4,000, p = 800",
        "eigvalsh of the dense matrix",
        spectrum(4000, 800),
        dense_spectrum,
        relative_difference,
    ),
    "mnist-size": Case(
        "all eigenvalues of the equivalent, n = 60,000, p = 784",
        "QR of [X, V], then eigvalsh",
        spectrum(60_000, 784),
        factored_spectrum,
        relative_difference,
    ),
    "sigma_t": Case(
        "σ_T for ReLU at τ = 1; agreement: peer's residual, ours below 1e-30",
        "SLSQP, 1,000 restarts",
        match_sigma_t,
        restarts,
        lambda ours, peer: float(peer[0]) if ours[0] < 1e-30 else float("nan"),
        1,
    ),
}
