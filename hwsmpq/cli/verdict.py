"""The verdict of a run on the terminal: the sentence of the report, and its numbers in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.markup import escape

from hwsmpq.cli.display import console, show_held, show_mismatches, table
from hwsmpq.folder import Folder
from hwsmpq.report.formats import BUDGET_LABELS, bounded, covered, metric, quantity, rate, significant, stated
from hwsmpq.report.verdict import judge
from hwsmpq.types import CHOSEN, REFERENCE, Budget, BudgetKind, BudgetOutcome, Certificate, Network, Plan


def show_verdict(certificate: Certificate, folder: Path) -> None:
    """Print the certificate of a run folder."""
    run = Folder(folder)
    plan = run.read(Plan)
    verdict = judge(run.read(Network), plan, certificate)
    rows = table("", REFERENCE, "predicted", "engine", "budget", "", title=escape(certificate.claim))
    for row in _rows(certificate, {budget.kind: budget for budget in plan.budgets}):
        rows.add_row(*map(escape, row))
    console.print(rows)
    for group, found in certificate.fallbacks.items():
        for asked, realised in found.items():
            console.print(f"  {escape(group)} has no {asked} in this engine: taken as {realised}", soft_wrap=True)
    show_held(certificate.held)
    show_mismatches(certificate.audit.mismatches)
    for layer, share in certificate.audit.not_audited.items():
        console.print(f"  {escape(layer)}: not audited ({share:.1%} of the MACs)", soft_wrap=True)
    if certificate.coverage:
        console.print(covered(certificate.coverage), markup=False, highlight=False, soft_wrap=True)
    console.print(f"[bold]{verdict.badge}:[/] {escape(verdict.text)}", highlight=False, soft_wrap=True)
    for sentence in verdict.advice:
        console.print(escape(sentence), highlight=False, soft_wrap=True)


def _rows(certificate: Certificate, asked: Mapping[BudgetKind, Budget]) -> Iterator[tuple[str, ...]]:
    """(what, of the reference, predicted, of the engine, limit, outcome), for what is budgeted or measured."""
    latency, accuracy = certificate.latency_ms, certificate.accuracy
    outcomes = {outcome.kind: outcome for outcome in certificate.budgets}
    reference = next((engine for engine in certificate.engines if engine.name == REFERENCE), None)
    top: dict[BudgetKind, str] = {"max_drop": metric(accuracy, accuracy.reference)}
    lost = 100 * (accuracy.reference - accuracy.engine)
    measured: dict[BudgetKind, str] = {
        "max_drop": f"{metric(accuracy, accuracy.engine)}, {'lost' if lost > -0.005 else 'gained'} {abs(lost):.2f}"
        f" +- {100 * accuracy.paired_stderr:.2f}"
        + (f", {bounded(accuracy.drop_bound)}" if accuracy.drop_bound else "")
    }
    predicted: dict[BudgetKind, str] = {}
    if reference:
        top |= {"bitops": quantity("bitops", reference.bitops), "size_mb": quantity("size_mb", reference.size_mb)}
        if reference.peak_mb is not None:
            top["peak_mb"] = quantity("peak_mb", reference.peak_mb)
        if reference.latency_ms is not None:
            top["latency_ms"] = quantity("latency_ms", reference.latency_ms)
    if latency:
        limit, outcome = asked.get("latency_ms"), outcomes.get("latency_ms")
        found = f"{quantity('latency_ms', latency.measured)} +- {significant(latency.spread)}"
        expected = quantity("latency_ms", latency.predicted) + (
            f" ({significant(latency.interval[0])} to {significant(latency.interval[1])})" if latency.interval else ""
        )
        if limit and limit.speedup is not None and outcome and outcome.measured is not None:
            found += f", {stated(limit, outcome.measured)}"
            expected += f", {stated(limit, latency.predicted)}"
        if latency.streams > 1 or (limit and limit.throughput is not None):
            found += f", {rate(latency.measured)}"
            expected += f", {rate(latency.predicted)}"
        measured["latency_ms"], predicted["latency_ms"] = found, expected
    chosen = next((engine for engine in certificate.engines if engine.name == CHOSEN), None)
    if chosen and chosen.peak_mb is not None:
        measured["peak_mb"] = quantity("peak_mb", chosen.peak_mb)
    for kind, label in BUDGET_LABELS.items():
        outcome = outcomes.get(kind)
        if outcome is None and kind not in measured:
            continue
        found = "not here" if outcome is None or outcome.measured is None else quantity(kind, outcome.measured)
        yield (
            label,
            top.get(kind, ""),
            predicted.get(kind) or (quantity(kind, outcome.predicted) if outcome else ""),
            measured.get(kind) or found,
            _limit(asked.get(kind), outcome) if outcome else "none",
            "" if outcome is None else "met" if outcome.met else "MISSED",
        )
    default = certificate.runtime_default
    if default:
        yield (
            "Runtime by itself", f"{quantity('latency_ms', default.latency_ms)} in {default.precision}", "",
            f"{quantity('latency_ms', default.plain_ms)}, outputs change by {default.plain_error:.1e}", "", "",
        )
    if certificate.agreement:
        engine, chosen = certificate.agreement[REFERENCE], certificate.agreement[CHOSEN]
        limit, agrees = f"at most {chosen.allowed:.1e}", "met" if chosen.agrees else "MISSED"
        yield "Outputs against simulation", f"{engine.error:.1e}", "", f"{chosen.error:.1e}", limit, agrees
    audit = certificate.audit
    yield "Layers as requested", "", str(audit.n_layers), str(audit.n_as_requested), "", ""


def _limit(budget: Budget | None, outcome: BudgetOutcome) -> str:
    if budget is not None and (budget.speedup or budget.throughput):
        return f"at least {stated(budget, budget.limit)}"
    return f"at most {quantity(outcome.kind, outcome.limit)}{', by the bound' * outcome.by_bound}"
