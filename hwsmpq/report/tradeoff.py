"""What accuracy costs: every assignment that was measured, and those that were only scored."""

from __future__ import annotations

from collections.abc import Iterator

from hwsmpq.report.folder import Artifacts
from hwsmpq.report.formats import clean
from hwsmpq.report.view import CostKind, CostSource, Point, PointKind, Tradeoff
from hwsmpq.types import CHOSEN, REFERENCE, Assignment, Candidate, Certificate, Plan


def tradeoff(run: Artifacts) -> Tradeoff | None:
    """Assignments over latency where the run times any, else over BitOps, or over size where that alone is budgeted.
    None where there are none."""
    cost = _cost(run)
    points = tuple(_distinct(_points(run, cost)))
    if not points:
        return None
    limits = {budget.kind: budget.limit for budget in run.plan.budgets} if run.plan else {}
    drop = limits.get("max_drop")
    return Tradeoff(cost, points, limits.get(cost), None if drop is None else -drop)


def finalists(plan: Plan) -> list[Candidate]:
    """Candidates measured on the largest batch: values on smaller ones are not comparable with theirs."""
    largest = max((c.n_samples for c in plan.candidates), default=0)
    return [c for c in plan.candidates if c.n_samples == largest]


def _cost(run: Artifacts) -> CostKind:
    if run.certificate:
        has_latency = run.certificate.latency_ms is not None
    elif run.plan:
        has_latency = run.plan.predicted_latency_ms is not None
    else:
        has_latency = run.front is not None and run.front.cost == "latency_ms"
    if has_latency:
        return "latency_ms"
    budgeted = {budget.kind for budget in run.plan.budgets} if run.plan else set()
    return "size_mb" if "size_mb" in budgeted and "bitops" not in budgeted else "bitops"


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


def _points(run: Artifacts, cost: CostKind) -> Iterator[Point]:
    """Change of the metric in points (up is better) over cost; measured latency where that engine was built."""
    if run.certificate and run.plan:
        yield from _certified(run, run.certificate, run.plan, cost)
    for number, engine in enumerate(run.front.engines if run.front and cost == "latency_ms" else (), 1):
        uniform = _uniform_precision(engine.assignment)
        kind: PointKind = "reference" if uniform == REFERENCE else "uniform" if uniform else "built"
        yield Point(kind, uniform or f"engine {number} of the front", engine.latency.median_ms, -engine.drop_points,
                    "measured", engine.latency.spread_ms, 100 * engine.accuracy.paired_stderr, engine.assignment)
    if cost == "latency_ms" and run.cost and REFERENCE in run.cost.uniform_ms:
        measured = run.cost.uniform_ms[REFERENCE]
        yield Point("reference", REFERENCE, measured.median_ms, 0.0, "measured", measured.spread_ms, None,
                    run.network.uniform(REFERENCE))
    if run.plan and not run.certificate:
        x = getattr(run.plan, "predicted_latency_ms" if cost == "latency_ms" else cost)
        if x is not None:
            source: CostSource = "predicted" if cost == "latency_ms" else "counted"
            yield Point("chosen", "chosen", x, -run.plan.predicted_drop_points, source, assignment=run.plan.assignment)
    for name, candidate in _candidates(run):
        found = _candidate_cost(run, candidate, cost)
        if found is not None:
            x, source, spread = found
            yield Point("candidate", _uniform_precision(candidate.assignment) or name, x, -candidate.drop_points,
                        source, spread, candidate.drop_stderr_points, candidate.assignment)


def _certified(run: Artifacts, certificate: Certificate, plan: Plan, cost: CostKind) -> Iterator[Point]:
    """The chosen engine and those it was compared with, on the report part."""
    latency, accuracy = certificate.latency_ms, certificate.accuracy
    source: CostSource = "measured" if latency else "counted"
    yield Point("chosen", "chosen", latency.measured if latency else getattr(plan, cost),
                100 * (accuracy.engine - accuracy.reference), source, latency.spread if latency else None,
                100 * accuracy.paired_stderr, plan.assignment)
    if latency and plan.ladder[-1] == REFERENCE:
        yield Point("reference", REFERENCE, latency.reference, 0.0, "measured",
                    assignment=run.network.uniform(REFERENCE))
    for engine in certificate.engines:
        name, x = clean(engine.name).removeprefix("uniform "), getattr(engine, cost)
        if x is None or name == CHOSEN:
            continue
        known = name in plan.ladder or name == REFERENCE
        kind: PointKind = "reference" if name == REFERENCE else "uniform" if known else "compared"
        yield Point(kind, name, x, 100 * (engine.metric - accuracy.reference), source,
                    assignment=run.network.uniform(name) if known else None)


def _candidate_cost(
    run: Artifacts, candidate: Candidate, cost: CostKind
) -> tuple[float, CostSource, float | None] | None:
    if cost != "latency_ms":
        return getattr(candidate, cost), "counted", None
    uniform = _uniform_precision(candidate.assignment)
    if uniform and run.cost and uniform in run.cost.uniform_ms:
        measurement = run.cost.uniform_ms[uniform]
        return measurement.median_ms, "measured", measurement.spread_ms
    for built in run.certificate.rounds if run.certificate else ():
        if built.assignment == candidate.assignment and built.measured_ms is not None:
            return built.measured_ms, "measured", None
    return None if candidate.latency_ms is None else (candidate.latency_ms, "predicted", None)


def _candidates(run: Artifacts) -> Iterator[tuple[str, Candidate]]:
    """Those of the race, then the points of the front, which have the same samples unless the front is older."""
    plan = finalists(run.plan) if run.plan else []
    for number, candidate in enumerate(plan, 1):
        yield f"candidate {number}", candidate
    for number, candidate in enumerate(run.front.points if run.front else (), 1):
        if not plan or candidate.n_samples == plan[0].n_samples:
            yield f"point {number} of the front", candidate
