"""A book as a reader sees it: served from here, read in a browser that reaches no other host."""

import contextlib
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}


@contextlib.contextmanager
def served(folder):
    """The address of a folder's files while they are served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class Reader:
    """A page, in a profile of its own, and what went wrong or over the wire while reading it."""

    def __init__(self, browser, address, size, scheme="light", **how):
        self.address = address
        self.context = browser.new_context(
            viewport=size,
            color_scheme=scheme,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
            **how,
        )
        self.troubles, self.bytes = [], 0
        self.context.route("**/*", self.only_local)
        self.page = self.context.new_page()
        self.page.on("console", self.note_message)
        self.page.on("pageerror", lambda error: self.troubles.append(f"page error: {error}"))
        self.page.on("requestfailed", self.note_failure)
        self.page.on("response", self.note_response)

    def only_local(self, route):
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.troubles.append(f"asks another host: {route.request.url}")
            route.abort()

    def note_message(self, message):
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text}")

    def note_failure(self, request):
        # What is aborted was given up by the browser: the reader had already left for another page.
        if request.failure != "net::ERR_ABORTED":
            self.troubles.append(f"lost: {request.url}")

    def note_response(self, response):
        if response.status >= 400:
            self.troubles.append(f"{response.status}: {response.url}")
        self.bytes += int(response.headers.get("content-length", 0))

    def read(self, page):
        self.page.goto(self.address + page, wait_until="load")
        # After this the page's own script has seen the formulas, too.
        self.page.evaluate("() => MathJax.startup.promise.then(() => new Promise(setTimeout))")
        return self.page
