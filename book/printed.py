"""The built book as one PDF, by the browser that the tests use: `make print`.

    python book/printed.py [HTML [PDF]]

Pages come in the order of the table of contents, with a bookmark each. The file is written whole or
not at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

HERE = Path(__file__).parent
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
MARGIN = dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
# Formulas are typeset, and pictures that would load when scrolled to are there.
READY = """async () => {
    await MathJax.startup.promise;
    const images = [...document.querySelectorAll('article img')];
    images.forEach(image => { image.loading = 'eager'; });
    await Promise.all(images.map(image => image.decode().catch(() => {})));
}"""


def chromium(playwright: Playwright) -> str | None:
    """Where chromium is, or None."""
    own = playwright.chromium.executable_path
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or own
    return found if Path(found).is_file() else None


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser; AssertionError if there is none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = chromium(playwright)
        assert found, (
            "this needs chromium: apt-get install chromium, "
            "python -m playwright install chromium, or name it with CHROMIUM="
        )
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


def files(entry: dict[str, Any]) -> list[str]:
    """The files that an entry of the table of contents names, itself and what is below it."""
    below = [inner for key in ("parts", "chapters", "sections") for inner in entry.get(key, ())]
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [name for inner in below for name in files(inner)]


def write(browser: Browser, html: Path, pdf: Path, pages: list[str]) -> int:
    """One PDF of pages of a built book; how many sheets it has."""
    from pypdf import PdfWriter
    from tqdm import tqdm

    book = PdfWriter()
    tab = browser.new_page(color_scheme="light")
    for name in tqdm(pages, desc="pages"):
        tab.goto((html / f"{name}.html").absolute().as_uri())
        tab.evaluate(READY)
        printed = io.BytesIO(tab.pdf(format="A4", margin=MARGIN, scale=0.8))
        book.append(printed, outline_item=tab.locator("h1").first.inner_text().rstrip("#"))
    tab.close()
    book.compress_identical_objects()
    temporary = pdf.with_suffix(".tmp")
    book.write(temporary)
    temporary.replace(pdf)
    return len(book.pages)


def main(arguments: list[str]) -> int:
    html = Path(arguments[0]) if arguments else HERE / "_build/html"
    pdf = Path(arguments[1]) if arguments[1:] else html.parent / "book.pdf"
    toc = yaml.safe_load((HERE / "_toc.yml").read_text(encoding="utf-8"))
    pages = [name for name in files(toc) if (html / f"{name}.html").is_file()]
    if not pages:
        print(f"error: no page of the book is in {html}: run `make book` first", file=sys.stderr)
        return 1
    try:
        with launched() as browser:
            sheets = write(browser, html, pdf, pages)
    except AssertionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"The book, {sheets} sheets: {pdf}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
