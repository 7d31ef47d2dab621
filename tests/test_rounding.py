"""Weights rounded for their inputs: against all codes there are, and never worse than plainly."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntklc_helpers.compression.rounding import code_range, plain, second_order

BITS = ["ternary", 2, 3, 4, 8]


def problem(seed, rows=4, columns=5, n=30):
    """Weights, and second moments of inputs that are correlated and of different size."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, columns)) @ rng.standard_normal((columns, columns))
    A = A * rng.uniform(0.1, 2, columns) + rng.standard_normal()
    return rng.standard_normal((rows, columns)), A.T @ A / n + 1e-3 * np.eye(columns)


def squared_error(W, H, found):
    off = found.scale[:, None] * found.codes - W
    return np.diag(off @ H @ off.T)


def least(W, H, bits, kept=slice(None)):
    """Over all codes, 0 where they are not kept, each with its best scale."""
    low, high = code_range(bits)
    Z = np.array(list(product(range(low, high + 1), repeat=W.shape[1])), float)
    others = np.ones(W.shape[1], bool)
    others[kept] = False
    Z = Z[np.any(Z != 0, axis=1) & ~np.any(Z[:, others] != 0, axis=1)]
    gain = np.clip(Z @ H @ W.T, 0, None) ** 2 / np.einsum("ij,jk,ik->i", Z, H, Z)[:, None]
    return np.diag(W @ H @ W.T) - gain.max(axis=0)


@pytest.mark.parametrize("bits", ["ternary", 2, 3])
def test_it_is_near_the_best_of_all_codes(bits):
    excess, plainly = [], []
    for seed in range(20):
        W, H = problem(seed)
        found, best = second_order(W, H, bits), least(W, H, bits)
        np.testing.assert_allclose(found.error, squared_error(W, H, found), atol=1e-12)
        assert (found.error >= best * (1 - 1e-9)).all()
        power = np.diag(W @ H @ W.T)
        excess += list((found.error - best) / power)
        plainly += list((plain(W, H, bits).error - best) / power)
    assert np.mean(np.array(excess) < 1e-9) > 0.5
    assert np.mean(excess) < np.mean(plainly) / 4


@pytest.mark.parametrize("bits", ["ternary", 2, 3])
def test_what_is_pruned_stays_so_and_the_others_make_up_for_it(bits):
    excess, alone = [], []
    for seed in range(12):
        W, H = problem(seed, rows=1)
        kept = np.random.default_rng(seed).random(5) < 0.6
        kept[seed % 5] = True
        found, best = second_order(W, H, bits, kept[None]), least(W, H, bits, kept)
        assert not found.codes[:, ~kept].any() and (found.error >= best * (1 - 1e-9)).all()
        np.testing.assert_allclose(found.error, squared_error(W, H, found), atol=1e-12)
        power = np.diag(W @ H @ W.T)
        excess += list((found.error - best) / power)
        # Rounded as if what is pruned were none of the row's inputs.
        pruned = second_order(W[:, kept], H[np.ix_(kept, kept)], bits)
        codes = np.zeros_like(W)
        codes[:, kept] = pruned.codes
        off = pruned.scale[:, None] * codes - W
        alone += list((np.diag(off @ H @ off.T) - best) / power)
    assert np.mean(np.array(excess) < 1e-9) > 0.4 and np.mean(excess) < np.mean(alone) / 4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from(BITS),
    columns=st.integers(1, 12),
    n=st.integers(1, 40),
)
def test_of_no_row_worse_than_to_the_nearest(seed, bits, columns, n):
    W, H = problem(seed, 3, columns, n)
    found, nearest = second_order(W, H, bits), plain(W, H, bits)
    low, high = code_range(bits)
    assert np.isin(found.codes, np.arange(low, high + 1)).all() and (found.scale > 0).all()
    assert (squared_error(W, H, found) <= squared_error(W, H, nearest) * (1 + 1e-9) + 1e-12).all()
    # The scale is the best of these codes.
    for factor in (0.999, 1.001):
        off = factor * found.scale[:, None] * found.codes - W
        assert (np.diag(off @ H @ off.T) >= found.error - 1e-12).all()


@pytest.mark.parametrize("bits", BITS)
def test_inputs_that_are_not_correlated_are_rounded_each_to_the_nearest(bits):
    W, _ = problem(3, 6, 40)
    found = second_order(W, np.diag(np.random.default_rng(0).uniform(0.5, 2, 40)), bits)
    nearest = np.clip(np.rint(W / found.scale[:, None]), *code_range(bits))
    # Where the last scale moved a weight across a half, both are as near.
    far = np.abs(np.abs(W / found.scale[:, None] % 1) - 0.5) > 0.05
    assert np.array_equal(found.codes[far], nearest[far]) and far.mean() > 0.8


@pytest.mark.parametrize("bits", BITS)
def test_what_it_does_not_depend_on(bits):
    W, H = problem(5, 6, 30, 200)
    found = second_order(W, H, bits)
    larger = second_order(4 * W, H / 2, bits)
    assert np.array_equal(found.codes, larger.codes)
    np.testing.assert_allclose(larger.scale, 4 * found.scale)
    columns, rows = np.random.default_rng(1).permutation(30), [3, 1, 5]
    mixed = second_order(W[:, columns], H[np.ix_(columns, columns)], bits)
    assert np.array_equal(mixed.codes, found.codes[:, columns])
    assert np.array_equal(second_order(W[rows], H, bits).codes, found.codes[rows])


def test_more_bits_leave_less_and_correlation_helps():
    W, H = problem(7, 20, 60, 400)
    errors = [second_order(W, H, bits).error.sum() for bits in BITS]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 * errors[0]
    few = np.random.default_rng(2).standard_normal((400, 6)) @ np.ones((6, 60))
    H = few.T @ few / 400 + 0.01 * np.eye(60)
    assert second_order(W, H, 2).error.sum() < plain(W, H, 2).error.sum() / 3


def test_rows_of_zeros_stay():
    found = second_order(np.zeros((2, 3)), np.eye(3), "ternary")
    assert not found.codes.any() and np.isfinite(found.scale).all() and not found.error.any()
