"""Matplotlib figures as inline SVG that follows the page: its colours, its ids, its language."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PALETTE = {
    "ink": "#1b1e24",
    "muted": "#596070",
    "grid": "#dcdfe5",
    "surface": "#fefefe",
    "accent": "#0a58a8",
    "warn": "#a8480a",
}
"""CSS variable -> the colour that stands for it inside matplotlib."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hwsmpq",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 12.0,
    "text.color": PALETTE["ink"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "figure.facecolor": "none",
}
URL_REFERENCE = re.compile(r"url\(#([^)]+)\)")
HEX_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with the report's style, whatever the user's matplotlibrc says."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        # The browser has the glyphs that matplotlib's own font lacks; only the measured width is a guess.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def inline(
    figure: Figure, prefix: str, label: str, colours: Mapping[str, str], tooltips: Mapping[str, str] | None = None
) -> Markup:
    """Serialise a figure for inclusion in HTML.

    Args:
        figure: drawn inside :func:`drawing`; sized at 72 units an inch, so a unit is a CSS pixel.
        prefix: put before every id, so that charts on one page cannot collide.
        label: what a screen reader says.
        colours: CSS variable name -> hex colour used in the figure, replaced by ``var(--name)``.
        tooltips: gid of an artist -> text shown on hover.
    """
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", metadata=metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    width = float(root.get("width", "0").removesuffix("pt"))
    variables = {hexadecimal.lower(): f"var(--{name})" for name, hexadecimal in colours.items()}
    _drop(root, {"metadata", "style"})
    for element in root.iter():
        element.tag = _local(element.tag)
        tooltip = (tooltips or {}).get(element.get("id", ""))
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in attributes.items():
            element.set(name, _attribute(name, value, prefix, variables))
        if tooltip is not None:
            title = ElementTree.Element("title")
            title.text = tooltip
            element.insert(0, title)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", f"--width: {width:.0f}px")
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # serialised, hence escaped


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _drop(root: ElementTree.Element, names: set[str]) -> None:
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in names]:
            parent.remove(child)


def _attribute(name: str, value: str, prefix: str, variables: Mapping[str, str]) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value.removeprefix('#')}"
    value = URL_REFERENCE.sub(rf"url(#{prefix}-\1)", value)
    return HEX_COLOUR.sub(lambda match: variables.get(match[0].lower(), match[0]), value) if name == "style" else value
