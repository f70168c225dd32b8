"""Write the pages: the report of one run folder, and the comparison of two."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hwsmpq._version import __version__
from hwsmpq.artifacts import write_bytes
from hwsmpq.report import formats
from hwsmpq.report.collect import collect
from hwsmpq.report.colours import PALETTE, level_colours
from hwsmpq.report.compare import compare
from hwsmpq.report.data import as_json, page_data
from hwsmpq.report.view import View

SCRIPTS = ("charts.js", "network.js", "page.js")


def render(folder: Path) -> Path:
    """Make ``folder/report.html`` from the artifacts in ``folder``.

    The page is one file without external references. Stages that have not run are named on the page and left out. The
    same artifacts give the same bytes.

    Raises:
        HwsmpqError: network.json is missing, an artifact is damaged, or the page cannot be written.
    """
    view = collect(folder)
    return _write(folder / "report.html", "report.html.j2", [view], view=view)


def render_comparison(first: Path, second: Path) -> Path:
    """Make ``second/comparison.html``, which sets the run in ``second`` against the one in ``first``.

    Raises:
        HwsmpqError: as :func:`render`, for either folder.
    """
    views = [collect(first), collect(second)]
    return _write(second / "comparison.html", "comparison.html.j2", views, compared=compare(*views))


def _write(path: Path, template: str, views: Sequence[View], **shown: Any) -> Path:
    data = page_data(views)
    script = "\n".join((files("hwsmpq.report") / "page" / name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(
        loader=PackageLoader("hwsmpq.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(
        version=__version__,
        formats=formats,
        css=Markup((files("hwsmpq.report") / "page" / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # Only this script may run, whatever else might get into the page.
        script_hash=f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        data=as_json(data),
        light={**PALETTE, **level_colours(data["precisions"])},
        dark_levels=level_colours(data["precisions"], dark=True),
        **shown,
    )
    write_bytes(path, page.encode())
    return path
