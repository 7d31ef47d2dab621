"""Exact kernels between two sets of rows, by tiles, in files, as dask arrays; regression with them."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve
from sklearn.kernel_ridge import KernelRidge

import ntklc_helpers as nh
from ntklc_helpers.theory import fill_tiles, kernel_array, kernel_ridge, sphere_kernel

RELU, TANH = nh.activation("relu"), nh.activation("tanh")
STEPS = nh.Quantized([-0.4, 0.9], [-1.0, 0.2, 1.5], name="steps")


def rows(n, p, seed=0, unit=False):
    X = np.random.default_rng(seed).standard_normal((n, p)) / np.sqrt(p)
    return X / np.linalg.norm(X, axis=1, keepdims=True) if unit else X


# --- between two sets of rows


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("layers", [[RELU] * 3, [TANH, RELU], [STEPS, TANH]])
def test_a_rectangle_is_a_part_of_the_square(layers, center):
    X, Z = rows(300, 9), 1.5 * rows(290, 9, 1)
    tau0 = float(np.sqrt((X**2).sum(1).mean()))
    whole = nh.limit_kernels(np.vstack([X, Z]), layers, center=center, tau0=tau0)
    # The scale is that of X alone: were it of both, the first would differ in the third digit.
    for square, between in zip(whole, nh.limit_kernels(X, layers, Z=Z, center=center), strict=True):
        assert between.shape == (300, 290)
        size = np.abs(between).max()
        np.testing.assert_allclose(between, square[:300, 300:], rtol=0, atol=3e-12 * size)


def test_the_scale_of_the_centres_is_that_of_the_first_rows():
    X, Z = rows(20, 5), 3 * rows(4, 5, 1)
    given = nh.limit_kernels(X, [TANH] * 2, Z=Z, tau0=float(np.sqrt((X**2).sum(1).mean())))
    for a, b in zip(given, nh.limit_kernels(X, [TANH] * 2, Z=Z), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
    given = nh.limit_kernels(X, [RELU] * 2, Z=Z)
    other, _ = nh.limit_kernels(X, [RELU] * 2, Z=Z, tau0=2.0)
    assert np.abs(other - given[0]).max() > 1e-3


def test_rows_that_are_in_both_meet_at_the_diagonal():
    X = rows(6, 4)
    for layers in ([RELU, TANH], [STEPS]):
        K, _ = nh.limit_kernels(X, layers, ntk=False)
        between, _ = nh.limit_kernels(X, layers, Z=X, ntk=False)
        # A root of a rounding where there is a jump.
        np.testing.assert_allclose(between, K, rtol=0, atol=1e-7)


# --- written into arrays


def test_arrays_given_hold_the_same_to_the_last_digit(tmp_path):
    X, Z = rows(1100, 7), rows(130, 7, 1)
    for other, shape in ((None, (1100, 1100)), (Z, (1100, 130))):
        K, N = nh.limit_kernels(X, [RELU] * 2, Z=other)
        file = np.lib.format.open_memmap(tmp_path / "K.npy", "w+", np.float64, shape)
        half = np.empty(shape, np.float32)
        found = nh.limit_kernels(X, [RELU] * 2, Z=other, out=(file, half))
        assert found[0] is file and found[1] is half
        np.testing.assert_array_equal(np.load(tmp_path / "K.npy"), K)
        # Rounded once, at the end: half a unit in the last place.
        np.testing.assert_array_equal(half, N.astype(np.float32))
        alone, none = nh.limit_kernels(X, [RELU] * 2, Z=other, ntk=False, out=np.empty(shape))
        np.testing.assert_array_equal(alone, K)
        assert none is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": np.empty((3, 3))}, "out must be a pair of arrays with ntk=True"),
        ({"out": np.empty((3, 2)), "ntk": False}, r"out must be .* of shape \(3, 3\), got float64"),
        ({"out": np.empty((3, 3), int), "ntk": False}, "float64 or float32 .* got int64"),
        ({"out": [[0.0] * 3] * 3, "ntk": False}, "out must be"),
        ({"out": np.broadcast_to(0.0, (3, 3)), "ntk": False}, "out must be a writeable array"),
        ({"Z": np.ones((2, 4))}, "Z must have 3 columns"),
        ({"Z": np.ones(3)}, "Z must have 2 dimension"),
    ],
)
def test_kernels_refuse_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        nh.limit_kernels(np.eye(3), [RELU], **options)


# --- on a sphere


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("layers", [[RELU] * 3, [TANH, STEPS], [nh.activation("sign")] * 2])
def test_on_a_sphere_the_kernel_is_the_exact_one(layers, center):
    X, Z = 1.2 * rows(60, 4, 2, unit=True), 1.2 * rows(50, 4, 3, unit=True)
    kernel = sphere_kernel(layers, radius=1.2, center=center)
    K, _ = nh.limit_kernels(X, layers, center=center, tau0=1.2, ntk=False)
    between, _ = nh.limit_kernels(X, layers, Z=Z, center=center, tau0=1.2, ntk=False)
    assert kernel.diagonal == pytest.approx(K[0, 0], rel=1e-12)
    for found, exact in ((kernel(X), K), (kernel(X, Z), between)):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * kernel.diagonal)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(0, np.pi))
def test_any_angle_has_its_closed_form(angle):
    kernel = sphere_kernel([RELU], center=False)
    found = kernel([[1.0, 0.0]], [[np.cos(angle), np.sin(angle)]])
    expected = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    assert found[0, 0] == pytest.approx(expected, abs=1e-11)


def test_rows_of_another_length_are_refused():
    kernel = sphere_kernel([RELU])
    with pytest.raises(ValueError, match="Z must have rows of length 1"):
        kernel(np.eye(2), 2 * np.eye(2))
    with pytest.raises(ValueError, match="radius must be a positive"):
        sphere_kernel([RELU], radius=0.0)


# --- tiles


def exact(X, Z=None):
    """Kernels of any activation and any rows: another kernel by tiles."""
    return nh.limit_kernels(X, [TANH, RELU], Z=Z, tau0=1.0, ntk=False)[0]


@pytest.mark.parametrize(("kernel", "unit"), [(sphere_kernel([RELU] * 2), True), (exact, False)])
def test_tiles_make_up_the_whole(kernel, unit, tmp_path):
    X, Z = rows(53, 6, unit=unit), rows(21, 6, 1, unit=unit)
    file = np.lib.format.open_memmap(tmp_path / "K.npy", "w+", np.float64, (53, 53))
    fill_tiles(kernel, X, file, tile=20)
    np.testing.assert_array_equal(file, file.T)
    # BLAS takes a sum of six products in another order in another shape.
    np.testing.assert_allclose(file, kernel(X), rtol=0, atol=1e-14)
    single = np.empty((53, 53), np.float32)
    fill_tiles(kernel, X, single, tile=20)
    np.testing.assert_array_equal(single, file.astype(np.float32))
    spread = kernel_array(kernel, X, tile=20)
    assert spread.chunks == ((20, 20, 13),) * 2
    for scheduler in ("threads", "sync"):
        np.testing.assert_array_equal(spread.compute(scheduler=scheduler), file)
    between = kernel_array(kernel, X, Z, tile=20)
    np.testing.assert_allclose(between.compute(), kernel(X, Z), rtol=0, atol=1e-14)


def test_tiles_refuse_what_cannot_hold_them():
    with pytest.raises(ValueError, match=r"out must be .* of shape \(2, 2\), got float32 \(2, 3\)"):
        fill_tiles(exact, np.eye(2), np.empty((2, 3), np.float32))
    with pytest.raises(ValueError, match="tile must be a whole number"):
        kernel_array(exact, np.eye(2), tile=0)


# --- ridge regression


@pytest.fixture(scope="module")
def problem():
    X = rows(400, 12, 4, unit=True)
    Y = np.column_stack([np.sign(X[:, 0]), X[:, 1] * X[:, 2]])
    return X, Y, sphere_kernel([RELU] * 3)(X)


RIDGES = (1e-2, 1e-4, 1e-6)


@pytest.mark.parametrize("rank", [1, 50, 1000])
def test_the_solution_is_the_direct_one(problem, rank):
    _, Y, K = problem
    found = kernel_ridge(K, Y, RIDGES, rank=rank, tolerance=1e-11, most=3000)
    assert found.coefficients.shape == (3, 400, 2) and found.residual.max() <= 1e-11
    for A, ridge in zip(found.coefficients, RIDGES, strict=True):
        shifted = K + ridge * np.trace(K) * np.eye(400)
        residual = np.linalg.norm(Y - shifted @ A, axis=0) / np.linalg.norm(Y, axis=0)
        assert residual.max() < 1e-9
        expected = solve(shifted, Y, assume_a="pos")
        np.testing.assert_allclose(A, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        peer = KernelRidge(alpha=ridge * np.trace(K), kernel="precomputed").fit(K, Y)
        np.testing.assert_allclose(K @ A, peer.predict(K), rtol=0, atol=1e-7)


def test_a_preconditioner_saves_steps(problem):
    _, Y, K = problem
    few, many = (kernel_ridge(K, Y, [1e-6], rank=r, most=3000).steps for r in (300, 1))
    assert few < many / 3


def test_a_file_of_float32_and_a_dask_array_give_the_same(problem, tmp_path):
    X, Y, K = problem
    kernel = sphere_kernel([RELU] * 3)
    direct = kernel_ridge(K, Y, RIDGES, tolerance=1e-11).coefficients
    file = np.lib.format.open_memmap(tmp_path / "K.npy", "w+", np.float32, K.shape)
    fill_tiles(kernel, X, file, tile=150)
    rounded = kernel_ridge(file, Y, RIDGES, tolerance=1e-11).coefficients
    # The kernel is off by 6e-8 of an entry: so are the values fitted, over the least ridge.
    np.testing.assert_allclose(K @ rounded[0], K @ direct[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(K @ rounded[2], K @ direct[2], rtol=0, atol=1e-3)
    assert np.abs(rounded - direct).max() > 0
    # Processes are started once: each of the steps would start its own, and they take seconds.
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for scheduler in ({"scheduler": "threads"}, {"scheduler": "processes", "pool": pool}):
            with dask.config.set(scheduler, num_workers=2):
                spread = kernel_array(kernel, X, tile=150).persist()
                found = kernel_ridge(spread, Y, RIDGES, tolerance=1e-11, rank=300).coefficients
            np.testing.assert_allclose(K @ found, K @ direct, rtol=0, atol=1e-8)


def test_a_column_of_zeros_stays_zero(problem):
    _, Y, K = problem
    found = kernel_ridge(K, np.column_stack([Y, np.zeros(400)]), [1e-3])
    assert (found.coefficients[..., -1] == 0).all()


def test_a_ridge_of_zero_needs_a_kernel_that_is_not_singular(problem):
    X, Y, _ = problem
    regular = np.diag(np.arange(1.0, 401.0))
    found = kernel_ridge(regular, Y, [0.0], rank=400)
    np.testing.assert_allclose(found.coefficients[0], Y / np.arange(1, 401)[:, None], atol=1e-8)
    # Two images that are the same, of different classes: no function passes through both.
    twice, Y = np.vstack([X, X]), np.vstack([Y, -Y])
    with pytest.raises(ValueError, match="ridges must be larger: with 0 the residual is"):
        kernel_ridge(sphere_kernel([RELU])(twice), Y, [1e-3, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 1)), [1.0]), "K must be a square matrix"),
        (([[1.0]], np.ones((1, 1)), [1.0]), "K must be a square matrix"),
        ((np.eye(3), np.ones((2, 1)), [1.0]), "Y must have 3 rows, as many as K"),
        ((np.eye(3), np.ones(3), [1.0]), "Y must have 2 dimension"),
        ((np.eye(3), np.ones((3, 1)), [-1.0]), "ridges must be numbers of at least 0"),
        ((np.eye(3), np.ones((3, 1)), []), "ridges must be numbers of at least 0"),
        ((np.zeros((3, 3)), np.ones((3, 1)), [1.0]), "K's trace positive"),
        ((np.full((3, 3), np.nan), np.ones((3, 1)), [1.0]), "K's trace positive"),
        ((np.array([[1.0, np.inf], [np.inf, 1.0]]), np.ones((2, 1)), [1.0]), "K must be .* finite"),
        ((np.eye(3) - 9 * np.diag([0, 0, 0.2]), np.ones((3, 1)), [0.0]), "the kernel is singular"),
    ],
)
def test_regression_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_ridge(*arguments)
