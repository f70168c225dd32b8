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
        for done, name in enumerate(run.ladder.names, 1):
            found = _surveyed(before, found, name)
            run.progress("survey", done, len(run.ladder.names))
        return found

    return run.stage(Survey, make)


def _surveyed(prepared: Prepared, known: Survey, name: str) -> Survey:
    """The survey with the uniform engine of a precision. Where a layer runs otherwise than asked for, it is built again
    as it runs: only such an engine can compute what is simulated."""
    run = prepared.run
    assignment = known.realise(run.network).uniform(name)
    engine = prepared.builder.engine(assignment)
    layers = engine.realised([layer.name for layer in run.network.layers])
    found = _with(known, prepared, Realised(assignment, layers))
    if not run.target.has_latency:
        return found
    if found.fallbacks(run.network) == known.fallbacks(run.network):
        return _with(known, prepared, Realised(assignment, layers | _wrong(prepared, assignment, engine)))
    return _surveyed(prepared, found, name)


def _wrong(prepared: Prepared, assignment: Assignment, engine: Engine) -> dict[str, str]:
    """The layers that a target computes otherwise than simulated, if an engine does, told to the user. Where they are
    most of the network, no other precision takes their place: its certificates say that it is wrong."""
    run = prepared.run
    some = prepared.captured.some_of(len(run.task.calibration[0]), N_SAMPLES)
    inputs = tuple(x[some] for x in run.task.calibration)
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
                run.notify(f"{run.target.name} runs {group} in {runs}, not in {asked} as asked: the search takes it so")
    return longer
