"""Ternary matrices: their law, their stream, and how near their packing is to the entropy."""

import hashlib

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntklc_helpers as nh

SPARSITIES = [0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 0.9, 0.97]


def matrices():
    shape = st.tuples(st.integers(1, 40), st.integers(1, 40))
    return st.builds(
        lambda shape, eps, seed: nh.theory.draw_ternary(shape, eps, seed),
        shape,
        st.sampled_from([*SPARSITIES, 0.999]),
        st.integers(0, 2**31),
    )


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_law_is_ternary_with_mean_0_and_variance_1(sparsity):
    T = nh.theory.draw_ternary((1000, 1000), sparsity, seed=1)
    zero = np.mean(T == 0)
    # Five standard errors of a mean over 10⁶ entries.
    assert abs(zero - sparsity) <= 5e-3 * np.sqrt(sparsity * (1 - sparsity))
    scaled = T / np.sqrt(1 - sparsity)
    assert abs(scaled.mean()) < 5e-3
    assert abs(scaled.var() - 1) < 5e-3 * np.sqrt(1 / (1 - sparsity) - 1) + 1e-4


def test_entries_are_uncorrelated_between_neighbours_and_streams():
    first, second = (
        nh.theory.draw_ternary((1000, 1000), 0.5, 7, stream).astype(float) for stream in (1, 2)
    )
    for other in (second, np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)):
        assert abs(np.mean(first * other) / 0.5) < 5e-3


def test_the_stream_is_the_same_everywhere():
    # Golden: a seed stored in a file must give the same weights for ever.
    T = nh.theory.draw_ternary((33, 65), 0.9, seed=2024, stream=3)
    assert hashlib.sha256(T.tobytes()).hexdigest() == (
        "48c173446faddc7679884dedde373b7ab54d4f5b24191295ee772a7fb152d3fe"
    )
    assert (T.sum(), np.count_nonzero(T)) == (-1, 199)


def test_the_stream_follows_its_definition():
    """From the raw 64-bit words, one entry at a time."""
    raw = np.random.PCG64(np.random.SeedSequence([5, 2])).random_raw(3)
    halves = [int(word) >> shift & 0xFFFFFFFF for word in raw for shift in (0, 32)]
    want = [0 if half >> 1 < 0.25 * 2**31 else 2 * (half & 1) - 1 for half in halves]
    assert nh.theory.draw_ternary((1, 5), 0.25, seed=5, stream=2).tolist() == [want[:5]]


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_packing_is_within_3_percent_of_the_entropy(sparsity):
    matrix = nh.compression.TernaryMatrix.from_dense(
        nh.theory.draw_ternary((1000, 1000), sparsity, seed=2)
    )
    bits = 8 * nh.compression.pack_ternary(matrix).nbytes / 1e6
    assert bits < 1.03 * nh.compression.ternary_entropy(sparsity)
    # Not below what the drawn matrix's own frequencies allow, but for the rounding to bytes.
    assert bits > nh.compression.ternary_entropy(matrix.sparsity) - 1e-3


def test_entropy_has_its_known_values():
    assert nh.compression.ternary_entropy(0) == 1
    assert nh.compression.ternary_entropy(0.5) == 1.5
    assert nh.compression.ternary_entropy(1 / 3) == pytest.approx(np.log2(3), rel=1e-15)


@given(matrices())
def test_packing_loses_nothing(dense):
    matrix = nh.compression.TernaryMatrix.from_dense(dense)
    again = nh.compression.unpack_ternary(nh.compression.pack_ternary(matrix))
    assert np.array_equal(matrix.to_dense(), dense)
    assert np.array_equal(again.to_dense(), dense)
    assert np.array_equal(matrix.row_sums, dense.sum(axis=1))
    assert np.array_equal(matrix.row_nonzeros, np.count_nonzero(dense, axis=1))
    assert matrix.nonzeros == np.count_nonzero(dense)
    assert matrix.sparsity == pytest.approx(np.mean(dense == 0))


@given(matrices(), st.data())
def test_streams_that_do_not_fit_are_refused_or_give_a_matrix(dense, data):
    """A changed stream never raises anything but ValueError and never reaches outside."""
    packed = nh.compression.pack_ternary(nh.compression.TernaryMatrix.from_dense(dense))
    name = data.draw(st.sampled_from(["unary", "low", "signs"]))
    stream = bytearray(getattr(packed, name).tobytes())
    if stream and data.draw(st.booleans()):
        at = data.draw(st.integers(0, 8 * len(stream) - 1))
        stream[at // 8] ^= 1 << at % 8
    else:
        stream += b"\x01"
    changed = attrs.evolve(packed, **{name: np.frombuffer(bytes(stream), np.uint8)})
    try:
        matrix = nh.compression.unpack_ternary(changed)
    except ValueError:
        return
    assert matrix.to_dense().shape == dense.shape


def test_a_shape_beyond_the_streams_makes_nothing_large():
    """What a forged file says of its size is held against its streams first."""
    matrix = nh.compression.TernaryMatrix.from_dense(np.ones((4, 4)))
    packed = nh.compression.pack_ternary(matrix)
    for shape in [(2**40, 4), (2**60, 2**60)]:
        with pytest.raises(ValueError, match="signs must hold"):
            nh.compression.unpack_ternary(attrs.evolve(packed, shape=shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 3), 0.5, 0), "shape must be a whole number of at least 1"),
        (((3, 3), 1.0, 0), r"sparsity must be in \[0, 1\)"),
        (((3, 3), float("nan"), 0), "sparsity must be finite"),
        (((3, 3), 0.5, -1), "seed must be a whole number of at least 0"),
        (((3, 3), 0.5, 0, 1.5), "stream must be a whole number of at least 0"),
    ],
)
def test_bad_draws_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nh.theory.draw_ternary(*arguments)


@pytest.mark.parametrize("matrix", [np.zeros(3), np.zeros((0, 3)), [[0.5, 1]], [[2, 0]], None])
def test_what_is_not_ternary_is_refused(matrix):
    with pytest.raises(ValueError, match="matrix must"):
        nh.compression.TernaryMatrix.from_dense(matrix)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
def test_pruned_float_matrices_take_their_values_and_their_places(keep):
    matrix = nh.theory.draw_ternary((500, 400), 1 - keep, seed=3) * np.float32(0.3)
    least = np.count_nonzero(matrix) * 4
    # Places: at most the bitmap, at least the entropy of where they stand.
    zeros = -sum(x * np.log2(x) for x in (keep, 1 - keep) if x) * matrix.size / 8
    assert (
        least + 0.98 * zeros
        <= nh.compression.pruned_bytes(matrix)
        <= min(4 * matrix.size, least + 1.04 * zeros + 1)
    )
