"""What moves and what unfolds on the pages: sliders and solutions, by hand, by key, by touch.

`make test-browser` runs these beside the tests of every page.
"""

import re

import pytest
from books import CHAPTERS
from pages import NARROW, WIDE, Reader

pytestmark = pytest.mark.browser

MOVED = """slider => [slider.querySelector('img').src.length, slider.querySelector('img').src.slice(-200),
                      slider.querySelector('output').textContent,
                      slider.querySelector('input').getAttribute('aria-valuetext')]"""


@pytest.fixture(scope="session")
def with_sliders(html):
    """How many sliders each chapter has, of those that have any."""
    counts = {
        f"notebooks/{stem}.html": (html / f"notebooks/{stem}.html")
        .read_text()
        .count('"ntklc-slider"')
        for stem in CHAPTERS
    }
    return {page: count for page, count in counts.items() if count}


def test_the_book_has_things_to_play_with(with_sliders):
    assert sum(with_sliders.values()) >= 5


def test_a_slider_moves_its_figure_by_key_and_by_mouse(with_sliders, reader):
    for page, count in with_sliders.items():
        visit = reader(page)
        sliders = visit.page.locator(".ntklc-slider")
        assert sliders.count() == count
        for k in range(count):
            slider = sliders.nth(k)
            slider.scroll_into_view_if_needed()
            others = [sliders.nth(j).evaluate(MOVED) for j in range(count) if j != k]
            control, seen = slider.locator("input"), [slider.evaluate(MOVED)]
            assert control.is_visible()
            control.focus()
            for key in ("ArrowRight", "Home", "End"):
                visit.page.keyboard.press(key)
                seen.append(slider.evaluate(MOVED))
            control.click(position={"x": control.bounding_box()["width"] / 3, "y": 5})
            seen.append(slider.evaluate(MOVED))
            assert len({tuple(one[:2]) for one in seen}) >= 4, page
            assert all(value == told for _, _, value, told in seen)
            # One slider leaves the others alone.
            assert others == [sliders.nth(j).evaluate(MOVED) for j in range(count) if j != k]
        assert visit.troubles == []


def test_a_slider_can_be_touched_on_a_phone(with_sliders, reader):
    visit = reader(next(iter(with_sliders)), NARROW, has_touch=True)
    slider = visit.page.locator(".ntklc-slider").first
    slider.scroll_into_view_if_needed()
    before, box = slider.evaluate(MOVED), slider.locator("input").bounding_box()
    visit.page.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    assert slider.evaluate(MOVED) != before
    assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]


def test_without_scripts_there_is_the_figure_and_no_dead_control(with_sliders, browser, address):
    visit = Reader(browser, address, WIDE, java_script_enabled=False)
    for page, count in with_sliders.items():
        visit.page.goto(address + page)
        assert visit.page.locator(".ntklc-slider img:visible").count() == count
        assert visit.page.locator(".ntklc-slider input:visible").count() == 0
    visit.context.close()


@pytest.mark.parametrize("stem", CHAPTERS)
def test_exercises_have_solutions_that_unfold(reader, stem):
    visit = reader(f"notebooks/{stem}.html")
    exercises, solutions = (
        visit.page.locator(f"div.{kind}.admonition") for kind in ("exercise", "solution")
    )
    assert exercises.count() == solutions.count() >= 3
    titles = [
        exercises.nth(k).locator(".admonition-title").inner_text() for k in range(exercises.count())
    ]
    assert all(re.match(r"Exercise [\d.]+ \(.+\)", title) for title in titles), titles
    first = solutions.first
    body = first.locator("> section").first
    assert not body.is_visible()
    first.locator("> .admonition-title").click(position={"x": 5, "y": 5})
    assert body.is_visible()
    assert visit.troubles == []
