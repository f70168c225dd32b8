"""What the target really runs, from engines that were built and audited."""

from __future__ import annotations

from collections.abc import Mapping

from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.pipeline.prepare.calibrate import calibrate
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import REFERENCE, Assignment, Fallbacks


@holding
def survey(run: Run) -> Fallbacks:
    """What the target really runs: the uniform engine of every precision, built and audited before anything is spent
    on measuring a precision that a layer does not have. The run takes them as they run from here on."""
    calibrate(run)

    def make() -> Fallbacks:
        fallbacks, layers = Fallbacks({}), [layer.name for layer in run.network.layers]
        for done, name in enumerate(run.ladder.names, 1):
            assignment = run.network.uniform(name)
            with run.builder.temporary(assignment) as engine:
                fallbacks = with_observed(fallbacks, run, assignment, engine.realised(layers))
            run.progress("survey", done, len(run.ladder.names))
        return fallbacks

    fallbacks = run.stage(Fallbacks, make)
    run.take_as_realised(fallbacks)
    return fallbacks


def with_observed(
    fallbacks: Fallbacks, run: Run, assignment: Assignment, realised: Mapping[str, str]
) -> Fallbacks:
    """The fallbacks, and those that an engine of ``assignment`` shows by what its layers run in. New ones are told to
    the user.

    Where a layer runs in no precision that the target offers (mixed types), the reference takes its place.
    """
    found = {group: dict(known) for group, known in fallbacks.found.items()}
    for group, asked in assignment.items():
        others = [(layer.name, realised[layer.name]) for layer in run.network.layers_of(group)]
        others = [(layer, precision) for layer, precision in others if precision not in (asked, NOT_AUDITED)]
        if others and asked != REFERENCE and asked not in found.get(group, {}):
            layer, precision = others[0]
            found.setdefault(group, {})[asked] = precision if precision in run.target.native else REFERENCE
            run.notify(f"{run.target.name} runs {layer} in {precision} where {asked} was asked for: taken as such")
    return Fallbacks(found)
