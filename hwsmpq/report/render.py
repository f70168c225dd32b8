"""Write the report of a run folder."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from hwsmpq._version import __version__
from hwsmpq.artifacts import write_bytes
from hwsmpq.report import figures, formats
from hwsmpq.report.collect import collect
from hwsmpq.report.svg import PALETTE


def render(folder: Path) -> Path:
    """Make ``folder/report.html`` from the artifacts in ``folder``.

    The page is one file without scripts or external references. Stages that have not run are named on the
    page and left out. The same artifacts give the same bytes.

    Raises:
        HwsmpqError: network.json is missing, an artifact is damaged, or the page cannot be written.
    """
    view = collect(folder)
    has_strip = any(group.phi or group.precision for group in view.groups)
    environment = Environment(
        loader=PackageLoader("hwsmpq.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        view=view,
        version=__version__,
        formats=formats,
        tradeoff=figures.tradeoff(view.tradeoff, view.value) if view.tradeoff else None,
        timings=figures.timings(view.timings) if view.timings else None,
        strip=figures.strip(view.groups, view.ladder, view.value) if has_strip else None,
        light={**PALETTE, **figures.level_colours(view.ladder)},
        dark_levels=figures.level_colours(view.ladder, dark=True),
    )
    path = folder / "report.html"
    write_bytes(path, page.encode())
    return path
