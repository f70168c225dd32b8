"""What the target really runs, from engines that were built and audited; and preparation, which ends with it."""

from __future__ import annotations

from dataclasses import replace

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.agree import check
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.pipeline.prepare.calibrate import calibrated
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import REFERENCE, Assignment, Realised, Survey

N_SAMPLES = 8
"""Of the calibration samples, that a uniform engine is compared on; the plan's engine is compared on more."""
WRONG = "wrong results"
"""What a layer runs in whose precision the target computes otherwise than simulated."""


@holding
def survey(run: Run) -> Survey:
    """Audits of the uniform engine of every precision, built before anything is spent on measuring a precision that a
    layer does not have."""
    before = calibrated(run)

    def make() -> Survey:
        found = Survey(run.target.native, run.substitutes)
        layers = [layer.name for layer in run.network.layers]
        for done, name in enumerate(run.ladder.names, 1):
            assignment = found.realise(run.network).uniform(name)
            with before.builder.temporary(assignment) as engine:
                wrong = _wrong(before, assignment, engine) if run.target.has_latency else {}
                found = _with(found, before, Realised(assignment, engine.realised(layers) | wrong))
            run.progress("survey", done, len(run.ladder.names))
        return found

    return run.stage(Survey, make)


def _wrong(prepared: Prepared, assignment: Assignment, engine: Engine) -> dict[str, str]:
    """The layers that a target computes otherwise than simulated, if an engine does, told to the user. Where they are
    most of the network, no other precision takes their place: its certificates say that it is wrong."""
    run = prepared.run
    inputs = tuple(x[:N_SAMPLES] for x in run.task.calibration)
    outputs = engine_outputs(engine, inputs, run.settings.batch)
    one = check(prepared.builder, prepared.simulator, assignment, inputs, outputs)
    if one.agrees:
        return {}
    run.notify(f"an engine of {run.target.name} does not compute what was simulated: {one.said}")
    n_quantized = sum(precision != REFERENCE for precision in assignment.values())
    groups = one.where if len(one.where) <= max(1, n_quantized // 2) else ()
    return {layer.name: WRONG for group in groups for layer in prepared.network.layers_of(group)}


@holding
def prepare(run: Run) -> Prepared:
    """The only way to the stages that evaluate, decide and prove: calibrated, and as engines were seen to run."""
    return calibrated(run).with_survey(survey(run))


def record(prepared: Prepared, engine: Realised) -> bool:
    """Add a built engine to the survey if it runs something otherwise than known; whether it does."""
    run = prepared.run
    known = run.read(Survey)
    longer = _with(known, prepared, engine)
    if longer.realise(run.network) == prepared.network:
        return False
    run.artifacts.write(longer, run.artifacts.made_from(Survey))
    return True


def _with(known: Survey, prepared: Prepared, engine: Realised) -> Survey:
    """The survey with one engine more. What it shows anew is told to the user."""
    run = prepared.run
    longer = replace(known, engines=(*known.engines, engine))
    before = known.fallbacks(run.network)
    for group, found in longer.fallbacks(run.network).items():
        for asked, runs in found.items():
            if asked not in before.get(group, {}):
                run.notify(f"{run.target.name} runs {group} in {runs} where {asked} was asked for: taken as such")
    return longer
