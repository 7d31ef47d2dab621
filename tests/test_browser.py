"""The book in a browser, without a network: what a reader sees on every page.

`make test-browser` runs these, on the smoke book or on the one that BOOK names (a folder of HTML).
"""

from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import urlopen

import nbformat
import pytest
import yaml
from books import ROOT
from pages import NARROW, WIDE, Reader
from printed import files, write
from pypdf import PdfReader

pytestmark = pytest.mark.browser


FILES = files(yaml.safe_load((ROOT / "book/_toc.yml").read_text()))
NOTEBOOKS = [name for name in FILES if name.startswith("notebooks/")]
PAGES = [f"{name}.html" for name in [*FILES, "genindex", "search"]]


UNTYPESET = """() => {
    const bare = [...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'));
    const wrong = [...document.querySelectorAll('mjx-merror, [data-mjx-error]')];
    const article = document.querySelector('article, main').cloneNode(true);
    article.querySelectorAll('pre, code, script, mjx-container').forEach(e => e.remove());
    const left = article.textContent.match(/.{0,30}(\\$\\$|\\\\[([]).{0,30}/g) || [];
    return [...bare, ...wrong].map(e => e.textContent.slice(0, 80)).concat(left);
}"""

UNSEEN = """async () => {
    const images = [...document.querySelectorAll('article img')];
    images.forEach(image => { image.loading = 'eager'; });
    await Promise.all(images.map(image => image.decode().catch(() => {})));
    return images.filter(i => !(i.naturalWidth > 0 && i.getBoundingClientRect().width > 40))
                 .map(i => i.src);
}"""

# What reaches over the edge of the window, and is not in a box of its own that scrolls.
CUT_OFF = """() => {
    const edge = document.documentElement.clientWidth;
    const scrolls = e => {
        for (; e && e !== document.body; e = e.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) return true;
        return false;
    };
    const out = [...document.querySelectorAll('.bd-article *, .bd-footer *, footer *')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width > 1 && box.height > 1 && box.right > edge + 1
            && !e.closest('mjx-assistive-mml') && e.checkVisibility() && !scrolls(e);
    });
    const wide = document.scrollingElement.scrollWidth > edge ? ['the page itself'] : [];
    return wide.concat(out.slice(0, 8).map(e => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 60)}`));
}"""


# Displayed formulas that scroll: on a phone they may.
WIDE_FORMULAS = """() => [...document.querySelectorAll('div.math mjx-container')]
    .filter(formula => formula.scrollWidth > formula.clientWidth + 1)
    .map(formula => formula.textContent.slice(0, 60))"""

# Marks that a line begins with, though the formula before them is no wider than a line.
STRAY = """() => [...document.querySelectorAll('article span.math')]
    .filter(formula => {
        const next = formula.nextSibling;
        if (next?.nodeType !== 3 || !/^[.,;:?!)]/.test(next.data)) return false;
        if (formula.querySelector('.wide')) return false;
        const mark = document.createRange();
        mark.setStart(next, 0);
        mark.setEnd(next, 1);
        const at = mark.getBoundingClientRect();
        return at.width > 0 && at.left < formula.lastElementChild.getBoundingClientRect().right - 1;
    })
    .map(formula => formula.parentElement.textContent.slice(0, 80))"""

# Sphinx names a picture that has no text by its file.
WITHOUT_TEXT = """() => [...document.querySelectorAll('article img')]
    .filter(image => image.alt.trim().split(/\\s+/).length < 3 || image.alt.includes('_images/'))
    .map(image => image.src)"""


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_whole_at_both_widths_without_a_network(reader, page):
    for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
        visit = reader(page, size, scheme)
        assert visit.page.evaluate(UNTYPESET) == []
        assert visit.page.evaluate(UNSEEN) == []
        assert visit.page.evaluate(CUT_OFF) == [], size
        assert visit.page.evaluate(STRAY) == [], size
        assert visit.page.evaluate(WITHOUT_TEXT) == []
        assert size == NARROW or visit.page.evaluate(WIDE_FORMULAS) == []
        assert visit.troubles == []
        assert visit.bytes < 5e6


SURVEY = """() => ({
    anchors: [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name),
    links: [...document.querySelectorAll('a[href]')].map(link => link.href),
    download: document.querySelector('a.btn-download-source-button')?.href,
    footer: [...document.querySelectorAll('.extra_footer span')]
        .filter(e => e.textContent.trim()).map(e => e.className),
})"""


@pytest.fixture(scope="session")
def survey(html, browser, address):
    """Anchors, links and footer of each page; the index only leads on to the first."""
    visit, found = Reader(browser, address, WIDE), {"index.html": {"anchors": []}}
    for page in PAGES:
        visit.page.goto(address + page, wait_until="domcontentloaded")
        found[page] = visit.page.evaluate(SURVEY)
    visit.context.close()
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_book_lead_somewhere(survey, address, html, page):
    inside = {link for link in survey[page]["links"] if link.startswith(address)}
    assert len(inside) > 5
    for link in inside:
        target, fragment = urldefrag(link)
        path = unquote(urlsplit(target).path).lstrip("/") or "index.html"
        assert (html / path).is_file(), link
        assert not fragment or unquote(fragment) in survey[path]["anchors"], link


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_how_it_was_made(survey, page):
    entries = ("commit", "profile", "device", "date", "versions")
    assert survey[page]["footer"] == [f"ntklc-{entry}" for entry in entries]


@pytest.mark.parametrize("words", ["theorem", "eigenvalues", "lossless compression"])
def test_search_finds(reader, words):
    visit = reader("search.html")
    visit.page.goto(f"{visit.address}search.html?q={words.replace(' ', '+')}")
    visit.page.wait_for_selector("#search-results li a")
    visit.page.wait_for_function("document.querySelector('#search-results p')?.textContent")
    visit.page.wait_for_function(
        "!document.querySelector('#search-results').textContent.match(/\\\\\\(.*?\\\\\\)/)"
    )
    found = visit.page.locator("#search-results li a").first
    found.click()
    visit.page.wait_for_load_state()
    text = visit.page.locator("article").inner_text().lower()
    assert all(word[:6] in text for word in words.split())  # search looks for the words' stems
    assert visit.troubles == []


def test_the_search_field_leads_to_the_results(reader):
    visit = reader(f"{NOTEBOOKS[0]}.html")
    visit.page.locator("button.search-button:visible, .search-button-field:visible").first.click()
    field = visit.page.locator("input[type=search]:visible").first
    field.fill("kernel")
    field.press("Enter")
    visit.page.wait_for_url("**/search.html?q=kernel*")
    visit.page.wait_for_selector("#search-results li a")
    assert visit.troubles == []


def test_light_and_dark(reader):
    visit = reader(PAGES[0])
    background = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):  # light, dark, as the system says
        seen.add(visit.page.evaluate(background))
        visit.page.locator("button.theme-switch-button:visible").first.click()
    assert len(seen) == 2
    assert visit.troubles == []


def test_the_menu_opens_on_a_phone(reader):
    visit = reader(f"{NOTEBOOKS[0]}.html", NARROW)
    link = visit.page.locator(".bd-sidebar-primary a, dialog a").filter(has_text="universality")
    assert not link.first.is_visible()
    visit.page.locator("button.primary-toggle:visible").first.click()
    link.locator("visible=true").first.click()
    visit.page.wait_for_url("**universality*")
    assert visit.troubles == []


def test_code_can_be_copied(reader):
    visit = reader(f"{NOTEBOOKS[0]}.html")
    blocks = visit.page.locator("div.cell_input div.highlight:visible")
    assert blocks.count() > 0
    assert blocks.locator("button.copybtn").count() == blocks.count()
    blocks.first.hover()
    blocks.first.locator("button.copybtn").click()
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == blocks.first.locator("pre").inner_text().strip() != ""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_can_be_downloaded_as_it_ran(survey, name):
    with urlopen(survey[f"{name}.html"]["download"]) as response:
        notebook = nbformat.reads(response.read().decode(), as_version=4)
    nbformat.validate(notebook)
    assert any(cell.get("outputs") for cell in notebook.cells)


def test_a_page_that_calls_another_host_would_be_noticed(browser, address, tmp_path):
    visit = Reader(browser, address, WIDE)
    visit.page.goto(address + Path(PAGES[0]).as_posix())
    visit.page.set_content(
        "<img src='https://example.org/x.png'><script>console.error('no')</script>"
    )
    visit.page.wait_for_timeout(200)
    assert any("asks another host: https://example.org" in trouble for trouble in visit.troubles)
    assert "console: no" in visit.troubles
    visit.context.close()


def test_pages_are_printed_one_after_another_with_a_bookmark_each(browser, html, tmp_path):
    pages = [FILES[0], NOTEBOOKS[0]]
    sheets = write(browser, html, tmp_path / "book.pdf", pages)
    assert [path.name for path in tmp_path.iterdir()] == ["book.pdf"]
    printed = PdfReader(tmp_path / "book.pdf")
    assert sheets == len(printed.pages) > 4
    assert len(printed.outline) == 2
    second = printed.get_destination_page_number(printed.outline[1])
    assert printed.outline[1].title in " ".join(printed.pages[second].extract_text().split())
