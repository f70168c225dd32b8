"""The one line at the top of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hwsmpq.report.advice import advise
from hwsmpq.report.formats import BUDGET_LABELS, bounded, metric, milliseconds, rate, significant
from hwsmpq.types import CHOSEN, PRECISIONS, AccuracyOutcome, Certificate, LatencyOutcome, Network, Plan, RuntimeDefault


@dataclass(frozen=True)
class Verdict:
    """``state`` is verified (all budgets met, audit clean), missed, or pending (nothing measured). ``advice`` are
    sentences that follow."""

    state: Literal["verified", "missed", "pending"]
    badge: str
    text: str
    advice: tuple[str, ...] = ()


def judge(network: Network, plan: Plan | None, certificate: Certificate | None) -> Verdict:
    """Say in one sentence what the run achieved, from measurements where there are any."""
    if plan is None:
        return Verdict("pending", "No plan yet", "No assignment has been chosen in this folder yet.")
    if certificate is None:
        return Verdict("pending", "Not verified", _prediction(network, plan))
    reference = plan.ladder[-1]
    if certificate.latency_ms is not None:
        parts = [_speed(certificate.latency_ms, reference), *_throughput(certificate.latency_ms)]
        if certificate.runtime_default is not None:
            parts.append(_against_default(certificate.latency_ms, certificate.runtime_default))
    else:
        ratio = _bitops_ratio(network, plan)
        parts = [f"{ratio[0].upper()}{ratio[1:]} (no latency claim)"]
    parts += [_accuracy(certificate.accuracy), _audit(certificate), _budgets(plan, certificate)]
    if certificate.verified:
        badge = "Verified in simulation" if certificate.accuracy.source == "simulator" else "Verified"
        return Verdict("verified", badge, ", ".join(parts), advise(plan, certificate))
    if not certificate.agrees:
        found = certificate.agreement.get(CHOSEN)
        parts.append(found.said if found else "the engine was not compared with the simulation")
        return Verdict("missed", "Wrong results" if found else "Not verified", ", ".join(parts))
    missed = any(not budget.met for budget in certificate.budgets)
    return Verdict("missed", "Budget missed" if missed else "Precision mismatch", ", ".join(parts),
                   advise(plan, certificate))


def _prediction(network: Network, plan: Plan) -> str:
    cost = _bitops_ratio(network, plan)
    if plan.predicted_latency_ms is not None:
        cost = f"{milliseconds(plan.predicted_latency_ms)}, {cost}"
    lost = f"{abs(plan.predicted_drop_points):.1f} points {'lost' if plan.predicted_drop_points >= 0 else 'gained'}"
    return f"Predicted only, not verified: {cost}, {lost}"


def _speed(latency: LatencyOutcome, reference: str) -> str:
    if abs(latency.reference - latency.measured) <= latency.spread:
        return f"No faster than {reference} within the timing spread{at_shapes(latency)}"
    if latency.measured < latency.reference:
        return f"{latency.reference / latency.measured:.2f}x faster than {reference}{at_shapes(latency)}"
    return f"{latency.measured / latency.reference:.2f}x slower than {reference}{at_shapes(latency)}"


def at_shapes(latency: LatencyOutcome) -> str:
    """The shapes of inputs that engines were timed at, where there are several."""
    if len(latency.shapes) < 2:
        return "".join(f" at {one.shape}" for one in latency.shapes)
    return " in the mean over " + ", ".join(f"{one.shape} ({one.share:.0%})" for one in latency.shapes)


def _throughput(latency: LatencyOutcome) -> Iterator[str]:
    """Of inferences side by side; each lasts as many times longer as there are streams (Little 1961)."""
    if latency.streams > 1:
        each = milliseconds(latency.streams * latency.measured)
        yield f"{rate(latency.measured)} with {latency.streams} streams, each inference lasting {each}"


def _against_default(latency: LatencyOutcome, default: RuntimeDefault) -> str:
    """The runtime computes the fp32 file in another precision by itself, which is what a user had before."""
    name = f"your runtime's default ({default.precision}, {milliseconds(default.latency_ms)})"
    if abs(default.latency_ms - latency.measured) <= latency.spread + default.spread_ms:
        return f"as fast as {name} within the timing spread"
    if latency.measured < default.latency_ms:
        return f"{default.latency_ms / latency.measured:.2f}x faster than {name}"
    return f"slower than {name}"


def _bitops_ratio(network: Network, plan: Plan) -> str:
    reference = PRECISIONS[plan.ladder[-1]]
    total = sum(network.bitops(group, reference) for group in network.group_names)
    ratio = f"{total / plan.bitops:.1f}"
    return f"as many BitOps as {reference.name}" if ratio == "1.0" else f"{ratio}x fewer BitOps than {reference.name}"


def _accuracy(accuracy: AccuracyOutcome) -> str:
    lost = 100 * (accuracy.reference - accuracy.engine)
    word = "lost" if lost > -0.05 else "gained"
    simulated = " (simulated)" if accuracy.source == "simulator" else ""
    points = f"{abs(lost):.1f} ± {100 * accuracy.paired_stderr:.1f} points {word}"
    if accuracy.is_error:  # in its own unit, of which points may be coarse
        points = f"{metric(accuracy, accuracy.engine)} against {significant(-accuracy.reference)}, {points}"
    bound = f" ({bounded(accuracy.drop_bound)})" if accuracy.drop_bound else ""
    resampled = f", by {accuracy.n_resamples} resamples" if accuracy.n_resamples else ""
    return f"{points}{bound} on {accuracy.n_samples} unseen samples{resampled}{simulated}"


def _audit(certificate: Certificate) -> str:
    audit = certificate.audit
    if audit.n_layers == 0:
        return "no layer audited"
    if audit.n_as_requested == audit.n_layers and not audit.mismatches:
        return f"all {audit.n_layers} layers run as requested"
    said = f"only {audit.n_as_requested} of {audit.n_layers} layers run as requested"
    if not audit.not_audited:
        return said
    return f"{said} ({len(audit.not_audited)} not audited, {sum(audit.not_audited.values()):.1%} of the MACs)"


def _budgets(plan: Plan, certificate: Certificate) -> str:
    if not certificate.budgets:
        return "no budget set"
    rates = {budget.kind: budget.asked[0].removeprefix("--") for budget in plan.budgets if budget.is_rate}
    missed = [
        rates.get(budget.kind, BUDGET_LABELS[budget.kind].lower()) for budget in certificate.budgets if not budget.met
    ]
    if not missed:
        return "every budget met"
    return f"{len(missed)} of {len(certificate.budgets)} budgets missed ({', '.join(missed)})"
