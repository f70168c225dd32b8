"""The engine of the plan, in the run folder."""

from __future__ import annotations

from hwsmpq.engine.dynamic import with_dynamic_batch
from hwsmpq.engine.handout import write_handout
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.finetune import builder_of, simulator_of, trained
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import (
    Manifest,
    Trained,
)


@holding
def build(run: Run) -> Manifest:
    """Build the plan's engine, of trained weights if the plan was trained, and one that takes any number of samples
    beside it; audit every layer."""
    prepared = prepare(run)
    plan = run.plan()
    folder = run.path(Manifest).parent
    of_trained = trained(prepared, plan) is not None
    if not of_trained and run.artifacts.has(Trained):
        run.notify(
            f"{run.path(Trained)} was trained for another plan: the engine is built from the untrained network;"
            " `hwsmpq finetune` trains this plan"
        )

    def make() -> Manifest:
        run.progress("build", 0, 1)
        builder, inputs = builder_of(prepared, plan), run.parts[1].inputs
        manifest = builder.deliver(plan.assignment, folder)
        manifest = with_dynamic_batch(manifest, builder, simulator_of(prepared, plan), inputs, folder)
        run.progress("build", 1, 1)
        return manifest

    run.stage(Manifest, make, () if of_trained else (Trained,))
    manifest = run.artifacts.check_engine()
    write_handout(folder, manifest, run.task)
    return manifest
