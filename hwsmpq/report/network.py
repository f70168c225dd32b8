"""The picture of a network: what share of its multiplications and of its weights every group has."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hwsmpq.report.colours import PALETTE
from hwsmpq.report.formats import bitops, clean, count, shorten
from hwsmpq.report.style import UNITS_PER_INCH, drawing
from hwsmpq.types import Network

PICTURE_FILE = "network.svg"
WIDTH, HEIGHT = 900, 560
MOST_NAMES = 60
"""Groups up to which their names can be read under the bars."""


def draw(network: Network) -> bytes:
    """An SVG file. Bars are groups in execution order; those of several layers, which share a precision, are dark."""
    members = [network.layers_of(group.name) for group in network.groups]
    macs = [sum(layer.n_macs for layer in layers) for layers in members]
    weights = [sum(layer.n_weights for layer in layers) for layers in members]
    with drawing():
        figure = Figure(figsize=(WIDTH / UNITS_PER_INCH, HEIGHT / UNITS_PER_INCH), dpi=UNITS_PER_INCH)
        FigureCanvasSVG(figure)
        named = len(members) <= MOST_NAMES
        upper, lower = figure.subplots(
            2, 1, sharex=True,
            gridspec_kw={"left": 0.08, "right": 0.99, "top": 0.94, "bottom": 0.3 if named else 0.09, "hspace": 0.3},
        )
        shared = [len(layers) > 1 for layers in members]
        _bars(upper, macs, shared, f"{bitops(sum(macs))} MACs in layers")
        _bars(lower, weights, shared, f"{count(sum(weights))} weights in layers")
        if named:
            names = [shorten(clean(group.name)) for group in network.groups]
            lower.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
        else:
            lower.set_xlabel(f"{len(members)} groups in execution order")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="svg", facecolor=PALETTE["surface"],
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    return buffer.getvalue()


def _bars(axes: Axes, amounts: list[int], shared: list[bool], title: str) -> None:
    total = max(sum(amounts), 1)
    shares = [amount / total for amount in amounts]
    colours = [PALETTE["ink" if several else "accent"] for several in shared]
    axes.bar(range(len(shares)), shares, width=0.8, color=colours)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_xlim(-0.7, len(shares) - 0.3)
    axes.set_title(title + ("; dark: several layers in one group" if any(shared) else ""), loc="left", fontsize=11)
    axes.grid(axis="x", visible=False)
