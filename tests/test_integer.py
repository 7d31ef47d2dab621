"""Layers run on signs alone, against the product with the matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.compression.engine import BLOCK, IntegerLayer


def expected(T, inputs, gain, shift, thresholds, values):
    u = gain * (T.astype(float) @ inputs.astype(float)) + shift[:, None]
    return values[np.searchsorted(thresholds, u.ravel(), side="left")].reshape(u.shape)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 300))
    T = nh.theory.draw_ternary(
        (rows, columns), draw(st.sampled_from([0.0, 0.5, 0.9])), seed=draw(st.integers(0, 99))
    )
    largest = draw(st.sampled_from([1, 15, 16, 127]))
    inputs = rng.integers(-largest, largest + 1, (columns, draw(st.sampled_from([1, 3, BLOCK]))))
    count = draw(st.sampled_from([1, 2, 15, 255]))
    # Powers of two keep gain, shift and thresholds exact, so that ties are real ties.
    gain, shift = 0.25, rng.integers(-9, 9, rows) / 2
    thresholds = np.sort(rng.choice(np.arange(-4000, 4000), count, replace=False)) / 8
    values = rng.permutation(count + 1).astype(draw(st.sampled_from([np.float32, np.float64])))
    return T, inputs.astype(np.int8), largest, gain, shift, thresholds, values


@settings(max_examples=60, deadline=None)
@given(cases())
def test_sums_of_codes_are_exact(case):
    T, inputs, largest, gain, shift, thresholds, values = case
    layer = IntegerLayer.prepare(
        nh.compression.TernaryMatrix.from_dense(T), largest, gain, shift, thresholds, values
    )
    want = expected(T, inputs, gain, shift, thresholds, values)
    assert np.array_equal(layer(inputs), want)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_floats_give_the_same_as_codes(case):
    T, inputs, _, gain, shift, thresholds, values = case
    layer = IntegerLayer.prepare(
        nh.compression.TernaryMatrix.from_dense(T), None, gain, shift, thresholds, values
    )
    assert np.array_equal(
        layer(inputs.astype(float)), expected(T, inputs, gain, shift, thresholds, values)
    )


def test_a_sum_of_floats_is_the_same_in_every_batch():
    rng = np.random.default_rng(0)
    T = nh.compression.TernaryMatrix.from_dense(nh.theory.draw_ternary((50, 700), 0.3, seed=1))
    # Numbers of which every order of summation gives another total.
    inputs = rng.choice([1e16, -1e16, 1.0, 3.0], (700, BLOCK))
    thresholds = np.linspace(-1000, 1000, 255)
    layer = IntegerLayer.prepare(T, None, 1.0, np.zeros(50), thresholds, np.arange(256.0))
    together = layer(inputs)
    for start in (0, 3, 200):
        assert np.array_equal(layer(inputs[:, start : start + 3]), together[:, start : start + 3])


@pytest.mark.parametrize(("largest", "dtype"), [(15, np.int16), (16, np.int32)])
def test_the_narrow_type_is_used_only_where_nothing_can_overflow(largest, dtype):
    ones = nh.compression.TernaryMatrix.from_dense(np.ones((2, 2184), np.int8))
    longer = nh.compression.TernaryMatrix.from_dense(np.ones((2, 2185), np.int8))
    shift, thresholds, values = np.zeros(2), np.array([2184.0 * largest - 1]), np.array([0.0, 1.0])
    for matrix, kind in ((ones, dtype), (longer, np.int32)):
        layer = IntegerLayer.prepare(matrix, largest, 1.0, shift, thresholds, values)
        assert layer.bounds.dtype == kind
        full = np.full((matrix.shape[1], BLOCK), largest, np.int8)
        assert (layer(full) == 1).all() and (layer(-full) == 0).all()


def test_thresholds_out_of_reach_are_never_or_always_passed():
    T = nh.compression.TernaryMatrix.from_dense(np.ones((1, 4), np.int8))
    layer = IntegerLayer.prepare(T, 1, 1e-9, np.zeros(1), np.array([-1e30, 1e30]), np.arange(3.0))
    assert (layer(np.ones((4, BLOCK), np.int8)) == 1).all()
