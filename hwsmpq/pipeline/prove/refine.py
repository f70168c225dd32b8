"""The loop that solves again while a budget is missed."""

from __future__ import annotations

from collections.abc import Sequence

from hwsmpq.errors import InfeasibleError
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.division import divided, foresee, is_sure_to_evaluate
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.profile import rounds
from hwsmpq.pipeline.prepare.survey import prepare, record
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.reconstruct import has_rounding, reconstruct
from hwsmpq.pipeline.prove.verify import certify, verify
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import Budget, Certificate, Manifest, Plan, Realised, Rounds

MAX_ROUNDS = 4
USABLE_SLACK = 0.03
"""Share of a latency budget: what is left below it is not worth another build."""


@holding
def refine(run: Run, budgets: tuple[Budget, ...]) -> Certificate:
    """Search, build and verify. While the engine runs a layer otherwise than planned, take it so and solve again; while
    a latency or memory budget is missed, more than ``USABLE_SLACK`` of a latency is left, or an engine that is to be
    fast is slower than what needs no search, what was measured becomes evidence for the cost model, and solve again.

    Every search chooses among what is predicted to keep the budgets and what was measured to keep them, so that a
    later round replaces an engine only by a plan of higher value on the search part. What was measured above a latency
    budget is not chosen again. The last of the rounds takes the fastest assignment that keeps the other budgets, or the
    best that was measured to keep all: its certificate either meets the latency budget or shows that what is reachable
    does not. Where the fastest is sought it is the fastest of those measured, uniform engines among them. No round
    begins after a budget of time. The last certificate is returned whether or not it meets every budget.
    """
    n_corrections, run = 0, divided(run)
    holds_drop = any(budget.kind == "max_drop" for budget in budgets)
    foresee(run, whole=True, evaluates=is_sure_to_evaluate(run, holds_drop))
    while True:
        measured = rounds(run)
        earlier = measured.of(budgets)
        try:
            plan = search(
                run, budgets, n_margins([r.kept("latency_ms") for r in earlier]),
                fastest=len(earlier) + 1 >= MAX_ROUNDS, met=[r.assignment for r in earlier if r.met],
            )
        except InfeasibleError:
            if not earlier:
                raise
            # What was measured says that no plan can keep the budgets: the last engine and its certificate stand.
            return certify(run, lambda: run.read(Certificate))
        if run.settings.reconstruct and has_rounding(prepare(run).network.realise(plan.assignment)):
            reconstruct(run)
        if n_corrections < MAX_ROUNDS and _shows_something_new(prepare(run), build(run)):
            n_corrections += 1
            continue
        if earlier and earlier[-1].met and earlier[-1].assignment == plan.assignment:
            return certify(run, lambda: run.read(Certificate))
        certificate = verify(run)
        last = certificate.rounds[-1]
        # After a budget that is met one round is kept, to come back to it; the fastest measured needs none.
        comes_back = last.met and not (plan.objective == "latency" and _is_behind(certificate, plan))
        if len(certificate.rounds) >= MAX_ROUNDS - comes_back or not worth_another(certificate, plan):
            return certificate
        if run.seconds_left <= 0:
            run.notify("the time (--minutes) is over: the best plan so far stands")
            return certificate
        if last.met and last.assignment == run.network.uniform(run.ladder.top):
            return certificate
        run.artifacts.write(Rounds((*measured.rounds, last)), run.artifacts.made_from(Rounds))


def n_margins(met: Sequence[bool]) -> float:
    """Errors of the cost model that the next plan is to be predicted below a latency budget, after rounds that met it
    or missed it: one more than what missed it, or half way to what met it."""
    at = met_at = 0.0
    missed_at: float | None = None
    for one in met:
        if one:
            met_at = at
        else:
            missed_at = at
        if missed_at is not None:
            at = (missed_at + met_at) / 2 if met_at > missed_at else missed_at + 1
    return at


def worth_another(certificate: Certificate, plan: Plan) -> bool:
    """Whether a measured latency or memory lies above its budget, or a latency so far below that a more accurate plan
    may fit; or whether the engine is slower than what needs no search."""
    found = {one.kind: one for one in certificate.budgets if one.measured is not None}
    if any(kind in found and not found[kind].met for kind in ("latency_ms", "peak_mb")):
        return True
    if _is_behind(certificate, plan):
        return True
    latency = found.get("latency_ms")
    if latency is None or latency.measured is None:
        return False
    limit, default = latency.limit, certificate.runtime_default
    if default and plan.speedup is not None:
        limit = min(limit, default.latency_ms)
    return certificate.verified and latency.measured < (1 - USABLE_SLACK) * limit


def _is_behind(certificate: Certificate, plan: Plan) -> bool:
    """Whether an engine that is to be fast is surely slower than the runtime's default, or one that is to be the
    fastest than a uniform engine that keeps the budgets."""
    latency, default = certificate.latency_ms, certificate.runtime_default
    if latency is None or (plan.objective == "value" and plan.speedup is None):
        return False
    least = latency.measured - latency.spread
    if default and default.latency_ms + default.spread_ms < least:
        return True
    uniform = [one for one in certificate.engines if one.name in plan.ladder and certificate.keeps(one)]
    return plan.objective == "latency" and any(one.latency_ms is not None and one.latency_ms < least for one in uniform)


def _shows_something_new(prepared: Prepared, manifest: Manifest) -> bool:
    """Record what the built engine runs otherwise than planned; whether anything was new."""
    return record(prepared, Realised(manifest.assignment, {audit.layer: audit.realised for audit in manifest.layers}))
