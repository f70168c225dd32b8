"""The three charts of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from hwsmpq.report.formats import bitops, shorten
from hwsmpq.report.svg import PALETTE, drawing, inline
from hwsmpq.report.view import GroupRow, Point, PointKind, Timing, TimingKind, Tradeoff

UNITS_PER_INCH = 72
NAME_WIDTH = 5.6
GROUP_WIDTH, LEVEL_WIDTH = 20, 5
LABEL_ROOM, LABEL_ABOVE, LABEL_LEFT = (24, 12), (0, 14), (-27, 0)
LEVEL_RANGE_LIGHT = (0.72, 0.05)
LEVEL_RANGE_DARK = (0.88, 0.36)

POINT_STYLES: dict[PointKind, tuple[str, str, str, bool]] = {
    "reference": ("s", "ink", "reference", True),
    "uniform": ("^", "ink", "uniform", False),
    "candidate": ("o", "muted", "candidates", False),
    "compared": ("v", "warn", "compared", True),
    "chosen": ("D", "accent", "chosen", True),
}
TIMING_STYLES: dict[TimingKind, tuple[str, str, str, bool]] = {
    "uniform": ("^", "ink", "uniform engines", False),
    "mixture": ("o", "muted", "mixtures of the fit", False),
    "round": ("D", "accent", "rounds", True),
}


def level_colours(ladder: Sequence[str], dark: bool = False) -> dict[str, str]:
    """CSS variable name -> hex colour, one for each level of the ladder, floor first."""
    first, last = LEVEL_RANGE_DARK if dark else LEVEL_RANGE_LIGHT
    steps = max(len(ladder) - 1, 1)
    plasma = matplotlib.colormaps["plasma"]
    return {f"level-{i}": to_hex(plasma(first + (last - first) * i / steps)) for i in range(len(ladder))}


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / UNITS_PER_INCH, height / UNITS_PER_INCH), dpi=UNITS_PER_INCH)


def tradeoff(data: Tradeoff, value: str | None) -> Markup:
    """Accuracy against latency or, where the target makes no latency claim, value against BitOps."""
    with drawing():
        figure = _figure(720, 420)
        axes = figure.add_axes((0.1, 0.12, 0.88, 0.78))
        for kind, (marker, colour, label, filled) in POINT_STYLES.items():
            points = [point for point in data.points if point.kind == kind]
            for point in points:
                axes.errorbar(point.x, point.y, xerr=point.x_spread, yerr=point.y_stderr, fmt="none",
                              ecolor=PALETTE[colour], elinewidth=1.1, capsize=2.5, zorder=2)
            if points:
                axes.plot([p.x for p in points], [p.y for p in points], marker, color=PALETTE[colour], label=label,
                          markersize=9 if kind in ("chosen", "reference") else 7, markeredgewidth=1.3,
                          markerfacecolor=PALETTE[colour if filled else "surface"], zorder=4 if filled else 3)
        if data.x_limit is not None:
            axes.axvline(data.x_limit, color=PALETTE["warn"], linestyle="--", linewidth=1.2, label="budget")
        if data.y_limit is not None:
            axes.axhline(data.y_limit, color=PALETTE["warn"], linestyle="--", linewidth=1.2,
                         label="budget" if data.x_limit is None else None)
        axes.margins(0.1, 0.16)
        if data.has_latency:
            axes.set_xlabel("latency (ms)")
            axes.set_ylabel("metric against the reference (points)")
            label = "Scatter chart: change of the metric in points against latency in milliseconds."
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: bitops(x)))
            axes.set_xlabel("BitOps")
            axes.set_ylabel(f"value on the search part ({shorten(value)})" if value else "value on the search part")
            axes.text(0.99, 0.03, "simulated accuracy, no latency claim", transform=axes.transAxes, ha="right",
                      color=PALETTE["warn"])
            label = "Scatter chart: value against BitOps, simulated accuracy, no latency claim."
        _label(axes, [point for point in data.points if point.kind in ("reference", "uniform", "compared")],
               data.points)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=6, handletextpad=0.2, columnspacing=1.2)
        return inline(figure, "tradeoff", label, PALETTE)


def _label(axes: Axes, points: Sequence[Point], everything: Sequence[Point]) -> None:
    """Name points where there is room; the table beside the chart names them all."""
    taken = [(x, y) for x, y in axes.transData.transform([(point.x, point.y) for point in everything])]
    for point in points:
        x, y = axes.transData.transform((point.x, point.y))
        # An error bar would cross a label above the marker.
        shift_x, shift_y = LABEL_ABOVE if point.y_stderr is None else LABEL_LEFT
        x, y = x + shift_x, y + shift_y
        if all(abs(x - other_x) > LABEL_ROOM[0] or abs(y - other_y) > LABEL_ROOM[1] for other_x, other_y in taken):
            taken.append((x, y))
            axes.annotate(shorten(point.label), (point.x, point.y), xytext=(shift_x, shift_y), fontsize=11,
                          textcoords="offset points", ha="center", va="center")


def timings(data: Sequence[Timing]) -> Markup:
    """Predicted against measured latency of every engine that was built."""
    with drawing():
        figure = _figure(720, 420)
        axes = figure.add_axes((0.1, 0.12, 0.88, 0.78))
        low = min(min(t.predicted_ms, t.measured_ms) for t in data)
        high = max(max(t.predicted_ms, t.measured_ms) for t in data)
        pad = 0.08 * (high - low) or 0.05 * high
        ends = (low - pad, high + pad)
        axes.plot(ends, ends, color=PALETTE["muted"], linewidth=1, linestyle="--", label="exact")
        for kind, (marker, colour, label, filled) in TIMING_STYLES.items():
            rows = [timing for timing in data if timing.kind == kind]
            for row in rows:
                axes.errorbar(row.predicted_ms, row.measured_ms, yerr=row.spread_ms, fmt="none",
                              ecolor=PALETTE[colour], elinewidth=1.1, capsize=2.5, zorder=2)
            if rows:
                axes.plot([t.predicted_ms for t in rows], [t.measured_ms for t in rows], marker, label=label,
                          color=PALETTE[colour], markersize=7, markeredgewidth=1.3,
                          markerfacecolor=PALETTE[colour if filled else "surface"], zorder=4 if filled else 3)
        axes.set_xlim(ends)
        axes.set_xlabel("predicted latency (ms)")
        axes.set_ylabel("measured latency (ms)")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=5, handletextpad=0.4, columnspacing=1.2)
        return inline(figure, "timings", "Scatter chart: measured against predicted latency in milliseconds.", PALETTE)


def strip(groups: Sequence[GroupRow], ladder: Sequence[str], value: str | None) -> Markup:
    """Contributions with standard errors above the chosen precision of each group, in execution order."""
    colours = level_colours(ladder)
    has_phi, has_plan = any(g.phi for g in groups), any(g.precision for g in groups)
    left, right, gap = 76, 12, 14
    names = 14 + NAME_WIDTH * max(len(shorten(group.name)) for group in groups)
    upper, lower = 190 * has_phi, 22 * len(ladder) * has_plan
    width = max(640, left + right + max(GROUP_WIDTH, LEVEL_WIDTH * len(ladder) * has_phi) * len(groups))
    height = upper + lower + names + gap + 8
    tooltips: dict[str, str] = {}
    with drawing():
        figure = _figure(width, height)
        inner = (width - left - right) / width
        bottom = names
        last = None
        if has_plan:
            axes = last = figure.add_axes((left / width, bottom / height, inner, lower / height))
            bottom += lower + gap
            axes.set_yticks(range(len(ladder)), ladder)
            axes.set_ylim(-0.5, len(ladder) - 0.5)
            for index, group in enumerate(groups):
                if group.precision in ladder:
                    level = ladder.index(group.precision)
                    cell = Rectangle((index - 0.44, level - 0.42), 0.88, 0.84, facecolor=colours[f"level-{level}"],
                                     gid=f"group-{index}")
                    axes.add_patch(cell)
                    tooltips[f"group-{index}"] = f"{group.name}: {group.precision}"
        if has_phi:
            axes = figure.add_axes((left / width, bottom / height, inner, upper / height))
            _draw_contributions(axes, groups, ladder, colours)
            axes.set_ylabel("contribution")
            if last is None:
                last = axes
            else:
                axes.tick_params(labelbottom=False)
        for axes in figure.axes:
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.set_xticks(range(len(groups)), [shorten(g.name) for g in groups] if axes is last else [], rotation=90,
                            fontsize=9)
            axes.grid(axis="x", visible=False)
            axes.tick_params(length=0)
        label = ("Bar and strip chart: contribution of every group at each precision with its standard error, and "
                 "the precision chosen for it.")
        if value:
            label += f" Value: {value}."
        return inline(figure, "groups", label, {**PALETTE, **colours}, tooltips)


def _draw_contributions(
    axes: Axes, groups: Sequence[GroupRow], ladder: Sequence[str], colours: dict[str, str]
) -> None:
    levels = [level for level in ladder if any(level == name for g in groups for name, _, _ in g.phi)]
    slot = 0.8 / max(len(levels), 1)
    axes.axhline(0.0, color=PALETTE["muted"], linewidth=0.8)
    for order, level in enumerate(levels):
        rows = [(i, mean, error) for i, g in enumerate(groups) for name, mean, error in g.phi if name == level]
        x = [i - 0.4 + slot * (order + 0.5) for i, _, _ in rows]
        colour = colours[f"level-{list(ladder).index(level)}"]
        axes.bar(x, [mean for _, mean, _ in rows], width=0.85 * slot, color=colour)
        axes.errorbar(x, [mean for _, mean, _ in rows], fmt="none", ecolor=PALETTE["ink"], elinewidth=0.9, capsize=0,
                      yerr=[0.0 if error is None or math.isnan(error) else error for _, _, error in rows])
