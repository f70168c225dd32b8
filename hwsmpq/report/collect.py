"""From the artifacts of a run folder to what the page shows: plain, frozen, no drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

from hwsmpq import artifacts
from hwsmpq.hardware.cost_model import corrected_ms, predict
from hwsmpq.report.formats import BUDGET_LABELS, clean, quantity
from hwsmpq.report.verdict import judge
from hwsmpq.report.view import (
    BudgetRow,
    Fact,
    Fallback,
    GroupRow,
    Point,
    PointKind,
    RoundRow,
    Source,
    Timing,
    TimingKind,
    TimingSummary,
    Tradeoff,
    View,
)
from hwsmpq.types import (
    Assignment,
    Candidate,
    Certificate,
    Contributions,
    CostTable,
    LayerAudit,
    Manifest,
    Network,
    Plan,
    Ranges,
)

T = TypeVar("T")

CONSEQUENCES = {
    "ranges.json": "The activation ranges have not been calibrated.",
    "cost_table.json": "The target has not been profiled, so there is no cost model to compare with.",
    "contributions.json": "The contributions have not been estimated.",
    "plan.json": "No assignment has been chosen.",
    "engine/manifest.json": "No engine has been built, so no layer has been audited.",
    "certificate.json": "Nothing has been verified: whatever is said about the plan is a prediction.",
}


@dataclass(frozen=True)
class Run:
    """The artifacts of one folder; None where a stage has not run."""

    network: Network
    ranges: Ranges | None
    cost: CostTable | None
    contributions: Contributions | None
    plan: Plan | None
    manifest: Manifest | None
    certificate: Certificate | None


def collect(folder: Path) -> View:
    """Read a run folder.

    Raises:
        HwsmpqError: network.json is missing, or any artifact is damaged.
    """
    sources: list[Source] = []
    missing: list[str] = []

    def optional(file: str, kind: type[T]) -> T | None:
        if not (folder / file).exists():
            missing.append(f"{file} is not in this folder. {CONSEQUENCES[file]}")
            return None
        return required(file, kind)

    def required(file: str, kind: type[T]) -> T:
        value = artifacts.read(folder / file, kind)
        envelope = artifacts.read_envelope(folder / file, kind)
        sources.append(Source(file, *(str(envelope[key]) for key in ("payload_sha256", "created_utc",
                                                                     "hwsmpq_version"))))
        return value

    run = Run(
        required("network.json", Network),
        optional("ranges.json", Ranges),
        optional("cost_table.json", CostTable),
        optional("contributions.json", Contributions),
        optional("plan.json", Plan),
        optional("engine/manifest.json", Manifest),
        optional("certificate.json", Certificate),
    )
    timings = tuple(_timings(run))
    audit = _audit(run)
    return View(
        name=clean(folder.resolve().name),
        verdict=judge(run.network, run.plan, run.certificate),
        claim=clean(run.certificate.claim) if run.certificate else "",
        notices=(*missing, *_notices(run)),
        ladder=_ladder(run),
        facts=tuple(_facts(run)),
        budgets=tuple(_budgets(run)),
        tradeoff=_tradeoff(run),
        groups=tuple(_groups(run)),
        value=clean(run.contributions.value) if run.contributions else None,
        base=clean(run.contributions.start) if run.contributions else None,
        timings=timings,
        timing_summaries=tuple(_summaries(timings)),
        rounds=tuple(RoundRow(n, r.predicted_ms, r.measured_ms, r.met)
                     for n, r in enumerate(run.certificate.rounds if run.certificate else (), 1)),
        audit=audit,
        fallbacks=tuple(_fallbacks(run)),
        n_as_requested=sum(row.as_requested for row in audit),
        n_audited=len(audit),
        engines=tuple(replace(e, name=clean(e.name)) for e in run.certificate.engines) if run.certificate else (),
        machine=tuple(_machine(run)),
        settings=tuple(_settings(run)),
        hashes=tuple(_hashes(run)),
        sources=tuple(sources),
    )


def _ladder(run: Run) -> tuple[str, ...]:
    holder = run.plan or run.contributions or run.cost
    return holder.ladder if holder else ()


def _notices(run: Run) -> Iterator[str]:
    """Contradictions between artifacts: the page must not silently mix two runs."""
    others = (run.ranges, run.cost, run.contributions, run.plan, run.certificate)
    if any(other is not None and other.model_sha256 != run.network.model_sha256 for other in others):
        yield "The artifacts of this folder were made from different models: their numbers do not belong together."
    if run.plan and run.manifest and run.plan.assignment != run.manifest.assignment:
        yield "The engine was built from another assignment than the one in plan.json."
    if run.cost and not run.cost.has_latency:
        yield f"The target {clean(run.cost.target)} makes no latency claim: costs are BitOps and size."
    if run.certificate and run.certificate.accuracy.source == "simulator":
        yield "Accuracy comes from the simulator, not from a built engine."
    if run.contributions and run.contributions.start != run.contributions.ladder[0]:
        yield clean(f"{run.contributions.ladder[0]} in every layer destroys the network, so contributions start from "
                    f"{run.contributions.start}; lower precisions were measured for single groups.")


def _facts(run: Run) -> Iterator[Fact]:
    target = next((a.target for a in (run.certificate, run.manifest, run.cost) if a), None)
    if target:
        yield Fact("Target", clean(target))
    network = run.network
    yield Fact("Network", f"{len(network.layers)} layers in {len(network.groups)} groups")
    ladder = _ladder(run)
    if ladder:
        yield Fact("Ladder", " < ".join(ladder))
        yield Fact("Search space", f"{len(ladder)}^{len(network.groups)} = "
                                   f"{network.n_configurations(len(ladder)):.2g} assignments")
    if run.plan:
        gap = "" if run.plan.status == "optimal" else f", gap {run.plan.gap:.2%}"
        yield Fact("Solver", f"{run.plan.status}{gap}, objective {run.plan.objective}")
        if run.plan.stability:
            yield Fact("Stability", f"{run.plan.stability.share:.0%} of {run.plan.stability.n_resamples} resamples of "
                                    "the contributions give the same additive plan")


def _budgets(run: Run) -> Iterator[BudgetRow]:
    if run.certificate:
        for outcome in run.certificate.budgets:
            measured = "not measured" if outcome.measured is None else quantity(outcome.kind, outcome.measured)
            if outcome.kind == "max_drop":
                measured += f" (± {100 * run.certificate.accuracy.paired_stderr:.2f})"
            yield BudgetRow(BUDGET_LABELS[outcome.kind], f"≤\u00a0{quantity(outcome.kind, outcome.limit)}",
                            quantity(outcome.kind, outcome.predicted), measured, outcome.met)
    elif run.plan:
        plan = run.plan
        predicted = {"latency_ms": plan.predicted_latency_ms, "bitops": plan.bitops, "size_mb": plan.size_mb,
                     "max_drop": plan.predicted_drop_points}
        for budget in plan.budgets:
            value = predicted[budget.kind]
            yield BudgetRow(BUDGET_LABELS[budget.kind], f"≤\u00a0{quantity(budget.kind, budget.limit)}",
                            "no prediction" if value is None else quantity(budget.kind, value), "not verified", None)


def _uniform_precision(assignment: Assignment) -> str | None:
    names = set(assignment.values())
    return names.pop() if len(names) == 1 else None


def _tradeoff(run: Run) -> Tradeoff | None:
    if run.plan is None:
        return None
    if run.certificate:
        has_latency = run.certificate.latency_ms is not None
    else:
        has_latency = run.plan.predicted_latency_ms is not None
    limits = {budget.kind: budget.limit for budget in run.plan.budgets}
    points = tuple(_latency_points(run, run.plan) if has_latency else _bitops_points(run.plan))
    if not points:
        return None
    drop = limits.get("max_drop")
    return Tradeoff(has_latency, points, limits.get("latency_ms" if has_latency else "bitops"),
                    -drop if has_latency and drop is not None else None)


def _latency_points(run: Run, plan: Plan) -> Iterator[Point]:
    """Change of the metric in points (up is better) over latency; measured latency where that engine was built."""
    certificate = run.certificate
    latency = certificate.latency_ms if certificate else None
    top = plan.ladder[-1]
    uniform_ms = run.cost.uniform_ms if run.cost else {}
    if latency is not None:
        yield Point("reference", top, latency.reference, 0.0, "measured")
    elif top in uniform_ms:
        yield Point("reference", top, uniform_ms[top].median_ms, 0.0, "measured", uniform_ms[top].spread_ms)
    compared = list(_compared(certificate, plan)) if certificate else []
    yield from compared
    shown = {top, *(point.label for point in compared)}
    for number, candidate in enumerate(_finalists(plan), 1):
        uniform = _uniform_precision(candidate.assignment)
        if uniform in shown:
            continue
        point = _candidate_latency(run, candidate, uniform)
        if point is not None:
            x, source, spread = point
            kind: PointKind = "uniform" if uniform else "candidate"
            yield Point(kind, uniform or f"candidate {number}", x, -candidate.drop_points, source, spread,
                        candidate.drop_stderr_points)
    if certificate and latency is not None:
        accuracy = certificate.accuracy
        yield Point("chosen", "chosen", latency.measured, 100 * (accuracy.engine - accuracy.reference), "measured",
                    latency.spread, 100 * accuracy.paired_stderr)
    elif plan.predicted_latency_ms is not None:
        yield Point("chosen", "chosen", plan.predicted_latency_ms, -plan.predicted_drop_points, "predicted")


def _compared(certificate: Certificate, plan: Plan) -> Iterator[Point]:
    """Other engines of the report part; the reference and the chosen one have points of their own."""
    for engine in certificate.engines:
        name = clean(engine.name).removeprefix("uniform ")
        if engine.latency_ms is not None and name not in (plan.ladder[-1], "reference", "chosen"):
            yield Point("uniform" if name in plan.ladder else "compared", name, engine.latency_ms,
                        100 * (engine.metric - certificate.accuracy.reference), "measured")


def _candidate_latency(
    run: Run, candidate: Candidate, uniform: str | None
) -> tuple[float, Literal["measured", "predicted"], float | None] | None:
    if uniform and run.cost and uniform in run.cost.uniform_ms:
        measurement = run.cost.uniform_ms[uniform]
        return measurement.median_ms, "measured", measurement.spread_ms
    for built in run.certificate.rounds if run.certificate else ():
        if built.assignment == candidate.assignment and built.measured_ms is not None:
            return built.measured_ms, "measured", None
    return None if candidate.latency_ms is None else (candidate.latency_ms, "predicted", None)


def _bitops_points(plan: Plan) -> Iterator[Point]:
    """Value on the search part over BitOps; certificates use other samples, so they have no place here."""
    for number, candidate in enumerate(_finalists(plan), 1):
        uniform = _uniform_precision(candidate.assignment)
        kind: PointKind = "uniform" if uniform else "candidate"
        if uniform == plan.ladder[-1]:
            kind = "reference"
        if candidate.assignment == plan.assignment:
            kind = "chosen"
        yield Point(kind, uniform or f"candidate {number}", candidate.bitops, candidate.value, "counted",
                    None, candidate.stderr)


def _finalists(plan: Plan) -> list[Candidate]:
    """Candidates measured on the largest batch: values on smaller ones are not comparable with theirs."""
    largest = max((c.n_samples for c in plan.candidates), default=0)
    return [c for c in plan.candidates if c.n_samples == largest]


def _groups(run: Run) -> Iterator[GroupRow]:
    contributions = run.contributions
    certainty = run.plan.stability.certainty if run.plan and run.plan.stability else {}
    for group in run.network.groups:
        phi: tuple[tuple[str, float, float | None], ...] = ()
        if contributions and group.name in contributions.phi:
            means, errors = contributions.phi[group.name], contributions.stderr.get(group.name, {})
            phi = tuple((level, means[level], errors.get(level)) for level in contributions.ladder
                        if level in means and level != contributions.start)
        yield GroupRow(
            clean(group.name),
            tuple(map(clean, group.layers)),
            sum(layer.n_macs for layer in run.network.layers_of(group.name)),
            run.plan.assignment.get(group.name) if run.plan else None,
            phi,
            certainty.get(group.name),
        )


def _timings(run: Run) -> Iterator[Timing]:
    cost = run.cost
    if cost and cost.has_latency:
        for name, measured in cost.uniform_ms.items():
            yield Timing("uniform", f"uniform {name}", predict(cost, run.network, run.network.uniform(name)),
                         measured.median_ms, measured.spread_ms)
        # Refitting appends the engines of the rounds to the table; they are shown as rounds below.
        built_after = [r.assignment for r in run.certificate.rounds] if run.certificate else []
        mixtures = [engine for engine in cost.engines if engine.assignment not in built_after]
        for number, engine in enumerate(mixtures, 1):
            measured_ms = corrected_ms(cost, engine)
            drift = measured_ms / engine.measured.median_ms
            yield Timing("mixture", f"mixture {number}", predict(cost, run.network, engine.assignment), measured_ms,
                         engine.measured.spread_ms * drift)
    for number, built in enumerate(run.certificate.rounds if run.certificate else (), 1):
        if built.predicted_ms is not None and built.measured_ms is not None:
            yield Timing("round", f"round {number}", built.predicted_ms, built.measured_ms, None)


def _summaries(timings: tuple[Timing, ...]) -> Iterator[TimingSummary]:
    kinds: tuple[TimingKind, ...] = ("uniform", "mixture", "round")
    for kind in kinds:
        errors = [abs(timing.relative_error) for timing in timings if timing.kind == kind]
        if errors:
            yield TimingSummary(kind, len(errors), median(errors), max(errors))


def _fallbacks(run: Run) -> Iterator[Fallback]:
    for group, found in (run.certificate.fallbacks if run.certificate else {}).items():
        for asked, runs in found.items():
            yield Fallback(clean(group), clean(asked), clean(runs))


def _audit(run: Run) -> tuple[LayerAudit, ...]:
    rows = run.manifest.layers if run.manifest else run.certificate.audit.mismatches if run.certificate else ()
    cleaned = (LayerAudit(clean(row.layer), clean(row.requested), clean(row.realised)) for row in rows)
    return tuple(sorted(cleaned, key=lambda row: row.as_requested))


def _machine(run: Run) -> Iterator[Fact]:
    profiled = run.cost.machine if run.cost else {}
    verified = run.certificate.machine if run.certificate else {}
    for key in dict.fromkeys((*profiled, *verified)):
        before, after = profiled.get(key), verified.get(key)
        if before is not None and after is not None and before != after:
            yield Fact(clean(key), clean(f"profiled: {before}; verified: {after}"))
        else:
            yield Fact(clean(key), clean(str(after if after is not None else before)))


def _settings(run: Run) -> Iterator[Fact]:
    def fact(name: str, value: str | int) -> Fact:
        return Fact(name, clean(value) if isinstance(value, str) else f"{value:,}")

    if run.ranges:
        yield fact("Quantization scheme", run.ranges.scheme)
        yield fact("Range observer", run.ranges.observer)
        yield fact("Calibration samples", run.ranges.n_samples)
    if run.contributions:
        yield fact("Estimator", run.contributions.estimator)
        yield fact("Value function", run.contributions.value)
        yield fact("Evaluations of the value", run.contributions.n_evaluations)
        yield fact("Permutations", run.contributions.n_permutations)
        yield fact("Samples of the fixed batch", run.contributions.n_samples)
        yield fact("Seed of the contributions", str(run.contributions.seed))
    if run.plan:
        yield fact("Candidates evaluated", len(run.plan.candidates))
        yield fact("Candidates on the whole search part", len(_finalists(run.plan)))
        yield Fact("Evaluations of the race", f"{run.plan.n_evaluations:,.0f}")
        yield fact("Seed of the search", str(run.plan.seed))
    if run.certificate:
        yield fact("Samples of the report part", run.certificate.accuracy.n_samples)


def _hashes(run: Run) -> Iterator[Fact]:
    yield Fact("model", run.network.model_sha256)
    if run.ranges:
        yield Fact("calibration data", run.ranges.data_sha256)
    for file, sha256 in sorted(run.manifest.files.items()) if run.manifest else ():
        yield Fact(clean(f"engine/{file}"), sha256)
