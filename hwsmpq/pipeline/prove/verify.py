"""The built engine measured against the reference, and what is certified of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.agree import check
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.model.agreement import relative_error
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.profile import cost_model, loads_of, rounds, time_shapes, timing_inputs
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.judged import Judged, judged, sampled
from hwsmpq.pipeline.prove.weights import builder_of, learned, simulator_of
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import (
    BY_ITSELF,
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
    LatencyOutcome,
    Manifest,
    Measurement,
    Plan,
    Reconstructed,
    Round,
    Rounds,
    RuntimeDefault,
    ShapeLatency,
    Survey,
    Trained,
)

PLAIN = "plain"
"""Name of the plan's engine without settings while engines are timed."""
UNTIMED_CLAIM = "accuracy measured on the built engine; latency not measured, as asked"
IMPORTED_CLAIM = "accuracy measured on the built engine; latency predicted from a profile of another machine"


@holding
def verify(run: Run) -> Certificate:
    """Measure the built engine against the reference and write the certificate."""
    return certify(run, lambda: _verify(prepare(run)))


def certify(run: Run, make: Callable[[], Certificate]) -> Certificate:
    """Build the plan's engine and write the certificate that ``make`` gives for it, unless it has one."""
    build(run)
    # New evidence that gives the same plan again is a new round: the plan is measured anew, not read back.
    return run.stage(Certificate, make, () if run.measures_latency else (CostTable, Rounds))


def _verify(prepared: Prepared) -> Certificate:
    run = prepared.run
    plan, manifest = run.read(Plan), run.read(Manifest)
    uniform = dict.fromkeys((*run.ladder.names, REFERENCE))
    assignments = {name: prepared.network.uniform(name) for name in uniform} | {CHOSEN: plan.assignment}
    latency: LatencyOutcome | None = None
    memory: dict[str, float] = {}
    times: dict[str, Measurement] = {}
    conditions: dict[str, str] = {}
    engines = _engines(prepared, assignments) if run.target.has_latency else {}
    by_itself = _by_itself(prepared) if run.measures_latency else {}
    untouched = {name: engine for name, engine in by_itself.items() if name == BY_ITSELF}
    # Before they are timed, for which they are loaded anew: what is judged is what lies in the folder.
    found, network = judged(prepared, plan, assignments, engines | untouched)
    plain_outputs = engine_outputs(by_itself[PLAIN], _some(prepared), run.settings.batch) if by_itself else None
    if run.measures_latency:
        model = cost_model(prepared)
        assert model is not None
        times, of_shapes = time_shapes(run, engines | by_itself, "verify")
        conditions = run.target.conditions()
        latency = LatencyOutcome(
            reference=times[run.ladder.top].median_ms,
            predicted=model.predict(plan.assignment),
            measured=times[CHOSEN].median_ms,
            spread=times[CHOSEN].spread_ms,
            interval=model.interval_ms(plan.assignment),
            streams=run.settings.streams,
            shapes=tuple(
                ShapeLatency(
                    load.shape, load.share, of_shapes[load.shape].measured[run.ladder.top].median_ms,
                    of_shapes[load.shape].measured[CHOSEN].median_ms,
                )
                for load in loads_of(run) if of_shapes
            ),
        )
        memory = _memory(run, engines | by_itself)
    runtime_default = None if plain_outputs is None else _runtime_default(run, plain_outputs, times, found[CHOSEN])
    accuracy = found[CHOSEN].accuracy
    by_bound = run.settings.confidence is not None
    outcomes = tuple(_outcome(b, plan, latency, memory.get(CHOSEN), accuracy, by_bound) for b in plan.budgets)
    this_round = Round(
        plan.budgets, plan.assignment, latency.predicted if latency else None, times.get(CHOSEN),
        all(outcome.met for outcome in outcomes), memory.get(CHOSEN), tuple(o.kind for o in outcomes if not o.met),
    )
    results = []
    for name, one in found.items():
        bitops, size_mb = _counted(prepared, assignments.get(name))
        results.append(
            EngineResult(
                name=name, latency_ms=times[name].median_ms if name in times else None,
                spread_ms=times[name].spread_ms if name in times else None, metric=one.accuracy.engine, loss=one.loss,
                kl=one.accuracy.kl, bitops=bitops, size_mb=size_mb, drop_bound=one.accuracy.drop_bound,
                peak_mb=memory.get(name),
            )
        )
    return Certificate(
        target=run.target.name,
        machine=run.target.machine(),
        model_sha256=prepared.network.model_sha256,
        claim=_claim(prepared, plan),
        budgets=outcomes,
        latency_ms=latency,
        accuracy=accuracy,
        audit=Audit.of(manifest.layers, prepared.network),
        rounds=(*rounds(run).of(plan.budgets), this_round),
        engines=tuple(results),
        n_loads=times[CHOSEN].n_repeats if times else 0,
        fallbacks=run.read(Survey).fallbacks(run.network),
        conditions=conditions,
        agreement=_agreements(prepared, plan, network, found) if engines else {},
        coverage=run.network.coverage,
        runtime_default=runtime_default,
        held=plan.held,
        stages=run.clock.times,
    )


def _counted(prepared: Prepared, assignment: Assignment | None) -> tuple[float, float]:
    """BitOps and size of an assignment, or of what the runtime makes of the fp32 file."""
    uniform = prepared.network.uniform
    if assignment is not None:
        return counted_costs(prepared.network, assignment)
    bitops, _ = counted_costs(prepared.network, uniform(prepared.run.target.computes_in))
    return bitops, counted_costs(prepared.network, uniform(REFERENCE))[1]


def _memory(run: Run, engines: Mapping[str, Engine]) -> dict[str, float]:
    """What engines need of the memory, where that is measured; the uniform ones were when they were profiled."""
    uniform = run.read(CostTable).peak_mb
    known: dict[int, float | None] = {id(engines[name]): peak for name, peak in uniform.items()}
    for name in (CHOSEN, BY_ITSELF):
        if name in engines and id(engines[name]) not in known:
            known[id(engines[name])] = engines[name].peak_mb(timing_inputs(run))
    found = {name: known.get(id(engine)) for name, engine in engines.items()}
    return {name: peak for name, peak in found.items() if peak is not None}


def _by_itself(prepared: Prepared) -> dict[str, Engine]:
    """Engines without settings: of the network as it comes, and of the plan. None where that changes nothing."""
    run = prepared.run
    if run.target.computes_in == REFERENCE:
        return {}
    return {BY_ITSELF: prepared.builder.untouched(), PLAIN: run.target.load_plainly(run.path(Manifest).parent)}


def _some(prepared: Prepared) -> tuple[Tensor, ...]:
    """Inputs of the samples whose outputs are compared one by one."""
    return tuple(x[sampled(prepared)] for x in prepared.run.parts[1].inputs)


def _runtime_default(run: Run, plain: Tensor, times: dict[str, Measurement], certified: Judged) -> RuntimeDefault:
    return RuntimeDefault(
        precision=run.target.computes_in,
        latency_ms=times[BY_ITSELF].median_ms,
        spread_ms=times[BY_ITSELF].spread_ms,
        plain_ms=times[PLAIN].median_ms,
        plain_error=relative_error([certified.some], [plain]),
    )


def _agreements(
    prepared: Prepared, plan: Plan, network: Tensor, found: Mapping[str, Judged]
) -> dict[str, Agreement]:
    """Whether the fp32 engine reproduces the network, and the plan's engine what was simulated."""
    inputs, reference = _some(prepared), prepared.network.uniform(REFERENCE)
    agreements = {
        REFERENCE: check(
            prepared.builder, prepared.simulator, reference, inputs, found[REFERENCE].some, network[sampled(prepared)]
        ),
        CHOSEN: check(
            builder_of(prepared, plan), simulator_of(prepared, plan), plan.assignment, inputs, found[CHOSEN].some
        ),
    }
    for name, one in agreements.items():
        if not one.agrees:
            prepared.run.notify(f"the {name} engine does not compute what was simulated: {one.said}")
    return agreements


def _claim(prepared: Prepared, plan: Plan) -> str:
    """What the certificate rests on, and whether its accuracy is that of retrained weights."""
    run = prepared.run
    claim = run.target.claim
    if run.target.has_latency and not run.measures_latency:
        claim = UNTIMED_CLAIM if run.settings.cost == "bitops" else IMPORTED_CLAIM
    result = learned(prepared, plan)
    if isinstance(result, Trained):
        return f"{claim}; retrained for {result.recipe.n_epochs} epochs on {result.data}"
    if isinstance(result, Reconstructed):
        return f"{claim}; rounding learned on {result.n_samples} calibration samples, without labels"
    return claim


def _engines(prepared: Prepared, assignments: dict[str, Assignment]) -> dict[str, Engine]:
    """The plan's engine as it lies in the run folder, and uniform ones: one engine where their files are the same."""
    builder, folder = prepared.builder, prepared.run.path(Manifest).parent
    chosen = prepared.run.target.load(folder)

    def engine(assignment: Assignment) -> Engine:
        same = assignment == assignments[CHOSEN] and builder.is_in(folder, assignment)
        return chosen if same else builder.engine(assignment)

    return {name: chosen if name == CHOSEN else engine(assignment) for name, assignment in assignments.items()}


def _outcome(
    budget: Budget, plan: Plan, latency: LatencyOutcome | None, peak_mb: float | None, accuracy: AccuracyOutcome,
    by_bound: bool,
) -> BudgetOutcome:
    """Predicted and measured value of one budget; BitOps and size are counted, so both are the same number. What was
    predicted from a profile taken elsewhere is not measured here. The bound of a drop decides where
    ``by_bound``. A latency under a speedup is stated as if the reference took what it took when the limit was set."""
    if budget.kind == "max_drop":
        drop, bound = 100 * (accuracy.reference - accuracy.engine), accuracy.drop_bound
        met = budget.met(bound.points if bound and by_bound else drop)
        return BudgetOutcome("max_drop", budget.limit, plan.predicted_drop_points, drop, met, bound, by_bound)
    measured: float | None
    if budget.kind == "peak_mb":
        assert plan.predicted_peak_mb is not None
        predicted, measured = plan.predicted_peak_mb, peak_mb
    elif budget.kind == "latency_ms":
        assert plan.predicted_latency_ms is not None
        predicted = latency.predicted if latency else plan.predicted_latency_ms
        measured = latency.measured if latency else None
        if latency and budget.speedup is not None:
            # Engine and reference were timed in turns just now: their ratio is what was asked for.
            measured = latency.measured * budget.speedup * budget.limit / latency.reference
    else:
        predicted = measured = plan.bitops if budget.kind == "bitops" else plan.size_mb
    return BudgetOutcome(budget.kind, budget.limit, predicted, measured, budget.met(measured))
