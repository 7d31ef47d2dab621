"""Layers run on signs alone, against the product with the matrix."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.compression import engine
from ntklc_helpers.compression.engine import BATCH, LANES, IntegerLayer, blocks, rows
from ntklc_helpers.compression.ternary import TernaryMatrix


def expected(T, inputs, gain, shift, thresholds, values):
    u = gain * (inputs.astype(float) @ T.T.astype(float)) + shift
    return values[np.searchsorted(thresholds, u.ravel(), side="left")].reshape(u.shape)


def reach(largest):
    """The lowest and the highest code of int8."""
    return -largest, min(largest, 127)


def both_ways(layer, inputs):
    """By the places of the non-zeros, and bit by bit."""
    n = len(inputs)
    added = layer.add_up(blocks(inputs, LANES, layer.codes), LANES)
    for pieces in (added, layer.multiply(inputs)):
        found = pieces if layer.values.dtype == np.int8 else layer.spelled(pieces, n)
        yield rows(found, n)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    outputs, columns = draw(st.integers(1, 30)), draw(st.integers(1, 600))
    sparsity = draw(st.sampled_from([0.0, 0.5, 0.9, 0.99]))
    T = nh.theory.draw_ternary((outputs, columns), sparsity, seed=draw(st.integers(0, 99)))
    largest, n = draw(st.sampled_from([1, 7, 15, 16, 128])), draw(st.integers(1, 150))
    inputs = rng.integers(-largest, largest + (largest < 128), (n, columns)).astype(np.int8)
    count = draw(st.sampled_from([1, 2, 15, 255, 300]))
    # Powers of two keep gain, shift and thresholds exact, so that ties are real ties.
    gain, shift = 0.25, rng.integers(-9, 9, outputs) / 2
    thresholds = np.sort(rng.choice(np.arange(-4000, 4000), count, replace=False)) / 8
    kinds = [np.float32, np.float64] + [np.int8] * (count < 256)
    values = rng.permutation(count + 1).astype(np.int16)
    kind = draw(st.sampled_from(kinds))
    values = (values - 128).astype(np.int8) if kind is np.int8 else values.astype(kind)
    return T, inputs, largest, gain, shift, thresholds, values


@settings(max_examples=80, deadline=None)
@given(cases())
def test_sums_of_codes_are_exact(case):
    T, inputs, largest, gain, shift, thresholds, values = case
    layer = IntegerLayer.prepare(
        TernaryMatrix.from_dense(T), reach(largest), gain, shift, thresholds, values
    )
    want = expected(T, inputs, gain, shift, thresholds, values)
    for found in (*both_ways(layer, inputs), rows(layer(inputs, len(inputs)), len(inputs))):
        assert np.array_equal(found, want)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_floats_give_the_same_as_codes(case):
    T, inputs, _, gain, shift, thresholds, values = case
    layer = IntegerLayer.prepare(TernaryMatrix.from_dense(T), None, gain, shift, thresholds, values)
    found = rows(layer(inputs.astype(float), len(inputs)), len(inputs))
    assert np.array_equal(found, expected(T, inputs, gain, shift, thresholds, values))


def test_floats_are_added_in_one_order_in_every_batch():
    rng = np.random.default_rng(0)
    dense = nh.theory.draw_ternary((50, 700), 0.3, seed=1)
    T = TernaryMatrix.from_dense(dense)
    # Numbers of which every order of summation gives another total.
    inputs = rng.choice([1e16, -1e16, 1.0, 3.0], (BATCH, 700))
    thresholds = np.linspace(-1000, 1000, 255)
    layer = IntegerLayer.prepare(T, None, 1.0, np.zeros(50), thresholds, np.arange(256.0))
    together = layer(inputs, BATCH)
    for start, n in ((0, 1), (3, 8), (200, 9), (100, 64), (7, 65)):
        assert np.array_equal(layer(inputs[start : start + n], n), together[start : start + n])
    # Fours of those of the +1, what is left of them one by one, then likewise those of the −1.
    totals = np.zeros((50, BATCH))
    for i in range(50):
        for sign in (1, -1):
            x = inputs.T[dense[i] == sign]
            fours = len(x) - len(x) % 4
            for a, b, c, d in x[:fours].reshape(-1, 4, BATCH):
                totals[i] += sign * (((a + b) + c) + d)
            for one in x[fours:]:
                totals[i] += sign * one
    want = np.count_nonzero(totals.T[:, :, None] > thresholds, axis=2)
    assert np.array_equal(together, want)


@pytest.mark.parametrize(("largest", "dtype"), [(15, np.int16), (16, np.int32), (128, np.int32)])
def test_the_narrow_type_is_used_only_where_nothing_can_overflow(largest, dtype):
    shift, thresholds, values = np.zeros(2), np.array([2184.0 * largest - 1]), np.array([0.0, 1.0])
    for columns, kind in ((2184, dtype), (2185, np.int32)):
        for sign in (1, -1):
            matrix = TernaryMatrix.from_dense(np.full((2, columns), sign))
            layer = IntegerLayer.prepare(matrix, reach(largest), 1.0, shift, thresholds, values)
            assert layer.bounds.dtype == kind
            full = np.full((70, columns), -largest).astype(np.int8)
            for found in both_ways(layer, full):
                assert (found == (sign < 0)).all()


def test_thresholds_out_of_reach_are_never_or_always_passed():
    T = TernaryMatrix.from_dense(np.ones((1, 4), np.int8))
    layer = IntegerLayer.prepare(
        T, (-1, 1), 1e-9, np.zeros(1), np.array([-1e30, 1e30]), np.arange(3.0)
    )
    for found in both_ways(layer, np.ones((9, 4), np.int8)):
        assert (found == 1).all()


PORTABLE = """
import sys
import numpy as np
from ntklc_helpers.compression.engine import IntegerLayer, LANES, blocks
from ntklc_helpers.compression.ternary import TernaryMatrix
given = np.load(sys.argv[1])
layer = IntegerLayer.prepare(
    TernaryMatrix.from_dense(given["T"]), (-128, 127), 1.0, np.zeros(13), given["thresholds"],
    given["values"],
)
added = layer.add_up(blocks(given["inputs"], LANES, layer.codes), LANES)[0].T
print((added == given["want"]).all(), (layer.multiply(given["inputs"]) == given["want"]).all())
"""


def test_a_processor_without_the_fast_instructions_gives_the_same(tmp_path):
    rng = np.random.default_rng(1)
    T = nh.theory.draw_ternary((13, 301), 0.4, seed=2)
    inputs = rng.integers(-128, 128, (LANES, 301)).astype(np.int8)
    thresholds, values = np.array([-500.0, 0, 400]), np.array([3, -7, 9, 1], np.int8)
    want = expected(T, inputs, 1.0, np.zeros(13), thresholds, values)
    np.savez(
        tmp_path / "given.npz", T=T, inputs=inputs, thresholds=thresholds, values=values, want=want
    )
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PORTABLE, str(tmp_path / "given.npz")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True"], done.stderr


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_what_is_faster_changes_nothing_else(monkeypatch, sparsity):
    X = nh.normalize(np.random.default_rng(0).normal(size=(100, 40)))
    net = nh.RandomMLP(40, [60, 50, 70], ["relu"] * 3)
    small = nh.compress(net, X, levels=16, sparsity=sparsity)
    found = []
    for costs in ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        monkeypatch.setattr(engine, "_costs", lambda *_, costs=costs: costs)
        found += [small.features(X[:n]) for n in (100, 20, 8, 1)]
    for features in found:
        assert np.array_equal(features, found[0][: len(features)])


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_keeps_its_threads_and_no_more_are_taken(threads):
    """Numba, of the same OpenMP, has three here, and would give torch as many."""
    code = """
import numba, numpy as np, torch
import ntklc_helpers as nh
from ntklc_helpers.compression import engine
X, taken, run = np.eye(64), set(), engine._add_up[0]
def watched(*given):
    taken.add(numba.get_num_threads())
    run(*given)
engine._add_up = (watched, watched)
network = nh.compress(nh.RandomMLP(64, [30], ["relu"]), X, levels=4)
network.features(X)
print(torch.get_num_threads(), taken)
"""
    given = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | given, capture_output=True, text=True
    )
    assert done.stdout == f"{threads} {{{threads}}}\n", done.stderr
