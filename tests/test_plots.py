"""Figures: that what is drawn is what was passed."""

import base64
import struct

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import ntklc_helpers as nh
from ntklc_helpers import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_spectrum_draws_the_bulk_as_a_density_and_the_rest_as_markers():
    rng = np.random.default_rng(0)
    bulk, top = rng.uniform(0, 1, 500), np.array([3.0, 5.0])
    values = np.concatenate([bulk, top])
    _, axes = plots.grid(1, 1)
    plots.spectrum(axes[0, 0], values, {"exact": values, "equivalent": values}, isolated=2)
    stairs = axes[0, 0].patches
    assert [s.get_label() for s in stairs] == ["simulated", "exact", "equivalent"]
    for s in stairs:
        density, edges, _ = s.get_data()
        assert density @ np.diff(edges) == pytest.approx(500 / 502)
    for line in axes[0, 0].lines:
        np.testing.assert_array_equal(np.sort(line.get_xdata()), top)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_key_to_a_spectrum_pairs_each_look_with_its_marker(simulated):
    values = np.arange(9.0)
    fig, axes = plots.grid(1, 1)
    ax, lines = axes[0, 0], {"exact": values, "equivalent": values}
    plots.spectrum(ax, values if simulated else None, lines, isolated=1)
    plots.spectrum_key(fig, ax, ncols=3)
    names = ["simulated"] * simulated + ["exact", "equivalent"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == names
    shown = [line.get_marker() for line in fig.legends[0].findobj(plt.Line2D)]
    assert [m for m in shown if m not in ("None", "")] == list("ovD")[: len(names)]


def test_spectrum_on_log_axes_leaves_out_what_is_not_positive():
    values = np.concatenate([[-1.0, 0.0], np.geomspace(1e-3, 1, 98)])
    _, axes = plots.grid(1, 1)
    plots.spectrum(axes[0, 0], None, {"equivalent": values}, log=True)
    density, edges, _ = axes[0, 0].patches[0].get_data()
    assert density @ np.diff(np.log10(edges)) == pytest.approx(0.98)
    assert axes[0, 0].get_xscale() == "log"


def test_eigenvector_keeps_the_colour_of_a_class():
    labels = np.repeat([0, 1], 10)
    _, axes = plots.grid(1, 1)
    plots.eigenvector(axes[0, 0], labels * 1.0, labels * 1.0, labels)
    dots = axes[0, 0].lines[:2]  # then the theory's line
    assert [d.get_color() for d in dots] == list(plots.CLASS_COLOURS[:2])
    assert dots[1].get_ydata() == pytest.approx(np.ones(10))


@pytest.mark.parametrize(("last", "digits"), [(0.3, 3), (0.5, 2)])
def test_falling_error_writes_the_slope(last, digits):
    x = [1.0, 2.0, 4.0]
    errors = np.array([[0.9, 1.1], [0.4, 0.6], [0.2, last]])  # 0.3 lies on a power law
    _, axes = plots.grid(1, 1)
    fit = nh.power_law(x, errors.mean(axis=1))
    plots.falling_error(axes[0, 0], x, errors, fit, label="CK")
    labels = axes[0, 0].get_legend_handles_labels()[1]
    assert labels == [rf"CK: slope ${fit.slope:.{digits}f} \pm {fit.slope_error:.{digits}f}$"]


def a_line(slope):
    fig, axes = plots.grid(1, 1, height=2 + (slope == 9))
    axes[0, 0].plot([0, slope], label="x" * slope * 20)
    axes[0, 0].legend()
    return fig


def png_size(picture):
    return struct.unpack(">II", base64.b64decode(picture)[16:24])


def test_all_frames_of_a_slider_have_one_size_whatever_is_drawn():
    slider = plots.slider(a_line, {"one": 1, "two <3": 2, "five": 5}, label="slope & co", alt="A")
    sizes = {png_size(picture) for _, picture in slider.frames}
    assert len(sizes) == 1 and len({picture for _, picture in slider.frames}) == 3
    assert not plt.get_fignums()
    bundle = slider._repr_mimebundle_()
    assert bundle["image/png"] == slider.frames[1][1]
    assert "two &lt;3" in bundle["text/html"] and "slope &amp; co" in bundle["text/html"]


@pytest.mark.parametrize(
    ("values", "start", "message"),
    [
        ({"1": 1}, None, "values must be at least two, got 1"),
        ({"1": 1, "2": 2}, "3", "start must be among 1, 2, got '3'"),
        ({"1": 1, "9": 9}, None, "draw must give figures of one size"),
    ],
)
def test_what_a_slider_cannot_show_is_refused(values, start, message):
    with pytest.raises(ValueError, match=message):
        plots.slider(a_line, values, label="slope", alt="A line.", start=start)
