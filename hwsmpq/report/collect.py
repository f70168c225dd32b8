"""From the artifacts of a run folder to what the page shows: plain, frozen, no drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hwsmpq.hardware.cost_model import CostModel
from hwsmpq.report import provenance
from hwsmpq.report.folder import Artifacts, read_folder
from hwsmpq.report.formats import BUDGET_LABELS, bounded, clean, count, covered, held, limit, milliseconds, stated
from hwsmpq.report.timings import summaries, timings
from hwsmpq.report.tradeoff import tradeoff
from hwsmpq.report.verdict import judge
from hwsmpq.report.view import BudgetRow, Fact, Fallback, GroupRow, RoundRow, View
from hwsmpq.types import Budget, LayerAudit


def collect(folder: Path) -> View:
    """Read a run folder.

    Raises:
        HwsmpqError: network.json is missing, or any artifact is damaged.
    """
    run = read_folder(folder)
    timed = tuple(timings(run))
    audit = _audit(run)
    certificate = run.certificate
    return View(
        name=clean(folder.resolve().name),
        verdict=judge(run.network, run.plan, certificate),
        claim=clean(certificate.claim) if certificate else "",
        notices=(*run.missing, *_notices(run)),
        ladder=run.ladder,
        facts=tuple(_facts(run)),
        budgets=tuple(_budgets(run)),
        tradeoff=tradeoff(run),
        groups=tuple(_groups(run)),
        value=clean(run.contributions.value) if run.contributions else None,
        drawn=run.contributions.drawn if run.contributions else None,
        base=clean(run.contributions.start) if run.contributions else None,
        is_cheapest=run.plan is not None and not run.needs_contributions,
        timings=timed,
        timing_summaries=tuple(summaries(timed)),
        rounds=tuple(RoundRow(n, r.predicted_ms, r.measured_ms, r.met)
                     for n, r in enumerate(certificate.rounds if certificate else (), 1)),
        audit=audit,
        fallbacks=tuple(_fallbacks(run)),
        agreement=certificate.agreement if certificate else {},
        n_as_requested=sum(row.as_requested for row in audit),
        n_unseen=sum(row.is_unseen for row in audit),
        n_audited=len(audit),
        engines=tuple(replace(e, name=clean(e.name)) for e in certificate.engines) if certificate else (),
        machine=tuple(provenance.machine(run)),
        settings=tuple(provenance.methods(run)),
        times=tuple(provenance.times(run)),
        hashes=tuple(provenance.hashes(run)),
        sources=run.sources,
        network=run.network,
        group_ms=_group_ms(run.model) if run.model else {},
        interactions=run.interactions,
        stability=run.plan.stability if run.plan else None,
        command=_command(run),
    )


def _command(run: Artifacts) -> str | None:
    """None where the folder was made in Python with a task as an object, which no command line names."""
    if run.settings is None or not run.settings.task:
        return None
    return clean(provenance.command(run.settings, run.plan.budgets if run.plan else ()))


def _notices(run: Artifacts) -> Iterator[str]:
    """Contradictions between artifacts: the page must not silently mix two runs."""
    others = (run.ranges, run.cost, run.contributions, run.interactions, run.plan, run.front, run.certificate)
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
                    f"{run.contributions.start}. Lower precisions were measured for single groups.")


def _facts(run: Artifacts) -> Iterator[Fact]:
    target = next((a.target for a in (run.certificate, run.manifest, run.cost) if a), None)
    if target:
        yield Fact("Target", clean(target))
    network = run.network
    yield Fact("Network", f"{len(network.layers)} layers in {len(network.groups)} groups")
    if network.coverage:
        yield Fact("Weights", clean(covered(network.coverage)))
    ladder = run.ladder
    if ladder:
        yield Fact("Ladder", " < ".join(ladder))
        yield Fact("Search space", f"{len(ladder)}^{len(network.groups) - len(network.excluded)} = "
                                   f"{count(network.n_configurations(len(ladder)))} assignments")
    if run.plan:
        gap = "" if run.plan.status == "optimal" else f", gap {run.plan.gap:.2%}"
        sought = {"value": "most accurate", "latency": "cheapest"}[run.plan.objective]
        yield Fact("Solver", f"{run.plan.status}{gap}; sought was the {sought} plan")
    for line in held(run.plan.held if run.plan else ()):
        yield Fact("Held", clean(line))
    latency = run.certificate.latency_ms if run.certificate else None
    if latency and latency.interval:
        low, high = map(milliseconds, latency.interval)
        yield Fact("Latency expected", f"{low} to {high} with 90 % confidence")
    for one in latency.shapes if latency else ():
        measured, reference = map(milliseconds, (one.measured, one.reference))
        yield Fact(f"Latency at {one.shape}", f"{measured}, and {reference} of the reference; {one.share:.0%} of it")


def _budgets(run: Artifacts) -> Iterator[BudgetRow]:
    if run.certificate:
        asked = {budget.kind: budget for budget in run.plan.budgets} if run.plan else {}
        for outcome in run.certificate.budgets:
            budget = asked.get(outcome.kind, Budget(outcome.kind, outcome.limit))
            measured = "not measured" if outcome.measured is None else stated(budget, outcome.measured)
            if outcome.kind == "max_drop":
                said = (f"± {100 * run.certificate.accuracy.paired_stderr:.2f}", bounded(outcome.bound))
                measured += f" ({', '.join(filter(None, said))})"
            by = ", by the bound" if outcome.by_bound else ""
            yield BudgetRow(BUDGET_LABELS[outcome.kind], f"{limit(budget)}{by}",
                            stated(budget, outcome.predicted), measured, outcome.met)
    elif run.plan:
        plan = run.plan
        values = {"latency_ms": plan.predicted_latency_ms, "bitops": plan.bitops, "size_mb": plan.size_mb,
                  "peak_mb": plan.predicted_peak_mb,
                  "max_drop": plan.predicted_drop_points}
        for budget in plan.budgets:
            value = values[budget.kind]
            predicted = "no prediction" if value is None else stated(budget, value)
            if budget.kind == "max_drop" and plan.drop_bound:
                predicted += f" ({bounded(plan.drop_bound)})"
            yield BudgetRow(BUDGET_LABELS[budget.kind], limit(budget), predicted, "not verified", None)


def _group_ms(model: CostModel) -> dict[str, dict[str, float]]:
    """What groups take of an engine's latency. A runtime's counters may add up to more: counting takes time."""
    return {group: {name: model.scale * ms for name, ms in row.items()} for group, row in model.group_ms.items()}


def _groups(run: Artifacts) -> Iterator[GroupRow]:
    contributions = run.contributions
    certainty = run.plan.stability.certainty if run.plan and run.plan.stability else {}
    for group in run.network.groups:
        phi: dict[str, tuple[float, float | None]] = {}
        if contributions and group.name in contributions.phi:
            means, errors = contributions.phi[group.name], contributions.stderr.get(group.name, {})
            phi = {level: (means[level], errors.get(level)) for level in contributions.ladder
                   if level in means and level != contributions.start}
        yield GroupRow(
            clean(group.name),
            tuple(map(clean, group.layers)),
            sum(layer.n_macs for layer in run.network.layers_of(group.name)),
            run.plan.assignment.get(group.name) if run.plan else None,
            phi,
            certainty.get(group.name),
        )


def _fallbacks(run: Artifacts) -> Iterator[Fallback]:
    for group, found in (run.certificate.fallbacks if run.certificate else {}).items():
        for asked, runs in found.items():
            yield Fallback(clean(group), clean(asked), clean(runs))


def _audit(run: Artifacts) -> tuple[LayerAudit, ...]:
    rows = run.manifest.layers if run.manifest else run.certificate.audit.mismatches if run.certificate else ()
    cleaned = (
        LayerAudit(clean(row.layer), clean(row.requested), clean(row.realised), clean(row.differs)) for row in rows
    )
    return tuple(sorted(cleaned, key=lambda row: (row.as_requested, row.is_unseen)))
