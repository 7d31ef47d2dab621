"""Odd input: a result that is right, or one error that names the argument; for every name of nh."""

import re
import warnings

import attrs
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import write_cifar, write_mnist

import ntklc_helpers as nh

# What may come of an odd value: REFUSED, the same as of a plain value, or either of a refusal and
# a result without NaN.
REFUSED, EITHER = "refused", "either"


@attrs.frozen
class Same:
    """As of ``value`` in its place: an equal result, or both refused."""

    value: object


@attrs.frozen
class Argument:
    """A valid value, and odd ones to put in its place: name -> (value, what may come of it)."""

    value: object
    odd: dict


def samples(value, optional=False, kernel=False):
    n, p = value.shape
    spoilt = [value.copy() for _ in range(3)]
    spoilt[0][n // 2, 0], spoilt[1][0, p - 1], spoilt[2][n - 1, 0] = np.nan, np.inf, 1e300
    text = value.astype(object)
    text[0, 0] = "one"
    gradient = torch.tensor(value, requires_grad=True)
    return Argument(
        value,
        {
            "NaN": (spoilt[0], REFUSED),
            "infinity": (spoilt[1], REFUSED),
            "1e300": (spoilt[2], EITHER if kernel else REFUSED),
            "one sample": (value[:1], EITHER),
            "all zero": (0 * value, EITHER),
            "of size 1e-160": (1e-160 * value, EITHER),
            "another column": (np.hstack([value, value[:, :1]]), EITHER),
            "empty": (value[:0], REFUSED),
            "no columns": (value[:, :0], REFUSED),
            "one dimension": (value[0], REFUSED),
            "three dimensions": (value[None], REFUSED),
            "None": (None, EITHER if optional else REFUSED),
            "complex": (value + 0j, REFUSED),
            "dates": (np.full((n, p), np.datetime64("2020-01-01")), REFUSED),
            "numeric strings": (value.astype(str), REFUSED),
            "objects and text": (text, REFUSED),
            "ragged": ([[1.0], [1.0, 2.0]], REFUSED),
            "sparse": (scipy.sparse.csr_array(value), REFUSED),
            "masked": (np.ma.masked_array(value, value == value[0, 0]), REFUSED),
            "no mask": (np.ma.masked_array(value), Same(value)),
            "list": (value.tolist(), Same(value)),
            "objects": (value.astype(object), Same(value)),
            "data frame": (pd.DataFrame(value), Same(value)),
            "float32": (value.astype(np.float32), Same(value)),
            "gradient": (gradient, Same(value)),
            "bfloat16": (gradient.bfloat16(), Same(value)),
            "list of tensors": (list(gradient), Same(value)),
        },
    )


def labels(value):
    n = len(value)
    odd = {
        "list": (value.tolist(), Same(value)),
        "series": (pd.Series(value), Same(value)),
        "tensor": (torch.tensor(value), Same(value)),
        "whole floats": (value.astype(float), Same(value)),
        "objects": (value.astype(object), Same(value)),
        "uint8": (value.astype(np.uint8), Same(value)),
        "no mask": (np.ma.masked_array(value), Same(value)),
        "masked": (np.ma.masked_array(value, value == 0), REFUSED),
        "one class": (0 * value, EITHER),
        "gap": (2 * value, EITHER),
        "negative": (-value, EITHER),
        "text": (np.array(["cat", "dog", "owl"])[value], EITHER),
        "too short": (value[:-1], REFUSED),
        "column": (value[:, None], REFUSED),
        "empty": (value[:0], REFUSED),
        "NaN": (np.where(value == 0, np.nan, value), REFUSED),
        "infinity": (np.where(value == 0, np.inf, value), REFUSED),
        "halves": (value / 2 + 0.25, REFUSED),
        "None": (None, REFUSED),
        "Nones": ([None] * n, REFUSED),
        "complex": (value + 0j, REFUSED),
        "dates": (np.full(n, np.datetime64("2020-01-01")), REFUSED),
    }
    return Argument(value, odd)


def vector(value, optional=False, scalar=REFUSED):
    value = np.asarray(value, float)
    odd = {
        "NaN": (np.where(np.arange(len(value)) == 0, np.nan, value), REFUSED),
        "infinity": (np.where(np.arange(len(value)) == 0, np.inf, value), REFUSED),
        "zero": (0 * value, EITHER),
        "negative": (-value, EITHER),
        "too short": (value[:-1], EITHER),
        "empty": (value[:0], EITHER),
        "column": (value[:, None], REFUSED),
        "scalar": (1.0, scalar),
        "None": (None, EITHER if optional else REFUSED),
        "complex": (value + 0j, REFUSED),
        "numeric strings": (value.astype(str), REFUSED),
        "dates": (np.full(len(value), np.datetime64("2020-01-01")), REFUSED),
        "masked": (np.ma.masked_array(value, value == value[0]), REFUSED),
        "list": (value.tolist(), Same(value)),
        "objects": (value.astype(object), Same(value)),
        "gradient": (torch.tensor(value, requires_grad=True), Same(value)),
        "series": (pd.Series(value), Same(value)),
    }
    return Argument(value, odd)


def _scalar(value, optional):
    return {
        "NaN": (np.nan, REFUSED),
        "infinity": (1e400, REFUSED),
        "-1": (-1, EITHER),
        "0": (0, EITHER),
        "'3'": ("3", REFUSED),
        "1j": (1j, REFUSED),
        "True": (True, REFUSED),
        "None": (None, EITHER if optional else REFUSED),
        "one in a list": ([value], REFUSED),
        "date": (np.datetime64("2020-01-01"), REFUSED),
    }


def number(value, optional=False):
    odd = _scalar(value, optional) | {
        "np.int64(3)": (np.int64(3), Same(3)),
        "np.float32": (np.float32(value), Same(value)),
        "0-d array": (np.array(value), Same(value)),
        "tensor": (torch.tensor(value, requires_grad=True), Same(value)),
    }
    return Argument(value, odd)


def whole(value, optional=False, several=False):
    odd = _scalar(value, optional) | {
        "2.5": (2.5, REFUSED),
        "np.int64": (np.int64(value), Same(value)),
        "np.uint8": (np.uint8(value), Same(value)),
        "np.float32(2.5)": (np.float32(2.5), REFUSED),
    }
    if several:
        odd["one in a list"] = ([value], EITHER)
    return Argument(value, odd)


def wholes(value):
    odd = {
        "NaN": ([np.nan] * len(value), REFUSED),
        "infinity": ([np.inf] * len(value), REFUSED),
        "zero": ([0] * len(value), REFUSED),
        "negative": ([-3] * len(value), REFUSED),
        "halves": ([2.5] * len(value), REFUSED),
        "text": (["3"] * len(value), REFUSED),
        "Nones": ([None] * len(value), REFUSED),
        "None": (None, REFUSED),
        "one number": (3, EITHER),
        "empty": ([], REFUSED),
        "one more": ([*value, 3], EITHER),
        "column": ([value], REFUSED),
        "tuple": (tuple(value), Same(value)),
        "array": (np.array(value), Same(value)),
        "series": (pd.Series(value), Same(value)),
    }
    return Argument(value, odd)


def but(argument, *names):
    """As ``argument``, but these odd values mean something here."""
    kept = {name: (argument.odd[name][0], EITHER) for name in names}
    return attrs.evolve(argument, odd=argument.odd | kept)


def classes(value):
    """The classes of a data set that are wanted."""
    odd = {
        "unknown": ([*value, 11], REFUSED),
        "twice": ([*value, *value], REFUSED),
        "one number": (3, REFUSED),
        "empty": ([], REFUSED),
        "text": (["3"], REFUSED),
        "a word": ("3", REFUSED),
        "NaN": ([np.nan], REFUSED),
        "None": ([None], REFUSED),
        "halves": ([2.5], REFUSED),
        "column": ([[3]], REFUSED),
        "a dictionary": ({"a": 3}, REFUSED),
        "list": (list(value), Same(value)),
        "array": (np.array(value), Same(value)),
        "tensor": (torch.tensor(value), Same(value)),
        "series": (pd.Series(value), Same(value)),
    }
    return Argument(value, odd)


def word(value, optional=False):
    odd = {
        "unknown": ("unheard of", REFUSED),
        "empty": ("", REFUSED),
        "3": (3, REFUSED),
        "None": (None, EITHER if optional else REFUSED),
        "list": (["unheard of"], REFUSED),
    }
    return Argument(value, odd)


def activations(value):
    odd = {
        "none": ([], REFUSED),
        "None": (None, REFUSED),
        "a name": (["relu"], EITHER),
        "an unknown name": (["unheard of"], REFUSED),
        "text": ("relu", REFUSED),
        "not in a list": (RELU, REFUSED),
        "of None": ([None], REFUSED),
        "a function": ([np.tanh], REFUSED),
        "a module": ([torch.nn.ReLU()], REFUSED),
        "an array": (np.ones(3), REFUSED),
        "tuple": (tuple(value), Same(value)),
        "array of them": (np.array(value, object), EITHER),
        "constant": ([nh.activation(lambda t: 0 * t + 1, name="one")] * len(value), EITHER),
        "zero": ([nh.activation(lambda t: 0 * t, name="zero")] * len(value), EITHER),
    }
    return Argument(value, odd)


def surrogates(value, optional=False):
    odd = {
        "none": ([], REFUSED),
        "None": (None, EITHER if optional else REFUSED),
        "of None": ([None] * len(value), REFUSED),
        "a name": (["relu"], REFUSED),
        "text": ("relu", REFUSED),
        "not in a list": (WINDOW, REFUSED),
        "of activations": ([RELU], REFUSED),
        "an array": (np.ones(3), REFUSED),
        "one more": ([*value, WINDOW], EITHER),
        "constant": ([nh.Quantized([0.0], [1.0, 1.0])] * len(value), EITHER),
        "zero": ([nh.Quantized([0.0], [0.0, 0.0])] * len(value), EITHER),
        "tuple": (tuple(value), Same(value)),
    }
    return Argument(value, odd)


def network(value):
    kinds = {"None": None, "text": "net", "a list": [3], "array": X, "empty": [], "class": type}
    return Argument(value, {name: (odd, REFUSED) for name, odd in kinds.items()})


def thing(value):
    """An object of the package where another kind is of no use."""
    kinds = {"None": None, "text": "thing", "number": 3.0, "array": X, "list": [], "class": type}
    return Argument(value, {name: (odd, REFUSED) for name, odd in kinds.items()})


def path(value):
    kinds = {"None": None, "number": 3.5, "array": X, "list": [], "class": type}
    return Argument(value, {name: (odd, REFUSED) for name, odd in kinds.items()})


def images(value, optional=False):
    spoilt = [value.copy() for _ in range(3)]
    spoilt[0][1, 0, 0, 0], spoilt[1][0, 1, 1, 0], spoilt[2][1, 0, 1, 1] = np.nan, np.inf, 1e300
    odd = {
        "NaN": (spoilt[0], REFUSED),
        "infinity": (spoilt[1], REFUSED),
        "1e300": (spoilt[2], REFUSED),
        "one image": (value[:1], EITHER),
        "all zero": (0 * value, EITHER),
        "of size 1e-160": (1e-160 * value, EITHER),
        "other sides": (value[:, :2], EITHER),
        "empty": (value[:0], REFUSED),
        "no rows": (value[:, :0], REFUSED),
        "no channels": (value[..., :0], REFUSED),
        "rows of numbers": (X, REFUSED),
        "without channels": (value[..., 0], REFUSED),
        "None": (None, EITHER if optional else REFUSED),
        "complex": (value + 0j, REFUSED),
        "numeric strings": (value.astype(str), REFUSED),
        "list": (value.tolist(), Same(value)),
        "objects": (value.astype(object), Same(value)),
        "float32": (value.astype(np.float32), Same(value)),
        "gradient": (torch.tensor(value, requires_grad=True), Same(value)),
    }
    return Argument(value, odd)


def conv_layers(value):
    odd = {
        "none": ([], REFUSED),
        "None": (None, REFUSED),
        "text": ("relu", REFUSED),
        "no readout": (value[:-1], REFUSED),
        "no convolution": (value[1:], REFUSED),
        "two readouts": ([*value, value[-1]], REFUSED),
        "two activations": ([*value[:2], *value[1:]], REFUSED),
        "an unknown name": ([value[0], "unheard of", value[-1]], REFUSED),
        "a class": ([nh.Conv, *value[1:]], REFUSED),
        "a module": ([torch.nn.Conv2d(1, 1, 2), *value[1:]], REFUSED),
        "constant": ([value[0], nh.activation(lambda t: 0 * t + 1, name="one"), value[-1]], EITHER),
        "tuple": (tuple(value), Same(value)),
    }
    return Argument(value, odd)


# Of sixteenths, so that bfloat16 holds them exactly.
X = np.random.default_rng(0).integers(-16, 17, (9, 4)) / 16
Y = np.arange(9) % 3
IMAGES = np.random.default_rng(1).integers(-16, 17, (4, 3, 3, 2)) / 16
RELU, TANH = nh.activation("relu"), nh.activation("tanh")
MIXTURE = nh.GaussianMixture.preset("mixed", 4)
STATS = nh.estimate_statistics(X, Y)
COEFFICIENTS = nh.propagate([RELU], STATS.tau0)[-1]
MIXED = nh.propagate([TANH], MIXTURE.tau0)[-1]
KERNEL = np.diag(np.arange(9.0)) + np.ones((9, 9))
EQUIVALENT = nh.ck_equivalent(X, STATS, COEFFICIENTS)
NET = nh.RandomMLP(4, [6], [RELU], tau0=STATS.tau0)
STEPS = nh.Quantized((-0.5, 0.5), (-1.0, 0.0, 1.0))
WINDOW = nh.Quantized((-1.0, 1.0), (0.0, 1.0, 0.25))
TERNARY = nh.RandomMLP(4, [6], [STEPS], tau0=STATS.tau0, weights="ternary", sparsity=0.5)
SMALL = nh.compress(NET, X, levels=3, sparsity=0.5).fit_readout(X, Y)
SMALL_UNFITTED = nh.compress(NET, X, levels=3, sparsity=0.5)
DENSE = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
CONVERTED = nh.compress(DENSE, np.random.default_rng(3).standard_normal((40, 4)), bits=4)
TRAINING = {"epochs": whole(1), "seed": whole(0), "batch_size": whole(4), "progress": False}
TRAINING |= {"X": samples(X), "y": labels(Y), "learning_rate": number(0.125)}
TRAINING |= {"device": word("cpu", optional=True)}
PICTURES = {"classes": classes((3, 0)), "n": whole(4, optional=True), "seed": whole(1)}


def then(function, use):
    """``function``, and what its result is then used for."""
    return lambda **arguments: use(function(**arguments))


def network_and_features(**arguments):
    net = nh.RandomMLP(**arguments)
    return net.features(np.ones((2, net.p)))


def student_features(degrees_of_freedom):
    law = nh.theory.StudentT(degrees_of_freedom)
    return network_and_features(p=4, widths=[6], activations=[RELU], weights=law)


def refitted(**arguments):
    net = nh.CompressedNetwork(SMALL.layers).fit_readout(**arguments)
    return net.readout


def fitted(kind):
    """What an estimator's fit makes, of its parameters and of data alike."""

    def make(X, y, sample_weight=None, **parameters):
        return kind(**parameters).fit(X, y, sample_weight=sample_weight).network_

    return make


def without(argument, *names):
    """As ``argument``, less the odd values on which scikit-learn has rules of its own."""
    kept = {name: odd for name, odd in argument.odd.items() if name not in names}
    return attrs.evolve(argument, odd=kept)


SHAPES = "too short", "empty", "scalar", "complex"
ESTIMATOR = {
    "X": without(
        samples(X), *SHAPES, "one sample", "no columns", "one dimension", "three dimensions",
        "None", "numeric strings", "objects and text", "ragged", "list of tensors",
    ),
}  # fmt: skip
ESTIMATOR |= {"sample_weight": vector(np.ones(9), optional=True)}
ESTIMATOR |= {"widths": but(wholes([6]), "one number"), "activation": word("relu")}
ESTIMATOR |= {"levels": whole(3, several=True), "sparsity": number(0.5)}
ESTIMATOR |= {"ridge": number(0.125, optional=True), "standardize": False}
ESTIMATOR |= {"random_state": but(whole(1), "True", "None")}
STATISTICS = {
    "tau0": number(STATS.tau0),
    "t": vector(STATS.t),
    "T": samples(np.diag([1.0, 2.0, 4.0]), kernel=True),
    "psi": vector(STATS.psi),
    "J": samples(STATS.J),
    "p": whole(4),
    "squares": samples(np.diag([1.0, 2.0, 4.0]), kernel=True),
}

# Every function and class of nh, with arguments that are fine; methods after their class.
CALLS = {
    "GaussianMixture": (
        nh.GaussianMixture,
        {
            "means": samples(np.eye(2, 3)),
            "covariances": np.array([np.eye(3)] * 2),
            "proportions": vector([0.25, 0.75], optional=True),
        },
    ),
    "GaussianMixture.preset": (
        nh.GaussianMixture.preset,
        {"name": word("mixed"), "p": whole(4), "n_classes": whole(2)},
    ),
    "GaussianMixture.sample": (MIXTURE.sample, {"n": whole(6), "seed": whole(1)}),
    "GaussianMixture.statistics": (
        MIXTURE.statistics,
        {"sample": thing(MIXTURE.sample(6))},
    ),
    "Statistics": (nh.Statistics, STATISTICS),
    "estimate_statistics": (nh.estimate_statistics, {"X": samples(X), "labels": labels(Y)}),
    "load_cifar10": (nh.load_cifar10, {"split": word("test"), **PICTURES}),
    "load_digits": (nh.load_digits, {"split": word("all"), **PICTURES}),
    "load_images": (nh.load_images, {"name": word("digits"), "split": word("test"), **PICTURES}),
    "load_mnist": (nh.load_mnist, {"split": word("test"), **PICTURES}),
    "normalize": (nh.normalize, {"X": samples(X), "reference": samples(X[:5], optional=True)}),
    "Activation": (nh.Activation, {"name": "t", "function": thing(torch.tanh)}),
    "Quantized": (
        nh.Quantized,
        {"thresholds": vector([-1.0, 1.0]), "levels": vector([0.0, 1.0, 3.0])},
    ),
    "activation": (nh.activation, {"kind": word("leaky_relu"), "slope": number(0.125)}),
    "activation of a function": (
        nh.activation,
        {"kind": torch.relu, "breakpoints": vector([0.0], optional=True, scalar=EITHER), "name": "ramp"},
    ),
    "sigma_t": (nh.sigma_t, {"s1": number(-0.5), "s2": number(0.75), "a": number(1.5)}),
    "sigma_q": (
        nh.sigma_q,
        {"r1": number(-2.0), "r2": number(-0.5), "r3": number(0.5), "r4": number(2.0)}
        | {"b1": number(1.0), "b2": number(1.5)},
    ),
    "gaussian_moments": (nh.gaussian_moments, {"activation": thing(RELU), "tau": number(1.5)}),
    "propagate": (
        nh.propagate,
        {"activations": activations([RELU, TANH]), "tau0": number(1.5)},
    ),
    "propagate with surrogates": (
        nh.propagate,
        {"activations": activations([STEPS]), "surrogates": surrogates([WINDOW], optional=True)},
    ),
    "surrogate_ntk": (
        nh.surrogate_ntk,
        {"X": samples(X), "activations": activations([STEPS]), "surrogates": surrogates([WINDOW])}
        | {"Z": samples(X[:3], optional=True), "tau0": number(1.5, optional=True)}
        | {"rates": vector([1.0, 0.5], optional=True)},
    ),
    "training_curve": (
        nh.training_curve,
        {"N": samples(KERNEL, kernel=True), "y": but(vector(X[:, 0]), "column"), "times": vector([0.5, 1.0, 4.0])}
        | {"cross_kernel": samples(KERNEL[::-1].copy(), kernel=True)}
        | {"targets": but(vector(X[:, 1], optional=True), "column")}
        | {"learning_rate": number(0.0625, optional=True)},
    ),
    "KernelEquivalent.leading": (EQUIVALENT.leading, {"k": whole(2)}),
    "ck_equivalent": (
        nh.ck_equivalent,
        {"X": samples(X), "statistics": thing(STATS), "coefficients": thing(COEFFICIENTS)},
    ),
    "ntk_equivalent": (
        nh.ntk_equivalent,
        {"X": samples(X), "statistics": thing(STATS), "coefficients": thing(COEFFICIENTS)},
    ),
    "limit_kernels": (
        nh.limit_kernels,
        {"X": samples(X), "activations": activations([RELU]), "Z": samples(X[:3], optional=True)}
        | {"tau0": number(1.5, optional=True)},
    ),
    "conv_limit_kernels": (
        nh.conv_limit_kernels,
        {"images": images(IMAGES), "layers": conv_layers([nh.Conv(2), RELU, nh.Flatten()])}
        | {"Z": images(IMAGES[:2], optional=True), "memory": number(1e9)},
    ),
    "Conv": (
        nh.Conv,
        {"size": whole(3), "stride": whole(1), "padding": word("valid")},
    ),
    "AveragePool": (nh.AveragePool, {"size": whole(2)}),
    "Flatten": (nh.Flatten, {}),
    "GlobalAveragePool": (nh.GlobalAveragePool, {}),
    "limiting_spectrum": (
        then(nh.limiting_spectrum, lambda found: (found[0].edges, found[1])),
        {"mixture": thing(MIXTURE), "n": whole(8), "coefficients": thing(MIXED)}
        | {"kernel": word("ck")},
    ),
    "forecast": (
        nh.forecast,
        {"X": samples(X), "y": but(labels(Y), "halves"), "activations": activations([RELU])}
        | {"widths": but(wholes([6]), "infinity", "None"), "ridge": number(0.0625), "n_train": whole(6, optional=True), "sparsity": number(0.5)}
        | {"tau0": number(1.5, optional=True), "seed": whole(1)},
    ),
    "RandomMLP": (
        network_and_features,
        {"p": whole(4), "widths": wholes([6]), "activations": activations([RELU])}
        | {"tau0": number(1.5), "weights": word("ternary"), "sparsity": number(0.5)}
        | {"seed": whole(1), "device": word("cpu", optional=True)},
    ),
    "RandomMLP of Student's t": (
        student_features,
        {"degrees_of_freedom": number(4.5)},
    ),
    "RandomMLP.features": (NET.features, {"X": samples(X), "batch_size": whole(4)}),
    "empirical_ck": (nh.empirical_ck, {"net": network(NET), "X": samples(X)}),
    "empirical_ntk": (nh.empirical_ntk, {"net": network(NET), "X": samples(X)}),
    "relative_error": (
        nh.relative_error,
        {"kernel": samples(KERNEL, kernel=True)}
        | {"equivalent": samples(KERNEL + np.eye(9), kernel=True)},
    ),
    "leading_eigenpairs": (nh.leading_eigenpairs, {"kernel": samples(KERNEL, kernel=True), "k": whole(2)}),
    "power_law": (
        nh.power_law,
        {"x": vector([1.0, 2.0, 4.0, 8.0]), "y": vector([8.0, 5.0, 2.0, 1.5])},
    ),
    "match": (
        nh.match,
        {"activations": activations([RELU]), "tau0": number(1.5)}
        | {"levels": whole(3, several=True), "objective": word("exact"), "grid": word("uniform")},
    ),
    "linear_share_bound": (nh.linear_share_bound, {"m": whole(3)}),
    "allocate": (
        nh.allocate,
        {"X": samples(X), "y": labels(Y), "activations": activations([RELU])}
        | {"budget": number(4096.0), "counted": word("seed"), "widths": wholes([6, 4])}
        | {"levels": whole(2, several=True), "sparsities": [0.5], "n_train": whole(6, optional=True)}
        | {"seed": whole(1)},
    ),
    "compress": (
        nh.compress,
        {"net": network(NET), "X": samples(X), "levels": whole(3, several=True)}
        | {"sparsity": number(0.5), "seed": whole(1), "grid": word("uniform")}
        | {"weights": word("drawn", optional=True)},
    ),
    "compress, trained": (nh.compress, {"net": DENSE, "X": samples(X), "levels": 3}),
    "compress, bits": (
        nh.compress,
        {"net": DENSE, "X": samples(X), "levels": whole(8, several=True), "bits": 8}
        | {"seed": whole(1), "max_change": number(0.5, optional=True)},
    ),
    "agreement": (
        nh.compression.agreement,
        {"small": CONVERTED, "net": network(DENSE), "X": samples(X)},
    ),
    "ConvertedNetwork.predict": (CONVERTED.predict, {"X": samples(X)}),
    "ConvertedNetwork.predict_proba": (CONVERTED.predict_proba, {"X": samples(X)}),
    "ConvertedNetwork.score": (CONVERTED.score, {"X": samples(X), "y": labels(Y)}),
    "CompressedNetwork": (
        nh.CompressedNetwork,
        {"layers": thing(SMALL.layers), "readout": SMALL.readout},
    ),
    "CompressedNetwork.features": (SMALL.features, {"X": samples(X)}),
    "CompressedNetwork.fit_readout": (
        refitted,
        {"X": samples(X), "y": labels(Y), "kind": word("ridge"), "dtype": word("int8")}
        | {"seed": whole(1)},
    ),
    "CompressedNetwork.predict": (SMALL.predict, {"X": samples(X)}),
    "CompressedNetwork.score": (SMALL.score, {"X": samples(X), "y": labels(Y)}),
    "CompressedNetwork.to_bytes": (SMALL.to_bytes, {"weights": word("packed")}),
    "load": (nh.load, {"path": path("no such file")}),
    "fit_readout": (
        nh.fit_readout,
        {"features": samples(X), "y": labels(Y), "kind": word("ridge"), "dtype": word("float16")}
        | {"holdout": number(0.25), "seed": whole(1), "device": word("cpu", optional=True)},
    ),
    "fit_readout, logistic": (
        nh.fit_readout,
        {"features": samples(X), "y": labels(Y), "kind": "logistic"},
    ),
    "NTKLCClassifier": (fitted(nh.NTKLCClassifier), ESTIMATOR | {"y": without(labels(Y), *SHAPES, "objects", "column", "halves", "Nones")}),
    "NTKLCRegressor": (
        fitted(nh.NTKLCRegressor),
        ESTIMATOR | {"y": without(but(vector(X[:, 0]), "column"), *SHAPES)},
    ),
    "train_dense": (nh.train_dense, TRAINING | {"widths": wholes([5])}),
    "train_ternary": (
        nh.train_ternary,
        TRAINING | {"net": network(TERNARY), "latent_rate": number(0.0625)}
        | {"smoothing": number(0.5)},
    ),
    "prune_and_finetune": (
        nh.prune_and_finetune,
        TRAINING | {"model": network(DENSE), "sparsity": number(0.5)},
    ),
}  # fmt: skip
# Results, which only the functions make that return them: their constructors promise nothing.
RESULTS = {"KernelEquivalent", "Matching"}


@pytest.fixture(scope="module", autouse=True)
def few_images(tmp_path_factory):
    """MNIST and CIFAR-10 of a few images each, where the data are looked for."""
    root = tmp_path_factory.mktemp("data")
    write_mnist(root)
    write_cifar(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTKLC_DATA", str(root))
        yield


def test_no_name_is_forgotten():
    functions = {name for name in nh.__all__ if callable(getattr(nh, name))}
    errors = {name for name in functions if _is_error(getattr(nh, name))}
    assert functions - errors - RESULTS <= set(CALLS)
    assert functions >= RESULTS


def _is_error(found):
    return isinstance(found, type) and issubclass(found, Exception)


def numbers_in(result):
    """The numbers and words of a result, one after the other, wherever they are kept."""
    if isinstance(result, torch.Tensor):
        yield result.detach().cpu().double().numpy()
    elif isinstance(result, np.ndarray | int | float | np.number):
        yield np.asarray(result)
    elif isinstance(result, nh.KernelEquivalent):
        yield result.to_dense()
    elif isinstance(result, nh.CompressedNetwork):
        yield from numbers_in([result.features(X), result.to_bytes("packed")])
    elif isinstance(result, torch.nn.Module):
        yield from numbers_in(list(result.parameters()))
    elif isinstance(result, dict):
        yield from numbers_in(list(result.values()))
    elif isinstance(result, list | tuple):
        for part in result:
            yield from numbers_in(part)
    elif hasattr(result, "__attrs_attrs__") or hasattr(result, "__dataclass_fields__"):
        fields = getattr(result, "__attrs_attrs__", None)
        names = (
            [f.name for f in fields] if fields is not None else list(result.__dataclass_fields__)
        )
        for name in names:
            yield from numbers_in(getattr(result, name))
    elif isinstance(result, str | bytes):
        yield np.asarray(result)


def outcome(function, arguments):
    """The result, or the error; a warning of numpy's is an error too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            return list(numbers_in(function(**arguments)))
        except Exception as error:
            return error


def named(error, names):
    """Whether this is an error of ours that names an argument, and not one from inside."""
    ours = type(error).__module__.startswith("ntklc_helpers")
    kind = type(error) in (ValueError, TypeError) or ours
    # One of several activations is called an activation.
    return kind and any(re.search(rf"\b{name.rstrip('s')}s?\b", str(error)) for name in names)


def alike(a, b):
    """Equal up to the last digits, which differ with the layout of a table in memory."""
    if a.shape != b.shape or a.dtype.kind not in "fiub":
        return np.array_equal(a, b)
    size = np.abs(a[np.isfinite(a)]).max(initial=0)
    return np.allclose(a, b, rtol=1e-4, atol=1e-5 * size)


def complaint(found, names, expected, arguments, function, argument):
    """What is wrong with an outcome; None if nothing is."""
    if isinstance(found, Exception):
        if not named(found, names):
            return f"{type(found).__name__}: {str(found)[:110]}"
        if isinstance(expected, Same):
            plain = outcome(function, arguments | {argument: expected.value})
            if not isinstance(plain, Exception):
                return f"refused, though the plain value is taken: {str(found)[:110]}"
        return None
    if expected is REFUSED:
        return "accepted"
    if any(part.dtype.kind == "f" and np.isnan(part).any() for part in found):
        return "a result with NaN"
    if isinstance(expected, Same):
        plain = outcome(function, arguments | {argument: expected.value})
        if isinstance(plain, Exception):
            return f"accepted, though the plain value is refused: {plain}"
        equal = len(plain) == len(found) and all(map(alike, plain, found))
        return None if equal else "another result than of the plain value"
    return None


def complaints(name):
    """Every odd value in the place of every argument, one at a time."""
    function, given_arguments = CALLS[name]
    varied = {k: v for k, v in given_arguments.items() if isinstance(v, Argument)}
    plain = {k: v.value if k in varied else v for k, v in given_arguments.items()}
    for argument, kind in varied.items():
        for what, (value, expected) in kind.odd.items():
            found = outcome(function, plain | {argument: value})
            names = varied if expected is EITHER else [argument]
            wrong = complaint(found, names, expected, plain, function, argument)
            if wrong:
                yield f"{name}: {argument} = {what}: {wrong}"


@pytest.mark.parametrize("name", CALLS)
def test_plain_values_are_taken(name):
    function, arguments = CALLS[name]
    found = outcome(function, {k: getattr(v, "value", v) for k, v in arguments.items()})
    assert name == "load" or not isinstance(found, Exception), found


@pytest.mark.parametrize("name", CALLS)
def test_one_odd_argument(name):
    found = list(complaints(name))
    assert not found, "\n".join(found)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_several_odd_arguments(data):
    with_arguments = [
        name
        for name, (_, given_arguments) in CALLS.items()
        if any(isinstance(v, Argument) for v in given_arguments.values())
    ]
    name = data.draw(st.sampled_from(sorted(with_arguments)))
    function, given_arguments = CALLS[name]
    varied = {k: v for k, v in given_arguments.items() if isinstance(v, Argument)}
    arguments = {k: v.value if k in varied else v for k, v in given_arguments.items()}
    for argument in data.draw(st.sets(st.sampled_from(sorted(varied)), min_size=1)):
        what = data.draw(st.sampled_from(sorted(varied[argument].odd)))
        arguments[argument] = varied[argument].odd[what][0]
    found = outcome(function, arguments)
    wrong = complaint(found, varied, EITHER, arguments, function, "")
    assert not wrong, wrong
