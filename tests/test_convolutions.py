"""Convolutional kernels: another library's, fully connected ones, symmetries, drawn networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntklc_helpers as nh
from ntklc_helpers.theory import conv_kernels

FLAT, GAP = nh.Flatten(), nh.GlobalAveragePool()
THEIRS = np.load(Path(__file__).parent / "data/convolutional_kernels.npz")
SAME = nh.Conv(3)
NETWORKS = {
    "relu2_same_flatten": [SAME, "relu", SAME, "relu", FLAT],
    "relu2_same_gap": [SAME, "relu", SAME, "relu", GAP],
    "relu3_strided_flatten": [SAME, "relu", nh.Conv(3, stride=2), "relu", SAME, "relu", FLAT],
    "erf2_same_flatten": [SAME, "erf", SAME, "erf", FLAT],
    "relu2_avgpool_gap": [SAME, "relu", nh.AveragePool(2), SAME, "relu", GAP],
}
NORMALISED = [
    SAME,
    nh.theory.Normalize(),
    "relu",
    nh.AveragePool(2),
    SAME,
    nh.theory.Normalize(),
    "erf",
    FLAT,
]
VALID = [nh.Conv(3, padding="valid"), "relu", nh.AveragePool(3), nh.Conv(1), "erf", FLAT]
STEPS = nh.Quantized((-0.4, 0.1, 0.9), (-0.5, 0.2, 0.6, 1.7))


def some_images(n=5, h=6, w=6, c=2, seed=0):
    return np.random.default_rng(seed).standard_normal((n, h, w, c))


# --- kernels


@pytest.mark.parametrize("name", NETWORKS)
def test_another_library(name):
    K, N = nh.conv_limit_kernels(THEIRS["X"], NETWORKS[name])
    for ours, theirs in ((K, THEIRS[f"{name}__ck"]), (N, THEIRS[f"{name}__ntk"])):
        off = ~np.eye(len(ours), dtype=bool)
        assert np.abs(ours - theirs)[off].max() < 1e-14
    assert np.abs(K - THEIRS[f"{name}__ck"]).max() < 1e-14
    # Theirs has lost half the digits of arcsin near 1.
    assert np.abs(N - THEIRS[f"{name}__ntk"]).max() < 1e-8


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("readout", [FLAT, GAP])
def test_images_of_one_pixel_are_vectors(center, readout):
    """A filter of 1 × 1 on one position is a fully connected layer on the channels."""
    X = np.random.default_rng(0).standard_normal((7, 5))
    names = ["relu", "gelu", "tanh", STEPS]
    layers = [one for name in names for one in (nh.Conv(1), name)] + [readout]
    images = np.sqrt(5) * X[:, None, None]
    K, N = nh.conv_limit_kernels(images, layers)
    expected = nh.limit_kernels(
        X, [nh.activation(n) if n is not STEPS else n for n in names], center=False
    )
    np.testing.assert_allclose(K, expected[0], atol=1e-12)
    np.testing.assert_allclose(N, expected[1], atol=1e-11)
    if center:
        # On a sphere every layer's scale is the same for all, and so are the constants.
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        K, _ = nh.conv_limit_kernels(np.sqrt(5) * X[:, None, None], layers, center=True)
        expected = nh.limit_kernels(
            X, [nh.activation(n) if n is not STEPS else n for n in names], tau0=1.0
        )
        np.testing.assert_allclose(K, expected[0], atol=1e-12)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    "layers",
    [NETWORKS["relu2_avgpool_gap"], VALID, NETWORKS["erf2_same_flatten"], NORMALISED],
)
def test_between_two_sets_and_by_other_tiles(layers, center, monkeypatch, tmp_path):
    images = some_images(9, 8, 8)
    K, N = nh.conv_limit_kernels(images, layers, center=False)
    parts = nh.conv_limit_kernels(images[:4], layers, Z=images[4:])
    assert np.allclose(parts[0], K[:4, 4:], atol=1e-14)
    assert np.allclose(parts[1], N[:4, 4:], atol=1e-14)
    whole = nh.conv_limit_kernels(images, layers, center=center)
    monkeypatch.setattr(conv_kernels, "_ENTRIES", 1)
    out = [
        np.lib.format.open_memmap(tmp_path / f"{i}.npy", "w+", np.float32, (9, 9)) for i in (0, 1)
    ]
    again = nh.conv_limit_kernels(images, layers, center=center, out=out)
    assert again[0] is out[0] and again[1] is out[1]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    alone, none = nh.conv_limit_kernels(images, layers, center=center, ntk=False)
    assert none is None and np.allclose(alone, whole[0], atol=1e-14)


@pytest.mark.parametrize("name", NETWORKS)
def test_symmetries(name):
    """Turning or mirroring all images changes nothing, nor does the order of channels."""
    images, layers = some_images(4, 8, 8, 3), NETWORKS[name]
    K, N = nh.conv_limit_kernels(images, layers)
    others = [images[..., ::-1], images.swapaxes(1, 2)]
    if "strided" not in name:
        # With a stride of 2 one row of zeros is at one end alone.
        others += [images[:, ::-1], np.rot90(images, axes=(1, 2))]
    for other in others:
        turned = nh.conv_limit_kernels(other, layers)
        np.testing.assert_allclose(turned[0], K, atol=1e-14)
        np.testing.assert_allclose(turned[1], N, atol=1e-14)


def test_a_mean_over_positions_does_not_see_where_something_is():
    images = np.zeros((3, 12, 12, 2))
    patch = some_images(1, 4, 4)[0]
    for image, (y, x) in zip(images, [(2, 2), (4, 5), (6, 3)], strict=True):
        image[y : y + 4, x : x + 4] = patch
    K, N = nh.conv_limit_kernels(images, NETWORKS["relu2_same_gap"])
    assert np.ptp(K) < 1e-14 and np.ptp(N) < 1e-8
    flat, _ = nh.conv_limit_kernels(images, NETWORKS["relu2_same_flatten"])
    assert np.ptp(flat) > 0.2 * flat.max()


@pytest.mark.parametrize(
    "layers", [[SAME, "?", SAME, "?", FLAT], [SAME, "?", nh.AveragePool(2), SAME, "?", GAP]]
)
@pytest.mark.parametrize("center", [False, True])
def test_series_and_closed_form(layers, center):
    images = some_images(3, 6, 6)
    images[0] = 0
    mine = nh.activation(torch.erf, name="mine")
    found, known = (
        nh.conv_limit_kernels(images, [act if one == "?" else one for one in layers], center=center)
        for act in (mine, "erf")
    )
    for one, other in zip(found, known, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_jump_makes_the_tangent_kernel_infinite():
    images = some_images(4, 5, 5)
    # Apart but for one patch that both have, at the same position.
    images[1, :3, :3] = images[0, :3, :3]
    valid = nh.Conv(3, padding="valid")
    K, N = nh.conv_limit_kernels(images, [valid, STEPS, FLAT])
    infinite = np.eye(4, dtype=bool)
    infinite[0, 1] = infinite[1, 0] = True
    assert np.isfinite(K).all() and np.array_equal(np.isinf(N), infinite)


@pytest.mark.parametrize("readout", [FLAT, GAP])
def test_normalised_images_have_no_contrast(readout):
    """Each position of each image at a contrast of its own: the kernels are those of equal ones."""
    images, layers = some_images(5, 6, 6, 3), [nh.Conv(1), nh.theory.Normalize(), "gelu"]
    layers += [SAME, nh.theory.Normalize(), STEPS, readout]
    K, N = nh.conv_limit_kernels(images, layers, center=True)
    faint = images * np.exp(some_images(5, 6, 6, 1, seed=1))
    others = nh.conv_limit_kernels(faint, layers, center=True)
    np.testing.assert_allclose(others[0], K, atol=1e-12)
    off = ~np.eye(5, dtype=bool)
    assert nh.theory.conv_scales(faint, layers, center=True) == pytest.approx((1, 1), abs=1e-12)
    if readout is FLAT:
        np.testing.assert_allclose(others[1][off], N[off], rtol=1e-9)


def test_normalised_features_of_one_position():
    """With one position and one layer K is a dual of cosines: arc-cosine's, of Cho and Saul."""
    X = some_images(6, 1, 1, 5)
    K, N = nh.conv_limit_kernels(X, [nh.Conv(1), nh.theory.Normalize(), "relu", FLAT])
    rows = X[:, 0, 0] / np.linalg.norm(X[:, 0, 0], axis=1, keepdims=True)
    t = np.arccos(np.clip(rows @ rows.T, -1, 1))
    expected = (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)
    np.testing.assert_allclose(K, expected, atol=1e-9)
    tangent = expected + (rows @ rows.T) * (np.pi - t) / (2 * np.pi)
    np.testing.assert_allclose(N, tangent, atol=1e-7)


def test_a_black_image_says_what_zero_says():
    images = some_images(2, 5, 5)
    images[0] = 0
    K, N = nh.conv_limit_kernels(images, [SAME, "relu", SAME, "relu", FLAT])
    assert np.abs(K[0]).max() < 1e-70 and np.abs(N[0]).max() < 1e-70
    K, N = nh.conv_limit_kernels(images, [SAME, nh.theory.Normalize(), "relu", FLAT])
    assert np.abs(K[0]).max() < 1e-70 and np.abs(N[0]).max() < 1e-70 and K[1, 1] > 0.1
    net = nh.theory.RandomCNN((5, 5, 2), [SAME, nh.theory.Normalize(), "relu", FLAT], [4])
    assert not net.features(images)[0].any() and net.features(images)[1].isfinite().all()
    K, _ = nh.conv_limit_kernels(images, [SAME, "cos", GAP])
    assert K[0, 0] == pytest.approx(1, abs=1e-12)


SIZES = st.integers(1, 3)
CONV = st.builds(nh.Conv, SIZES, st.just(1), st.sampled_from(["same", "valid"]))
ACT = st.sampled_from(["relu", "tanh", "erf", "abs", "sin", STEPS])
BLOCK = (
    st.tuples(CONV, st.just(nh.theory.Normalize()), ACT)
    | st.tuples(CONV, ACT)
    | st.tuples(CONV, ACT, st.just(nh.AveragePool(1)))
    | st.tuples(CONV)
)


@settings(max_examples=25, deadline=None)
@given(st.lists(BLOCK, min_size=1, max_size=3), st.sampled_from([FLAT, GAP]), st.booleans())
def test_any_network(blocks, readout, center):
    """Symmetric, positive semi-definite, a sum over tiles; N − K is a kernel, too."""
    layers = [one for block in blocks for one in block] + [readout]
    images = some_images(4, 7, 7, 1)
    if center and not any(isinstance(one, str) or one is STEPS for one in layers):
        center = False
    K, N = nh.conv_limit_kernels(images, layers, center=center)
    assert np.array_equal(K, K.T) and np.array_equal(N, N.T)
    assert np.linalg.eigvalsh(K)[0] > -1e-10 * K.trace()
    if STEPS not in layers:
        assert np.linalg.eigvalsh(N - K)[0] > -1e-9 * N.trace()
    part, _ = nh.conv_limit_kernels(images[:1], layers, Z=images, ntk=False)
    if not center:
        np.testing.assert_allclose(part[0], K[0], atol=1e-9 * K.max())


# --- networks


@pytest.mark.parametrize("weights", ["gaussian", nh.theory.Ternary(0.5), nh.theory.Pruned(0.3)])
@pytest.mark.parametrize("layers", [NETWORKS["relu3_strided_flatten"], VALID, NORMALISED])
def test_drawn_networks_tend_to_their_kernels(layers, weights):
    """With many channels to begin with, whatever the weights' law; as one over the root of them."""
    images = some_images(6, 8, 8, 60)
    kernels = nh.conv_limit_kernels(images, layers)
    convolutions = sum(isinstance(one, nh.Conv) for one in layers)

    def errors(channels):
        nets = [
            nh.theory.RandomCNN((8, 8, 60), layers, [channels] * convolutions, weights, seed=seed)
            for seed in range(12)
        ]
        return [
            np.mean([np.linalg.norm(of(net, images) - kernel) for net in nets])
            / np.linalg.norm(kernel)
            for of, kernel in zip((nh.empirical_ck, nh.empirical_ntk), kernels, strict=True)
        ]

    for few, many in zip(errors(30), errors(480), strict=True):
        assert many < 0.12 and 2 < few / many < 7


def test_few_inputs_are_not_gaussian():
    """27 numbers into the first layer, nearly all of no weight: another kernel, at any width."""
    images = some_images(6, 8, 8, 3)
    layers = [SAME, "relu", SAME, "relu", GAP]
    scales = nh.theory.conv_scales(images, layers, center=True)
    K, _ = nh.conv_limit_kernels(images, layers, center=True)

    def error(weights):
        nets = [
            nh.theory.RandomCNN((8, 8, 3), layers, [300] * 2, weights, seed=seed, scales=scales)
            for seed in range(8)
        ]
        return np.linalg.norm(nh.empirical_ck(nets, images) - K) / np.linalg.norm(K)

    assert error(nh.theory.Ternary(0.9)) > 3 * error("gaussian")


@pytest.mark.parametrize("weights", ["gaussian", nh.theory.Pruned(0.5)])
@pytest.mark.parametrize(
    "layers", [NETWORKS["relu3_strided_flatten"], NETWORKS["relu2_avgpool_gap"], VALID, NORMALISED]
)
def test_gradients_by_brute_force(layers, weights):
    images = some_images(3, 8, 8, 2)
    convolutions = sum(isinstance(one, nh.Conv) for one in layers)
    net = nh.theory.RandomCNN(
        (8, 8, 2), layers, [4] * convolutions, weights, seed=1, dtype=torch.float64
    )

    def output(filters, readout, images):
        moved = nh.theory.RandomCNN(
            (8, 8, 2), layers, [4] * convolutions, weights, seed=1, dtype=torch.float64
        )
        moved.__dict__.update(filters=filters, readout=readout)
        return moved._forward(moved._inputs(images), []) @ readout

    jacobians = torch.autograd.functional.jacobian(
        lambda *all_: output(all_[:-1], all_[-1], images), (*net.filters, net.readout)
    )
    kept = [(one != 0).double() * net.law.gain for one in (*net.filters, net.readout)]
    flat = [(J * m).flatten(1) for J, m in zip(jacobians, kept, strict=True)]
    expected = sum(J @ J.T for J in flat).numpy()
    np.testing.assert_allclose(nh.empirical_ntk(net, images), expected, rtol=1e-10)


def test_what_the_seed_fixes():
    layers = NETWORKS["relu2_same_flatten"]
    one, same, other = (
        nh.theory.RandomCNN((8, 8, 3), layers, [5, 6], seed=seed) for seed in (3, 3, 4)
    )
    images = some_images(7, 8, 8, 3)
    F = one.features(images)
    assert F.shape == (7, 6 * 64) and torch.equal(F, same.features(images, batch_size=7))
    assert torch.allclose(F, one.features(images, batch_size=2), atol=1e-6)
    assert not torch.allclose(F, other.features(images))


# --- refused


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers must be a sequence"),
        ("relu", "layers must be a sequence"),
        (["relu", FLAT], r"layers\[0\] must be nh.Conv"),
        ([SAME, 3, FLAT], r"layers\[1\] must be a layer or an activation, got 3"),
        ([SAME, "relu"], r"layers\[1\] must be a readout, nh.Flatten\(\) or nh.GlobalAveragePool"),
        ([SAME, "relu", "relu", FLAT], r"layers\[2\], activation 'relu', must come right after"),
        (
            [SAME, nh.AveragePool(2), "relu", FLAT],
            r"layers\[2\], activation 'relu', must come right",
        ),
        (
            [SAME, "relu", nh.theory.Normalize(), FLAT],
            r"layers\[2\], Normalize\(\), must come right after",
        ),
        ([SAME, FLAT, SAME, FLAT], r"layers\[1\], Flatten\(\), is a readout and must be the last"),
        (
            [nh.Conv(9), "relu", FLAT],
            r"layers\[0\], Conv\(size=9.* has filters larger than its input",
        ),
        (
            [SAME, "relu", nh.AveragePool(5), FLAT],
            r"layers\[2\], AveragePool\(size=5\), does not div",
        ),
        ([nh.Conv(3, stride=3), FLAT], r"layers\[0\], Conv.* has a stride that does not divide"),
        ([nh.Conv(3, 2, "valid"), FLAT], r"layers\[0\], Conv.* has a stride that does not divide"),
    ],
)
def test_layers_that_make_no_network(layers, message):
    with pytest.raises(ValueError, match=message):
        nh.conv_limit_kernels(some_images(2, 8, 8), layers)
    with pytest.raises(ValueError, match=message):
        nh.theory.RandomCNN((8, 8, 2), layers, [3])


def test_what_else_is_refused():
    images, layers = some_images(3), [SAME, "relu", GAP]
    for argument, bad, message in [
        ("memory", 1000, r"memory must be at least [\d,]+ bytes for a pair of these images"),
        ("Z", some_images(2, 5, 6), r"Z must hold images of shape \(6, 6, 2\), got \(5, 6, 2\)"),
        ("out", np.empty((3, 3)), "out must be a pair of arrays with ntk=True"),
    ]:
        with pytest.raises(ValueError, match=message):
            nh.conv_limit_kernels(images, layers, **{argument: bad})
    with pytest.raises(ValueError, match="activation 'quadratic' grows too large on images"):
        nh.conv_limit_kernels(images * 1e50, [SAME, "quadratic"] * 4 + [FLAT])
    with pytest.raises(ValueError, match="channels must have 1 entries, as many as convolutions"):
        nh.theory.RandomCNN((6, 6, 2), layers, [3, 3])
    with pytest.raises(ValueError, match="scales must have 1 entries, as many as activations"):
        nh.theory.RandomCNN((6, 6, 2), layers, [3], scales=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"shape must be \(h, w, c\), got \(6, 6\)"):
        nh.theory.RandomCNN((6, 6), layers, [3])
    with pytest.raises(ValueError, match="dtype must be a floating-point torch.dtype"):
        nh.theory.RandomCNN((6, 6, 2), layers, [3], dtype=torch.int32)
    net = nh.theory.RandomCNN((6, 6, 2), [SAME, STEPS, GAP], [3])
    with pytest.raises(ValueError, match="net must not have a jump, as"):
        nh.empirical_ntk(net, images)
