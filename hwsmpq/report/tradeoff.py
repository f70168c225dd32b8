"""What accuracy costs: every assignment that was measured, and those that were only scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from hwsmpq.report.folder import Artifacts
from hwsmpq.report.formats import clean
from hwsmpq.report.view import Point, PointKind, Tradeoff
from hwsmpq.types import REFERENCE, Assignment, Candidate, Certificate, Plan


def tradeoff(run: Artifacts) -> Tradeoff | None:
    """Engines over latency where the run times any, else assignments over BitOps; None where there is neither."""
    has_latency = _has_latency(run)
    points = tuple(_distinct(_latency_points(run) if has_latency else _bitops_points(run)))
    if not points:
        return None
    limits = {budget.kind: budget.limit for budget in run.plan.budgets} if run.plan else {}
    drop = limits.get("max_drop")
    return Tradeoff(has_latency, points, limits.get("latency_ms" if has_latency else "bitops"),
                    -drop if has_latency and drop is not None else None)


def finalists(plan: Plan) -> list[Candidate]:
    """Candidates measured on the largest batch: values on smaller ones are not comparable with theirs."""
    largest = max((c.n_samples for c in plan.candidates), default=0)
    return [c for c in plan.candidates if c.n_samples == largest]


def _has_latency(run: Artifacts) -> bool:
    if run.certificate:
        return run.certificate.latency_ms is not None
    if run.plan:
        return run.plan.predicted_latency_ms is not None
    return run.front is not None and run.front.cost == "latency_ms"


def _uniform_precision(assignment: Assignment) -> str | None:
    names = set(assignment.values())
    return names.pop() if len(names) == 1 else None


def _distinct(points: Iterator[Point]) -> Iterator[Point]:
    """Every assignment once: what comes first was measured better than what follows."""
    known: set[frozenset[tuple[str, str]]] = set()
    for point in points:
        identity = frozenset((point.assignment or {}).items())
        if not identity or identity not in known:
            known.add(identity)
            yield point


def _latency_points(run: Artifacts) -> Iterator[Point]:
    """Change of the metric in points (up is better) over latency; measured latency where that engine was built."""
    if run.certificate and run.plan:
        yield from _certified(run, run.certificate, run.plan)
    for number, engine in enumerate(run.front.engines if run.front else (), 1):
        uniform = _uniform_precision(engine.assignment)
        kind: PointKind = "reference" if uniform == REFERENCE else "uniform" if uniform else "built"
        yield Point(kind, uniform or f"engine {number} of the front", engine.latency.median_ms, -engine.drop_points,
                    "measured", engine.latency.spread_ms, 100 * engine.accuracy.paired_stderr, engine.assignment)
    if run.cost and REFERENCE in run.cost.uniform_ms:
        measured = run.cost.uniform_ms[REFERENCE]
        yield Point("reference", REFERENCE, measured.median_ms, 0.0, "measured", measured.spread_ms, None,
                    run.network.uniform(REFERENCE))
    if run.plan and run.plan.predicted_latency_ms is not None and not run.certificate:
        yield Point("chosen", "chosen", run.plan.predicted_latency_ms, -run.plan.predicted_drop_points, "predicted",
                    assignment=run.plan.assignment)
    for name, candidate in _candidates(run):
        found = _candidate_latency(run, candidate)
        if found is not None:
            x, source, spread = found
            yield Point("candidate", _uniform_precision(candidate.assignment) or name, x, -candidate.drop_points,
                        source, spread, candidate.drop_stderr_points, candidate.assignment)


def _certified(run: Artifacts, certificate: Certificate, plan: Plan) -> Iterator[Point]:
    """The chosen engine and those it was compared with, on the report part."""
    latency, accuracy = certificate.latency_ms, certificate.accuracy
    if latency is None:
        return
    yield Point("chosen", "chosen", latency.measured, 100 * (accuracy.engine - accuracy.reference), "measured",
                latency.spread, 100 * accuracy.paired_stderr, plan.assignment)
    if plan.ladder[-1] == REFERENCE:
        yield Point("reference", REFERENCE, latency.reference, 0.0, "measured",
                    assignment=run.network.uniform(REFERENCE))
    for engine in certificate.engines:
        name = clean(engine.name).removeprefix("uniform ")
        if engine.latency_ms is None or name == "chosen":
            continue
        known = name in plan.ladder or name == REFERENCE
        kind: PointKind = "reference" if name == REFERENCE else "uniform" if known else "compared"
        yield Point(kind, name, engine.latency_ms, 100 * (engine.metric - accuracy.reference), "measured",
                    assignment=run.network.uniform(name) if known else None)


def _candidate_latency(
    run: Artifacts, candidate: Candidate
) -> tuple[float, Literal["measured", "predicted"], float | None] | None:
    uniform = _uniform_precision(candidate.assignment)
    if uniform and run.cost and uniform in run.cost.uniform_ms:
        measurement = run.cost.uniform_ms[uniform]
        return measurement.median_ms, "measured", measurement.spread_ms
    for built in run.certificate.rounds if run.certificate else ():
        if built.assignment == candidate.assignment and built.measured_ms is not None:
            return built.measured_ms, "measured", None
    return None if candidate.latency_ms is None else (candidate.latency_ms, "predicted", None)


def _bitops_points(run: Artifacts) -> Iterator[Point]:
    """Value on the search part over BitOps; certificates use other samples, so they have no place here."""
    for name, candidate in _candidates(run):
        uniform = _uniform_precision(candidate.assignment)
        kind: PointKind = "uniform" if uniform else "candidate"
        if uniform == REFERENCE or (run.ladder and uniform == run.ladder[-1]):
            kind = "reference"
        if run.plan and candidate.assignment == run.plan.assignment:
            kind = "chosen"
        yield Point(kind, uniform or name, candidate.bitops, candidate.value, "counted", None, candidate.stderr,
                    candidate.assignment)


def _candidates(run: Artifacts) -> Iterator[tuple[str, Candidate]]:
    """Those of the race, then the points of the front, which have the same samples unless the front is older."""
    plan = finalists(run.plan) if run.plan else []
    for number, candidate in enumerate(plan, 1):
        yield f"candidate {number}", candidate
    for number, candidate in enumerate(run.front.points if run.front else (), 1):
        if not plan or candidate.n_samples == plan[0].n_samples:
            yield f"point {number} of the front", candidate
