"""The built engine measured against the reference, and what is certified of it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.agree import check
from hwsmpq.engine.verify import compare, engine_outputs, mean_loss
from hwsmpq.hardware.cost_model import interval_ms, predict
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.pipeline.prepare.profile import time_engines
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.finetune import builder_of, simulator_of, trained
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.stages import ROWS
from hwsmpq.types import (
    CHOSEN,
    REFERENCE,
    AccuracyOutcome,
    Agreement,
    Assignment,
    Audit,
    Budget,
    BudgetOutcome,
    Certificate,
    CostTable,
    EngineResult,
    Fallbacks,
    LatencyOutcome,
    Manifest,
    Measurement,
    Plan,
    Round,
)

UNTIMED_CLAIM = "accuracy measured on the built engine; latency not measured, as asked"
IMPORTED_CLAIM = "accuracy measured on the built engine; latency predicted from a profile of another machine"


@holding
def verify(run: Run) -> Certificate:
    """Measure the built engine against the reference and write the certificate."""
    return certify(run, lambda: _verify(run, rounds_of(run, run.read(Plan).budgets)))


def certify(run: Run, make: Callable[[], Certificate]) -> Certificate:
    """Build the plan's engine and write the certificate that ``make`` gives for it, unless it has one."""
    build(run)
    # A refitted table that gives the same plan again is a new round: the plan is measured anew, not read back.
    return run.stage(Certificate, make, _unused(run))


def _unused(run: Run) -> tuple[type, ...]:
    """What a certificate does without where nothing is timed."""
    return () if run.measures_latency else (CostTable,)


def rounds_of(run: Run, budgets: tuple[Budget, ...]) -> tuple[Round, ...]:
    """Rounds of the last certificate for the same budgets that the cost table was refitted with, if it was measured
    on the same machine and judged alike."""
    if not run.measures_latency or not run.artifacts.has(Certificate):
        return ()
    recorded, of_a_round = run.artifacts.made_from(Certificate), {Manifest, Plan, Fallbacks, CostTable}
    now = run.inputs(Certificate, of_a_round)
    if any(recorded.get(name) != now[name] for name in now.keys() - {ROWS[kind].schema for kind in of_a_round}):
        return ()
    certificate = run.read(Certificate)
    if {(b.kind, b.limit) for b in certificate.budgets} != {(b.kind, b.limit) for b in budgets}:
        return ()
    known = [engine.assignment for engine in run.read(CostTable).engines]
    return tuple(r for r in certificate.rounds if r.assignment in known)


def _verify(run: Run, rounds: tuple[Round, ...]) -> Certificate:
    plan, manifest, report_part = run.read(Plan), run.read(Manifest), run.parts[1]
    uniform = dict.fromkeys((*run.ladder.names, REFERENCE))
    assignments = {name: run.network.uniform(name) for name in uniform} | {CHOSEN: plan.assignment}
    latency: LatencyOutcome | None = None
    times: dict[str, Measurement] = {}
    conditions: dict[str, str] = {}
    engines = _engines(run, assignments) if run.target.has_latency else {}
    if run.measures_latency:
        table = run.read(CostTable)
        times = time_engines(run, engines, "verify")
        conditions = run.target.conditions()
        latency = LatencyOutcome(
            reference=times[run.ladder.top].median_ms,
            predicted=predict(table, run.network, plan.assignment),
            measured=times[CHOSEN].median_ms,
            spread=times[CHOSEN].spread_ms,
            interval=interval_ms(table, run.network, plan.assignment),
        )
    outputs = {
        name: engine_outputs(
            engine, report_part.inputs, run.settings.batch,
            lambda done, n, name=name: run.progress(f"verify: {name}", done, n),
        )
        for name, engine in engines.items()
    } or _simulated(run, assignments, plan)
    network = _network(run) if engines else outputs[REFERENCE]
    accuracy = compare(
        run.judge, report_part, network, outputs[CHOSEN],
        "engine" if run.target.has_latency else "simulator", run.settings.drop_confidence,
    )
    by_bound = run.settings.confidence is not None
    outcomes = tuple(_outcome(budget, plan, latency, accuracy, by_bound) for budget in plan.budgets)
    this_round = Round(
        plan.assignment, latency.predicted if latency else None, latency.measured if latency else None,
        all(outcome.met for outcome in outcomes),
    )
    results = []
    for name, out in outputs.items():
        bitops, size_mb = counted_costs(run.network, assignments[name])
        judged = compare(run.judge, report_part, network, out, accuracy.source, run.settings.drop_confidence)
        results.append(
            EngineResult(
                name=name, latency_ms=times[name].median_ms if name in times else None, metric=judged.engine,
                loss=mean_loss(run.judge, report_part, out), kl=judged.kl,
                bitops=bitops, size_mb=size_mb, drop_bound=judged.drop_bound,
            )
        )
    return Certificate(
        target=run.target.name,
        machine=run.target.machine(),
        model_sha256=run.network.model_sha256,
        claim=_claim(run, plan),
        budgets=outcomes,
        latency_ms=latency,
        accuracy=accuracy,
        audit=Audit.of(manifest.layers),
        rounds=(*rounds, this_round),
        engines=tuple(results),
        n_loads=times[CHOSEN].n_repeats if times else 0,
        fallbacks=run.read(Fallbacks).found,
        conditions=conditions,
        agreement=_agreements(run, plan, network, outputs) if engines else {},
        coverage=run.network.coverage,
    )


def _network(run: Run) -> Tensor:
    """Outputs of the network itself on the report part, for which no engine of it stands in."""
    return run.simulator.scores(
        [run.network.uniform(REFERENCE)], run.parts[1].inputs, lambda out, rows: out,
        lambda done, n: run.progress("verify: network", done, n),
    )[0]


def _agreements(run: Run, plan: Plan, network: Tensor, outputs: dict[str, Tensor]) -> dict[str, Agreement]:
    """Whether the fp32 engine reproduces the network, and the plan's engine what was simulated."""
    inputs, reference = run.parts[1].inputs, run.network.uniform(REFERENCE)
    found = {
        REFERENCE: check(run.builder, run.simulator, reference, inputs, outputs[REFERENCE], network),
        CHOSEN: check(builder_of(run, plan), simulator_of(run, plan), plan.assignment, inputs, outputs[CHOSEN]),
    }
    for name, one in found.items():
        if not one.agrees:
            run.notify(f"the {name} engine does not compute what was simulated: {one.said}")
    return found


def _claim(run: Run, plan: Plan) -> str:
    """What the certificate rests on, and whether its accuracy is that of retrained weights."""
    claim = run.target.claim
    if run.target.has_latency and not run.measures_latency:
        claim = UNTIMED_CLAIM if run.settings.cost == "bitops" else IMPORTED_CLAIM
    result = trained(run, plan)
    return claim if result is None else f"{claim}; retrained for {result.recipe.n_epochs} epochs on {result.data}"


def _engines(run: Run, assignments: dict[str, Assignment]) -> dict[str, Engine]:
    builder = run.builder
    uniform = {name: builder.engine(assignment) for name, assignment in assignments.items() if name != CHOSEN}
    return uniform | {CHOSEN: run.target.load(run.path(Manifest).parent)}


def _simulated(run: Run, assignments: dict[str, Assignment], plan: Plan) -> dict[str, Tensor]:
    """Outputs on the report part: uniform networks as they came, the plan with trained weights if there are any."""

    def outputs(simulator: Simulator, stage: str, part: dict[str, Assignment]) -> dict[str, Tensor]:
        rows = simulator.scores(
            list(part.values()), run.parts[1].inputs, lambda out, rows: out,
            lambda done, n: run.progress(f"verify: {stage}", done, n),
        )
        return dict(zip(part, rows, strict=True))

    uniform = {name: assignment for name, assignment in assignments.items() if name != CHOSEN}
    return outputs(run.simulator, "uniform", uniform) | outputs(
        simulator_of(run, plan), CHOSEN, {CHOSEN: assignments[CHOSEN]}
    )


def _outcome(
    budget: Budget, plan: Plan, latency: LatencyOutcome | None, accuracy: AccuracyOutcome, by_bound: bool
) -> BudgetOutcome:
    """Predicted and measured value of one budget; BitOps and size are counted, so both are the same number. A latency
    that was predicted from a profile taken elsewhere is not measured here. The bound of a drop decides where
    ``by_bound``. A latency under a speedup is stated as if the reference took what it took when the limit was set."""
    if budget.kind == "max_drop":
        drop, bound = 100 * (accuracy.reference - accuracy.engine), accuracy.drop_bound
        met = budget.met(bound.points if bound and by_bound else drop)
        return BudgetOutcome("max_drop", budget.limit, plan.predicted_drop_points, drop, met, bound, by_bound)
    measured: float | None
    if budget.kind == "latency_ms":
        assert plan.predicted_latency_ms is not None
        predicted = latency.predicted if latency else plan.predicted_latency_ms
        measured = latency.measured if latency else None
        if latency and budget.speedup is not None:
            # Engine and reference were timed in turns just now: their ratio is what was asked for.
            measured = latency.measured * budget.speedup * budget.limit / latency.reference
    else:
        predicted = measured = plan.bitops if budget.kind == "bitops" else plan.size_mb
    return BudgetOutcome(budget.kind, budget.limit, predicted, measured, budget.met(measured))
