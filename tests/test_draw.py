"""The page where one draws a digit: drawn on with mouse, finger and keys, and given files."""

import json
import os
import re
import zlib
from base64 import b64decode

import numpy as np
import pytest
from books import ROOT
from damages import described, parts_of
from pages import NARROW, WIDE
from readers import NETWORKS, text_of

import ntklc_helpers as nh
from ntklc_helpers.compression.loading import of_bytes

FOLDER = ROOT / "book/_static/draw"
SCRIPT = (FOLDER / "data.js").read_text(encoding="utf-8")
DATA = json.loads(SCRIPT.removeprefix("const ntklcData = ").removesuffix(";\n"))
SIZES = pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])


def examples():
    """The test images on the page, (class, pixels)."""
    packed = np.frombuffer(zlib.decompress(b64decode(DATA["examples"]["images"]), -15), np.uint8)
    greys = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1, 28, 28) / 15
    return [(k // DATA["examples"]["each"], image) for k, image in enumerate(greys)]


def arc(centre, radii, start, end):
    """Points of an ellipse, angles in parts of a turn, clockwise from the right."""
    turns = 2 * np.pi * np.linspace(start, end, 13)
    return [(centre[0] + radii[0] * np.cos(t), centre[1] + radii[1] * np.sin(t)) for t in turns]


# Digits as one writes them, on a board of 280 by 280: lines without lifting the pen.
WRITTEN = {
    0: [arc((140, 140), (55, 85), -0.25, 0.75)],
    1: [[(150, 50), (130, 230)]],
    2: [[*arc((140, 105), (55, 50), 0.5, 1.05), (85, 225), (205, 225)]],
    3: [arc((130, 95), (50, 42), -0.4, 0.25), arc((130, 183), (58, 46), -0.25, 0.4)],
    4: [[(110, 55), (85, 150), (195, 150)], [(175, 60), (165, 235)]],
    5: [[(195, 60), (110, 60), (100, 125)], arc((130, 170), (58, 52), -0.3, 0.4)],
    6: [[(160, 50), (105, 130), *arc((140, 180), (45, 45), -0.5, 0.5)]],
    7: [[(80, 65), (200, 65), (130, 235)]],
    8: [arc((140, 95), (42, 42), 0.25, 1.25), arc((140, 185), (50, 48), -0.25, 0.75)],
    9: [[*arc((140, 100), (45, 42), 0.0, 1.0), (175, 235)]],
}


class Board:
    """The board of a page that was opened, and what stands beside it."""

    def __init__(self, visit):
        self.page = visit.page
        self.page.locator("#draw-twelve tr").first.wait_for()
        self.canvas = self.page.locator("#draw-board")
        self.canvas.scroll_into_view_if_needed()

    def at(self, place):
        box = self.canvas.bounding_box()
        scale = (box["width"] - 4) / 280
        return box["x"] + 2 + scale * place[0], box["y"] + 2 + scale * place[1]

    def draw(self, digit, follow=None):
        self.page.locator("#draw-clear").click()
        assert self.digit == "–"
        self.canvas.scroll_into_view_if_needed()
        for line in WRITTEN[digit]:
            (follow or self.mouse)([self.at(place) for place in line])

    def mouse(self, line):
        self.page.mouse.move(*line[0])
        self.page.mouse.down()
        for place in line[1:]:
            self.page.mouse.move(*place)
        self.page.mouse.up()

    @property
    def digit(self):
        return self.page.locator("#draw-digit").inner_text()

    def said(self, name):
        return self.page.locator(f"#draw-{name}").inner_text()

    def drop(self, name, content):
        given = self.page.evaluate_handle(
            """([name, text]) => {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                const given = new DataTransfer();
                given.items.add(new File([bytes], name));
                return given;
            }""",
            [name, text_of(content)],
        )
        self.page.locator("#draw").dispatch_event("drop", {"dataTransfer": given})


def finger(visit):
    """Draws lines by touch events."""
    session = visit.context.new_cdp_session(visit.page)

    def touch(kind, *places):
        points = [{"x": x, "y": y} for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def follow(line):
        touch("touchStart", line[0])
        for place in line[1:]:
            touch("touchMove", place)
        touch("touchEnd")

    return follow


@pytest.mark.browser
@SIZES
@pytest.mark.parametrize("way", ["mouse", "touch"])
def test_digits_that_are_drawn_are_recognised(reader, size, way):
    visit = reader("draw.html", size, has_touch=way == "touch")
    board = Board(visit)
    follow = finger(visit) if way == "touch" else None
    for digit in WRITTEN:
        board.draw(digit, follow)
        visit.page.get_by_text(f"The network answers {digit}.").wait_for(timeout=5000)
        assert board.digit == str(digit)
    assert visit.troubles == []


@pytest.mark.browser
def test_an_answer_takes_less_than_50_ms(reader):
    """The fastest of some, with scores, neighbours and the twelve: others may work here as well."""
    visit = reader("draw.html")
    board = Board(visit)
    visit.page.locator("#draw-nearest li").first.wait_for()
    times = []
    for _ in range(20):
        visit.page.locator("#draw-example").click()
        times.append(float(visit.page.locator("#draw").get_attribute("data-ms")))
    assert min(times) < 50
    board.draw(7)
    assert float(visit.page.locator("#draw").get_attribute("data-ms")) > 0


@pytest.mark.browser
def test_test_images_have_the_class_and_scores_that_python_says(reader):
    visit = reader("draw.html")
    board = Board(visit)
    network = nh.load(NETWORKS / "mnist_large.safetensors")
    mean, spread = np.float32(DATA["standard"])
    given = examples()
    for turn in range(1, len(given)):
        visit.page.locator("#draw-example").click()
        pixels = np.float32(given[7 * turn % len(given)][1][None, None])
        scores = network.outputs((pixels - mean) / spread)[0]
        assert board.digit == str(scores.argmax())
        shown = visit.page.locator("#draw-scores td:last-child").all_inner_texts()
        assert [float(text.replace("−", "-")) for text in shown] == [
            pytest.approx(score, abs=0.00501) for score in scores
        ]


@pytest.mark.browser
def test_the_keyboard_draws_and_clears(reader):
    """A one, by arrow keys alone, from the start of the page on."""
    visit = reader("draw.html")
    board, keys = Board(visit), visit.page.keyboard
    board.canvas.focus()
    keys.press("Delete")
    assert board.digit == "–" and board.said("said") == "The board is empty."
    for _ in range(9):
        keys.press("ArrowUp")
    keys.press("Space")
    assert board.said("pen-said") == "The pen is down."
    for _ in range(18):
        keys.press("ArrowDown")
    keys.press("Space")
    assert board.said("pen-said") == "The pen is up."
    assert board.digit == "1" and board.said("said") == "The network answers 1."
    keys.press("Tab")
    assert visit.page.evaluate("document.activeElement.id") == "draw-clear"
    keys.press("Enter")
    assert board.digit == "–"
    keys.press("Tab")
    keys.press("Enter")
    assert board.digit != "–"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert visit.page.evaluate(outline) != "none"


@pytest.mark.browser
def test_everything_has_a_name(reader):
    visit = reader("draw.html")
    visit.page.locator("#draw-nearest li").first.wait_for()
    nameless = """() => [...document.querySelectorAll('#draw canvas, #draw input, #draw button, #draw select')]
        .filter((e) => !(e.ariaLabel || e.textContent || e.labels?.length)).map((e) => e.outerHTML)"""
    assert visit.page.evaluate(nameless) == []
    items = visit.page.locator("#draw-nearest canvas").all()
    assert len(items) == 8
    for item in items:
        words = item.get_attribute("aria-label")
        assert re.fullmatch(r"A training image of a \d; the kernel is 0\.\d\d|.*1\.00", words)


@pytest.mark.browser
@SIZES
def test_a_file_that_is_dropped_answers(reader, size, tmp_path):
    visit = reader("draw.html", size)
    board = Board(visit)
    T = nh.compression.TernaryMatrix.from_dense(nh.theory.draw_ternary((30, 784), 0.5, seed=1))
    layer = nh.compression.TernaryLayer(T, 0.1, nh.Quantized([0.0], [0.0, 1.0]))
    readout = nh.compression.Readout.from_weights(np.ones((30, 2)), [0.0, 1.0], ["cat", "dog"])
    board.drop("pets.safetensors", nh.CompressedNetwork([layer], readout).to_bytes())
    visit.page.get_by_text("pets.safetensors, ").wait_for()
    assert board.digit == "dog" and board.said("error") == ""
    assert visit.page.locator("#draw-input").input_value() == "normal"
    # The same by the field for files, and back to the network that was there first.
    path = NETWORKS / "mnist_small.safetensors"
    visit.page.locator("#draw-file").set_input_files(path)
    visit.page.get_by_text("mnist_small.safetensors, 1,497 bytes").wait_for()
    assert visit.page.locator("#draw-input").input_value() == "standard"
    board.draw(7)
    assert board.digit == "7"
    visit.page.locator("input[value=trained]").check()
    assert board.digit == "7"
    assert visit.troubles == []


def forged():
    told, rest = parts_of((NETWORKS / "mnist_small.safetensors").read_bytes())
    return described(told.replace(b'"shape":[1,28,28]', b'"shape":[1,30,28]'), rest)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut", lambda c: c[:-1], "damaged: its content does not have the digest in its header"),
        ("flipped", lambda c: c[:900] + bytes([c[900] ^ 1]) + c[901:], "damaged: its content"),
        ("text.md", lambda c: b"# No network", "not a compressed network"),
        ("empty", lambda c: b"", "not a compressed network"),
        ("larger", lambda c: forged(), "it takes 1 × 30 × 28 numbers, and a drawing has 28 × 28"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(reader, name, content, reason):
    visit = reader("draw.html", NARROW)
    board = Board(visit)
    before = board.digit
    board.drop(name, content((NETWORKS / "mnist_small.safetensors").read_bytes()))
    visit.page.get_by_text(f"{name} was not taken: {reason}").wait_for()
    assert board.digit == before and visit.page.locator("input[value=trained]").is_checked()
    assert visit.troubles == []


@pytest.mark.browser
def test_the_page_is_light_and_opens_from_a_folder(reader, html, browser):
    """Beside the networks under 200 kB; and no server is needed."""
    visit = reader("draw.html")
    loaded = visit.page.evaluate(
        "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => n.includes('/draw/'))"
    )
    assert sorted(name.split("/")[-1].split("?")[0] for name in loaded) == [
        *("data.js", "draw.js", "ntklc.js")
    ]
    networks = [DATA["trained"], DATA["random"], *DATA["grid"]]
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size - sum(len(one["file"]) for one in networks) < 200_000
    other = reader("file_format.html")
    assert not other.page.evaluate("[...document.scripts].some((s) => s.src.includes('/draw/'))")
    page = browser.new_page()
    page.goto((html / "draw.html").as_uri())
    page.locator("#draw-nearest li").first.wait_for()
    assert page.locator("#draw-digit").inner_text().isdigit()
    page.close()


def test_the_sentences_say_what_the_files_are():
    trained, random, grid = DATA["trained"], DATA["random"], DATA["grid"]
    path = NETWORKS / "mnist_large.safetensors"
    assert (
        b64decode(trained["file"]) == path.read_bytes() and trained["size"] == path.stat().st_size
    )
    text = (ROOT / "book/draw.md").read_text()
    assert "a quarter of the bytes and make a sixth of the errors" in " ".join(text.split())
    assert round(random["size"] / trained["size"]) == 4
    assert round((1 - random["accuracy"]) / (1 - trained["accuracy"])) == 6
    assert len(grid) == 12 and {one["width"] for one in grid} == {400} and random["width"] == 1000
    rows = [[one["accuracy"] for one in grid if one["levels"] == m] for m in (2, 4, 16)]
    # Of a row nearly the same, down a column more with every number of levels.
    assert all(max(row) - min(row) < 0.01 for row in rows)
    assert max(rows[0]) < min(rows[1]) and max(rows[1]) < min(rows[2])


@pytest.mark.skipif(not os.environ.get("NTKLC_DATA"), reason="NTKLC_DATA is not set: no real MNIST")
def test_the_shares_are_those_of_the_networks():
    """Of every network on the page, on all test images; and they are drawn from the seed given."""
    train, test = nh.load_mnist("train"), nh.load_mnist("test")
    X = nh.normalize(test.X, train.X)
    for one in [DATA["random"], *DATA["grid"]]:
        network = of_bytes(b64decode(one["file"]))
        assert network.score(X, test.labels) == one["accuracy"]
        assert network.widths == (one["width"],) and len(b64decode(one["file"])) == one["size"]
        assert abs(network.layers[0].weights.sparsity - one["sparsity"]) < 0.002
        assert len(set(network.layers[0].activation.levels)) == one["levels"]
    mean = np.frombuffer(zlib.decompress(b64decode(DATA["mean"]), -15), "<f4")
    np.testing.assert_allclose(mean, train.X.mean(axis=0), rtol=1e-6, atol=1e-9)
    raw = (test.X[:100] - mean) / DATA["scale"]
    np.testing.assert_allclose(raw, X[:100], atol=1e-6)
