"""Property-based tests draw the same examples on every CI run, and new ones at a desk."""

import os
import shutil
import time
from pathlib import Path

import books
import pages
import pytest
import small_book
from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Builds that tests compare must not differ when a day ends between them.
os.environ.setdefault("SOURCE_DATE_EPOCH", str(int(time.time())))


@pytest.fixture(scope="session")
def smoke_book():
    return books.smoke_book()


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The small book, built once."""
    folder = tmp_path_factory.mktemp("small") / "with a space"
    small_book.build(folder)
    return folder


@pytest.fixture
def small(built, tmp_path):
    """A copy of the built small book, with its times."""
    return Path(shutil.copytree(built, tmp_path / "a book", copy_function=shutil.copy2))


@pytest.fixture(scope="session")
def browser():
    from printed import launched

    with launched() as running:
        yield running


@pytest.fixture(scope="session")
def javascript(request):
    import readers

    try:
        browser = request.getfixturevalue("browser")
    except AssertionError as error:
        pytest.skip(str(error))
    return readers.JavaScript(browser)


@pytest.fixture(scope="session")
def html(request):
    named = os.environ.get("BOOK")
    if named:
        assert (books.ROOT / named / "index.html").is_file(), f"BOOK={named}: no index.html there"
        return books.ROOT / named
    return request.getfixturevalue("smoke_book") / "book/_build/html"


@pytest.fixture(scope="session")
def address(html):
    with pages.served(html) as found:
        yield found


@pytest.fixture
def reader(browser, address):
    opened = []

    def open_page(page, size=pages.WIDE, scheme="light", **how):
        opened.append(pages.Reader(browser, address, size, scheme, **how))
        opened[-1].read(page)
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


@pytest.fixture(scope="module")
def fewer_neurons():
    """Where forecasts are compared with forecasts, what few inputs do may be measured roughly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntklc_helpers.theory.few_inputs._NEURONS", 2000)
        yield


@pytest.fixture
def stop_at(monkeypatch):
    """Interrupts a function at some of its calls, counted from 1; all calls' arguments are told."""

    def stop(owner, name, *at):
        plain, calls = getattr(owner, name), []

        def counted(*arguments, **options):
            calls.append(arguments)
            if len(calls) in at:
                raise KeyboardInterrupt
            return plain(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)
        return calls

    return stop
