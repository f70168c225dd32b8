"""How numbers and names are written in the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from hwsmpq.types import AccuracyOutcome, Bound, Budget, BudgetKind, Coverage, Drawn, Held, OtherWeight

BUDGET_LABELS: dict[BudgetKind, str] = {
    "latency_ms": "Latency",
    "bitops": "BitOps",
    "size_mb": "Weight size",
    "peak_mb": "Peak memory",
    "max_drop": "Metric lost",
}
MOST_NAMED = 5
"""Weights outside layers that are listed by name."""
COST_LABELS = {"latency_ms": "latency (ms)", "bitops": "BitOps", "size_mb": "weight size (MB)"}
"""Of the axis that assignments are drawn over."""
NOT_A_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Replace what neither XML nor UTF-8 can carry; names come from user models."""
    return NOT_A_CHARACTER.sub("\ufffd", text)


def shorten(name: str, length: int = 26) -> str:
    """Cut the middle of a long name: both the stage (start) and the layer (end) identify it."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def significant(value: float) -> str:
    """Three significant digits, or all digits of the integer part when there are more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def milliseconds(value: float) -> str:
    return f"{significant(value)}\u00a0ms"


def optional_ms(value: float | None) -> str:
    return "no value" if value is None else milliseconds(value)


def signed_points(value: float) -> str:
    """Points of the metric with a sign; never ``-0.00``."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def bounded(bound: Bound | None) -> str:
    """What is said of a drop beside its estimate; empty where nothing was bounded."""
    if bound is None:
        return ""
    found = f"at most {bound.points:.2f} lost" if bound.points >= 0 else f"at least {-bound.points:.2f} gained"
    return f"with {bound.confidence:.0%} confidence {found}"


def metric(accuracy: AccuracyOutcome, value: float) -> str:
    """A metric with its name: an error as the task gives it, any other in points."""
    return f"{accuracy.metric} {significant(-value)}" if accuracy.is_error else f"{accuracy.metric} {100 * value:.2f}"


def held(found: Sequence[Held]) -> list[str]:
    """What a plan was held to, and which groups that binds: one line a constraint."""
    lines = []
    for one in found:
        named, more = ", ".join(one.groups[:MOST_NAMED]), len(one.groups) - MOST_NAMED
        lines.append(f"held to {one.option}: {named}" + (f" and {more} more" if more > 0 else ""))
    return lines


def error_over(drawn: Drawn | None) -> str:
    """What a standard error of a contribution holds."""
    if drawn is None:
        return "standard error"
    alone = "" if drawn == "samples" or "batches" in drawn else ", on these samples alone"
    return f"standard error over {drawn}{alone}"


def count(value: int) -> str:
    """A whole number of any size."""
    return f"{value:,}" if value < 1e6 else f"{Decimal(value):.1e}".replace("e+", "e")


def covered(coverage: Coverage) -> str:
    """How many of the weights are in layers, and what the others are; names as they come."""
    n_in, n_weights = coverage.n_in_layers, coverage.n_weights
    said = f"All {n_weights:,} weights are" if n_in == n_weights else f"{n_in:,} of {n_weights:,} weights are"
    text = f"{said} in layers that can be quantized"
    if coverage.rest:
        text += f"; not in layers: {_listed(coverage.rest)}"
    return text + (f"; embeddings apart: {_listed(coverage.embeddings)}" if coverage.embeddings else "")


def _listed(weights: tuple[OtherWeight, ...]) -> str:
    """The largest weights with their readers, and how many there are beside them."""
    largest = sorted(weights, key=lambda weight: -weight.n_weights)
    shown = ", ".join(f"{w.name} ({w.n_weights:,}, {w.reader or 'not used'})" for w in largest[:MOST_NAMED])
    rest = largest[MOST_NAMED:]
    return shown + (f" and {len(rest)} more ({sum(w.n_weights for w in rest):,})" if rest else "")


def bitops(value: float) -> str:
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{significant(value / scale)} {unit}"
    return f"{value:.0f}"


def stated(budget: Budget, value: float) -> str:
    """A quantity as its budget was given: a latency as a speedup or a throughput, too."""
    if budget.speedup is not None:
        return f"{budget.speedup * budget.limit / value:.2f}x"
    return quantity(budget.kind, value) if budget.throughput is None else rate(value)


def rate(latency_ms: float) -> str:
    """How many inferences end in a second if one ends every so many ms."""
    return f"{significant(1e3 / latency_ms)} a second"


def limit(budget: Budget) -> str:
    """What a budget asks for."""
    if budget.kind == "latency_ms" and (budget.speedup or budget.throughput):
        return f"≥\u00a0{stated(budget, budget.limit)}"
    return f"≤\u00a0{quantity(budget.kind, budget.limit)}"


def quantity(kind: BudgetKind, value: float) -> str:
    """A budgeted quantity with its unit."""
    if kind == "latency_ms":
        return milliseconds(value)
    if kind == "bitops":
        return bitops(value)
    return f"{value:.2f} points" if kind == "max_drop" else f"{significant(value)} MB"
