"""What the target really runs, from engines that were built and audited; and preparation, which ends with it."""

from __future__ import annotations

from dataclasses import replace

from hwsmpq.pipeline.prepare.calibrate import calibrated
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import Realised, Survey


@holding
def survey(run: Run) -> Survey:
    """Audits of the uniform engine of every precision, built before anything is spent on measuring a precision that a
    layer does not have."""
    before = calibrated(run)

    def make() -> Survey:
        found = Survey(run.target.native, run.substitutes)
        layers = [layer.name for layer in run.network.layers]
        for done, name in enumerate(run.ladder.names, 1):
            network = found.realise(run.network)
            with before.builder.temporary(network.uniform(name)) as engine:
                found = _with(found, before, Realised(network.uniform(name), engine.realised(layers)))
            run.progress("survey", done, len(run.ladder.names))
        return found

    return run.stage(Survey, make)


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
