"""What the scripts of a page draw, as JSON that is safe inside HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from hwsmpq.report.formats import COST_LABELS
from hwsmpq.report.view import Point, Tradeoff, View, in_order
from hwsmpq.types import PRECISIONS, Assignment

FIRST_LEVEL = ord("0")
UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def page_data(views: Sequence[View]) -> dict[str, Any]:
    """One or more runs: their networks, engines and interactions.

    Of several runs, only engines on the report part are shown. Assignments are strings with one
    character a group, in order: the index of its precision, counted from ``0``.
    """
    precisions = in_order(p for view in views for p in view.precisions)
    tradeoffs = [(n, view, view.tradeoff) for n, view in enumerate(views) if view.tradeoff]
    return {
        "precisions": precisions,
        "runs": [_run(view, precisions) for view in views],
        "axes": _axes(tradeoffs[0][2]) if tradeoffs else None,
        "points": [_point(p, n, view, precisions) for n, view, found in tradeoffs for p in found.points
                   if len(views) == 1 or p.kind != "candidate"],
        "timings": [
            {"run": n, "kind": t.kind, "label": t.label, "x": _short(t.predicted_ms), "y": _short(t.measured_ms),
             "dy": _short(t.spread_ms), "levels": _levels(t.assignment, view, precisions)}
            for n, view in enumerate(views) for t in view.timings
        ],
        "interactions": _interactions(views[0]),
    }


def as_json(data: dict[str, Any]) -> Markup:
    """For an element that is no script to a browser: nothing in it can end the element or begin markup."""
    return Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).translate(UNSAFE))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _axes(tradeoff: Tradeoff) -> dict[str, Any]:
    return {
        "cost": tradeoff.cost, "x": COST_LABELS[tradeoff.cost], "y": "metric against the reference (points)",
        "xLimit": _short(tradeoff.x_limit), "yLimit": _short(tradeoff.y_limit),
    }


def _point(point: Point, run: int, view: View, precisions: Sequence[str]) -> dict[str, Any]:
    return {
        "run": run, "kind": point.kind, "label": point.label, "x": _short(point.x), "dx": _short(point.x_spread),
        "y": _short(point.y), "dy": _short(point.y_stderr), "source": point.x_source,
        "levels": _levels(point.assignment, view, precisions),
    }


def _levels(assignment: Assignment | None, view: View, precisions: Sequence[str]) -> str | None:
    names = view.network.group_names
    if assignment is None or not all(name in assignment for name in names):
        return None
    return "".join(chr(FIRST_LEVEL + precisions.index(assignment[name])) for name in names)


def _run(view: View, precisions: Sequence[str]) -> dict[str, Any]:
    position = {name: i for i, name in enumerate(view.network.group_names)}
    parsed = [PRECISIONS[name] for name in precisions]
    formats = [precision.activations for precision in parsed]
    groups = []
    for name, row in zip(position, view.groups, strict=True):
        measured = view.group_ms.get(name, {})
        counted = [row.n_macs * p.bitops_per_mac for p in parsed]
        groups.append({
            "name": row.name, "layers": row.layers,
            "cost": [_short(measured.get(p)) for p in precisions] if view.group_ms else counted,
        })
    return {
        "name": view.name, "unit": "ms" if view.group_ms else "BitOps", "groups": groups,
        "formats": [formats.index(one) for one in formats],
        "edges": [[position[e.source], position[e.target]] for e in view.network.edges],
    }


def _interactions(view: View) -> list[list[float]] | None:
    if view.interactions is None:
        return None
    position = {name: i for i, name in enumerate(view.network.group_names)}
    return [[position[a], position[b], float(f"{v:.6g}")] for a, b, v in view.interactions.pairs
            if a in position and b in position]


