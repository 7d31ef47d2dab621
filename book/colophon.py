"""What each page says of its own making, and where its chapter can be run.

`make book` writes a record into every chapter it executes; this Sphinx extension prints the record
at the foot of the page, and points the launch buttons at the repository the book was built from.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from html import escape
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

KEY = "ntklc"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "jupyter-book")
BINDER = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
COLAB = {"colab_url": "https://colab.research.google.com"}


def record(profile: str) -> dict:
    """Commit, profile, device, date and versions of what runs now, here."""
    return {
        "commit": commit(),
        "profile": profile,
        "device": device(),
        "date": today(),
        "versions": {"python": platform.python_version()} | installed(PACKAGES),
    }


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: metadata.version(name).split("+")[0] for name in packages}


def command(*arguments: str) -> str:
    """What the command prints, without the last line's end; empty if it fails or is missing."""
    if shutil.which(arguments[0]) is None:
        return ""
    result = subprocess.run(arguments, capture_output=True, text=True)
    return result.stdout.rstrip("\n") if result.returncode == 0 else ""


def commit() -> str:
    """The commit checked out, and whether files differ from it; `none` outside a repository."""
    name = command("git", "rev-parse", "--short=12", "HEAD")
    if not name or command("git", "rev-parse", "--show-prefix"):
        return "none"
    return f"{name} with changes" if command("git", "status", "--porcelain") else name


def device() -> str:
    """The GPU that torch computes on by default, or else the processor."""
    if "+cpu" not in metadata.version("torch") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        gpus = command("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
        if gpus:
            return gpus[0]
    try:
        model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    name = model.group(1).strip() if model else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def today() -> str:
    """The date in UTC, or that of SOURCE_DATE_EPOCH: builds to be compared set it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.date().isoformat()


def repository() -> str:
    """The book's address on GitHub: the one in _config.yml, or where this checkout came from."""
    config = Path("_config.yml")
    known = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if known.get("repository", {}).get("url"):
        return known["repository"]["url"].rstrip("/")
    origin = command("git", "remote", "get-url", "origin")
    found = re.fullmatch(
        r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?",
        origin,
    )
    return f"https://github.com/{found.group(1)}" if found else ""


def install_cell(address: str) -> str:
    """What a chapter opened on Colab runs first; it does nothing elsewhere."""
    return (
        "import sys\n\n"
        'if "google.colab" in sys.modules:  # elsewhere the package is installed\n'
        f"    %pip install -q git+{address}"
    )


def opens_on_colab(address: str) -> bool:
    """Whether every chapter installs the package from this address when Colab opens it."""
    last = install_cell(address).splitlines()[-1].strip()
    chapters = sorted(Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
    return all(f'{last}"' in chapter.read_text(encoding="utf-8") for chapter in chapters)


def as_html(record: dict) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(record["versions"].items())
    )
    shown = {name: record[name] for name in ("commit", "profile", "device", "date")}
    entries = [*shown.items(), ("versions", versions)]
    return "Made with: " + " · ".join(
        f"{name} <span class='{KEY}-{name}'>{escape(str(value))}</span>" for name, value in entries
    )


def read_record(notebook: Path) -> dict | None:
    return json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get(KEY)


def set_launch_buttons(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    address = options["repository_url"] = repository()
    if address:
        options["launch_buttons"] = BINDER | (COLAB if opens_on_colab(address) else {})


def write_footer(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    source = Path(app.env.doc2path(page))
    own = read_record(source) if source.suffix == ".ipynb" and source.is_file() else None
    context["theme_extra_footer"] = as_html(own or app.config.ntklc_pages_record)


def drop_thebe(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Jupyter Book adds it to every page, to be loaded from another host; nothing here uses it."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes.get('body', '')}"
    ]


def keep_own_scripts(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Jupyter Book adds all scripts to all pages; those in a folder are for the page it names."""
    folders = Path(app.srcdir, "_static").glob("*/*.js")
    other = {f"_static/{s.parent.name}/{s.name}" for s in folders if s.parent.name != page}
    context["script_files"] = [
        script for script in context["script_files"] if str(script.filename) not in other
    ]


def describe_pages(app: Sphinx) -> None:
    """Pages that are no chapter are made now, from chapters of these profiles."""
    chapters = sorted(Path(app.srcdir).glob("notebooks/*.ipynb"))
    profiles = {(read_record(chapter) or {}).get("profile", "unknown") for chapter in chapters}
    app.config.ntklc_pages_record = record(" and ".join(sorted(profiles)))


def setup(app: Sphinx) -> dict:
    app.set_html_assets_policy("always")  # the sidebar's titles hold formulas on every page
    app.add_config_value("ntklc_pages_record", None, "", types=(dict, type(None)))
    app.connect("config-inited", set_launch_buttons, priority=100)
    app.connect("builder-inited", describe_pages)
    app.connect("html-page-context", write_footer)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", keep_own_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
