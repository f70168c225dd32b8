"""The chart of a front: value and metric against what assignments cost."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hwsmpq.report.colours import PALETTE
from hwsmpq.report.formats import bitops, shorten
from hwsmpq.report.style import UNITS_PER_INCH, drawing
from hwsmpq.types import BuiltEngine, Front

WIDTH, HEIGHT = 720, 620


def draw(front: Front) -> bytes:
    """An SVG file. Above, the front as it was chosen: by its value on the search part. Below, what the metric comes to:
    there, and in built engines on the report part, at the latency that they measured."""
    with drawing():
        figure = Figure(figsize=(WIDTH / UNITS_PER_INCH, HEIGHT / UNITS_PER_INCH), dpi=UNITS_PER_INCH)
        FigureCanvasSVG(figure)
        upper, lower = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"left": 0.12, "right": 0.98, "top": 0.93, "bottom": 0.08, "hspace": 0.22}
        )
        _draw_values(upper, front)
        _draw_metric(lower, front)
        if front.cost == "bitops":
            lower.set_xscale("log")
            lower.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            lower.xaxis.set_minor_locator(NullLocator())
            lower.xaxis.set_major_formatter(FuncFormatter(lambda x, _: bitops(x)))
        lower.set_xlabel("BitOps" if front.cost == "bitops" else "latency (ms)")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="svg", facecolor=PALETTE["surface"],
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    return buffer.getvalue()


def _draw_values(axes: Axes, front: Front) -> None:
    costs = [front.cost_of(p) for p in front.points]
    values = [p.value - front.reference_value for p in front.points]  # what the standard errors are of
    axes.axhline(0.0, color=PALETTE["muted"], linestyle="--", linewidth=1)
    axes.step(costs, values, where="post", color=PALETTE["accent"], linewidth=1, alpha=0.5)
    axes.errorbar(costs, values, yerr=[p.stderr for p in front.points], fmt="none", ecolor=PALETTE["accent"],
                  elinewidth=1.1, capsize=2.5)
    for built, label in ((False, "front"), (True, "front, engine measured")):
        rows = [i for i, p in enumerate(front.points) if (front.engine_of(p.assignment) is not None) == built]
        if rows:
            axes.plot([costs[i] for i in rows], [values[i] for i in rows], "o", color=PALETTE["accent"],
                      markerfacecolor=PALETTE["accent" if built else "surface"], label=label)
    axes.set_ylabel(f"{shorten(front.value)} against the reference")
    _legend(axes)


def _draw_metric(axes: Axes, front: Front) -> None:
    axes.axhline(0.0, color=PALETTE["muted"], linestyle="--", linewidth=1)
    axes.errorbar([front.cost_of(p) for p in front.points], [-p.drop_points for p in front.points],
                  yerr=[p.drop_stderr_points for p in front.points], fmt="o", color=PALETTE["muted"], elinewidth=1.1,
                  markerfacecolor=PALETTE["surface"], capsize=2.5, label="points, search part")
    uniform = [engine for engine in front.engines if len(set(engine.assignment.values())) == 1]
    mixed = [engine for engine in front.engines if engine not in uniform]
    _draw_engines(axes, mixed, "D", "accent", "engines, report part")
    _draw_engines(axes, uniform, "^", "ink", "uniform engines, report part")
    for engine in uniform:
        name = next(iter(engine.assignment.values()))
        axes.annotate(name, (engine.latency.median_ms, -engine.drop_points), xytext=(7, 7), fontsize=11,
                      textcoords="offset points")
    axes.set_ylabel("metric against the reference (points)")
    _legend(axes)


def _draw_engines(axes: Axes, engines: Sequence[BuiltEngine], marker: str, colour: str, label: str) -> None:
    if engines:
        axes.errorbar([e.latency.median_ms for e in engines], [-e.drop_points for e in engines],
                      xerr=[e.latency.spread_ms for e in engines],
                      yerr=[100 * e.accuracy.paired_stderr for e in engines], fmt=marker, color=PALETTE[colour],
                      elinewidth=1.1, capsize=2.5, label=label, zorder=3)


def _legend(axes: Axes) -> None:
    axes.margins(0.06, 0.12)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, handletextpad=0.2, columnspacing=1.2)
