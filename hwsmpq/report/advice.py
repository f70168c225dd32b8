"""What a user may want to know after the verdict: what another budget would have given, and what a few samples say."""

from __future__ import annotations

from collections.abc import Iterator

from hwsmpq.types import CHOSEN, Budget, BudgetOutcome, Certificate, EngineResult, Plan

COARSE_POINTS = 0.5
"""Where one sample is worth as much as this, a drop of the metric is a matter of few samples."""


def advise(plan: Plan, certificate: Certificate) -> tuple[str, ...]:
    """Whole sentences, from measurements alone; none where there is nothing to say."""
    return (*_uniform(plan, certificate), *_few_samples(certificate))


def _uniform(plan: Plan, certificate: Certificate) -> Iterator[str]:
    """The fastest uniform engine that keeps every budget, where it is surely faster than the plan: a cost budget asks
    for the most accurate plan within it, not for the fastest."""
    latency, chosen = certificate.latency_ms, _engine(certificate, CHOSEN)
    # What the plan is held to, one precision everywhere seldom keeps.
    if latency is None or chosen is None or plan.objective == "latency" or plan.held:
        return
    faster = [
        engine for engine in certificate.engines
        if engine.name in plan.ladder and engine.latency_ms is not None
        and engine.latency_ms < latency.measured - latency.spread
        and all(_keeps(engine, certificate, outcome) for outcome in certificate.budgets)
    ]
    if not faster:
        return
    best = min(faster, key=lambda engine: engine.latency_ms or 0.0)
    assert best.latency_ms is not None
    speeds = f"{latency.reference / best.latency_ms:.2f}x against {latency.reference / latency.measured:.2f}x"
    lost = f"{_drop(best, certificate):.1f} points lost"
    limit = next((b for b in plan.budgets if b.kind == "latency_ms"), None)
    if any(b.kind == "max_drop" for b in plan.budgets):
        yield (
            f"{best.name} everywhere is faster ({speeds}) and keeps your drop ({lost}): "
            + (f"leave {option(limit)} out to get the fastest plan that keeps it."
               if limit else "give --max-drop without another budget to get the fastest plan that keeps it.")
        )
    else:
        yield (
            f"{best.name} everywhere is faster ({speeds}), with {lost}: to get the fastest plan, give --max-drop with"
            f" the loss that you can bear{f', and leave {option(limit)} out' if limit else ''}."
        )


def _few_samples(certificate: Certificate) -> Iterator[str]:
    accuracy = certificate.accuracy
    worth = 100 / accuracy.n_samples
    if accuracy.is_classification and worth >= COARSE_POINTS:
        yield (
            f"One of the {accuracy.n_samples} samples is worth {worth:.1f} points: smaller losses cannot be seen on so"
            " few. More labelled samples make the bound tighter."
        )


def option(budget: Budget) -> str:
    """The option that a budget was given with."""
    return "--speedup" if budget.speedup is not None else f"--{budget.kind.replace('_', '-')}"


def _engine(certificate: Certificate, name: str) -> EngineResult | None:
    return next((engine for engine in certificate.engines if engine.name == name), None)


def _drop(engine: EngineResult, certificate: Certificate) -> float:
    """Points of the metric that an engine loses on the report part; a gain counts as none lost."""
    return max(0.0, 100 * (certificate.accuracy.reference - engine.metric))


def _keeps(engine: EngineResult, certificate: Certificate, outcome: BudgetOutcome) -> bool:
    bound = engine.drop_bound.points if engine.drop_bound else None
    values = {
        "latency_ms": engine.latency_ms, "bitops": engine.bitops, "size_mb": engine.size_mb,
        "max_drop": bound if outcome.by_bound else _drop(engine, certificate),
    }
    return Budget(outcome.kind, outcome.limit).met(values[outcome.kind])
