"""What a user may want to know after the verdict: what another budget would have given, and what a few samples say."""

from __future__ import annotations

from collections.abc import Iterator

from hwsmpq.report.formats import bounded, milliseconds, significant
from hwsmpq.types import CHOSEN, Certificate, EngineResult, Plan

COARSE_POINTS = 0.5
"""Where one sample is worth as much as this, a drop of the metric is a matter of few samples."""
LEAST_GAIN = 0.02
"""Of the plan's latency, beyond the spreads of both: engines that are built again may differ by as much."""


def advise(plan: Plan, certificate: Certificate) -> tuple[str, ...]:
    """Whole sentences, from measurements alone; none where there is nothing to say."""
    return (
        *_forgone(plan), *_uniform(plan, certificate), *_more_accurate(plan, certificate), *_bound(certificate),
        *_few_samples(certificate),
    )


def _forgone(plan: Plan) -> Iterator[str]:
    if plan.forgone:
        slower, more = milliseconds(plan.forgone.latency_ms), significant(plan.forgone.value)
        yield (
            f"A plan predicted at {slower} was worth {more} ± {significant(plan.forgone.stderr)} more on the search"
            " part, which is not told from nothing: of plans worth the same, the fastest is taken."
        )


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
        and {engine.name} != set(plan.assignment.values())
        and engine.latency_ms + (engine.spread_ms or 0.0) < latency.measured * (1 - LEAST_GAIN) - latency.spread
        and certificate.keeps(engine)
    ]
    if not faster:
        return
    best = min(faster, key=lambda engine: engine.latency_ms or 0.0)
    assert best.latency_ms is not None
    speeds = f"{latency.reference / best.latency_ms:.2f}x against {latency.reference / latency.measured:.2f}x"
    lost = f"{certificate.drop_points(best):.1f} points lost"
    limit = next((b for b in plan.budgets if b.kind == "latency_ms"), None)
    if any(b.kind == "max_drop" for b in plan.budgets):
        yield (
            f"{best.name} everywhere is faster ({speeds}) and keeps your drop ({lost}): "
            + (f"leave {limit.asked[0]} out to get the fastest plan that keeps it."
               if limit else "give --max-drop without another budget to get the fastest plan that keeps it.")
        )
    else:
        yield (
            f"{best.name} everywhere is faster ({speeds}), with {lost}: to get the fastest plan, give --max-drop with"
            f" the loss that you can bear{f', and leave {limit.asked[0]} out' if limit else ''}."
        )


def _more_accurate(plan: Plan, certificate: Certificate) -> Iterator[str]:
    """A uniform engine that keeps every budget and lost less than a plan that was to be the most accurate, by two
    standard errors: the search chose on other samples, and on few."""
    if plan.objective != "value" or plan.held:
        return
    accuracy = certificate.accuracy
    better = [
        engine for engine in certificate.engines
        if engine.name in plan.ladder and engine.metric > accuracy.engine + 2 * accuracy.paired_stderr
        and certificate.keeps(engine)
    ]
    if better:
        best = max(better, key=lambda engine: engine.metric)
        its, plans = (100 * (accuracy.reference - metric) for metric in (best.metric, accuracy.engine))
        yield (
            f"{best.name} everywhere keeps every budget too, and lost less ({its:.1f} against {plans:.1f} points)."
            " More samples for the search (--n-search-samples, --n-score-samples) make its choice surer."
        )


def _bound(certificate: Certificate) -> Iterator[str]:
    """A drop that is kept as it was measured, while the bound allows one that is not."""
    for outcome in certificate.budgets:
        bound = outcome.bound if outcome.kind == "max_drop" and outcome.met and not outcome.by_bound else None
        if bound and bound.points > outcome.limit and outcome.measured is not None:
            n, wide = certificate.accuracy.n_samples, bound.points - outcome.measured
            # On so few samples the bound would be missed by a plan that loses nothing.
            remedy = (
                f"On {n} samples the bound is {wide:.2f} points wide: more labelled samples make it tighter."
                if wide > outcome.limit else f"--confidence {bound.confidence:g} holds the plan to that bound."
            )
            yield (
                f"The drop was measured within your {outcome.limit:.2f} points, but on other data it may be above them"
                f" ({bounded(bound)}). {remedy}"
            )


def _few_samples(certificate: Certificate) -> Iterator[str]:
    accuracy = certificate.accuracy
    worth = 100 / accuracy.n_samples
    if accuracy.is_classification and worth >= COARSE_POINTS:
        yield (
            f"One of the {accuracy.n_samples} samples is worth {worth:.1f} points: smaller losses cannot be seen on so"
            " few. More labelled samples make the bound tighter."
        )


def _engine(certificate: Certificate, name: str) -> EngineResult | None:
    return next((engine for engine in certificate.engines if engine.name == name), None)
