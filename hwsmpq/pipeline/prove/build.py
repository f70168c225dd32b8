"""The engine of the plan, in the run folder."""

from __future__ import annotations

from hwsmpq.engine.dynamic import BATCHES, with_dynamic_batch
from hwsmpq.engine.handout import write_handout
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.weights import builder_of, learned, reconstructed, simulator_of
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import Manifest, Reconstructed, Trained


@holding
def build(run: Run) -> Manifest:
    """Build the plan's engine, of learned weights if there are any for the plan, and one that takes any number of
    samples beside it; audit every layer."""
    prepared = prepare(run)
    plan = run.plan()
    folder = run.path(Manifest).parent
    result = learned(prepared, plan)
    unused = [kind for kind in (Trained, Reconstructed) if not isinstance(result, kind)]
    if isinstance(result, Trained) and reconstructed(prepared, plan):
        unused.remove(Reconstructed)  # what was trained began with it
    for kind, verb in {Trained: "finetune", Reconstructed: "reconstruct"}.items():
        if kind in unused and run.artifacts.has(kind):
            run.notify(
                f"{run.path(kind)} was made for another plan, so the engine is built without it. `hwsmpq {verb}`"
                " makes it for this plan"
            )

    def make() -> Manifest:
        run.progress("build", 0, 1)
        builder, part = builder_of(prepared, plan), run.parts[1]
        some = prepared.captured.some_of(len(part), sum(BATCHES))
        inputs = tuple(x[some] for x in part.inputs)
        manifest = builder.deliver(plan.assignment, folder)
        manifest = with_dynamic_batch(manifest, builder, simulator_of(prepared, plan), inputs, folder)
        run.progress("build", 1, 1)
        return manifest

    run.stage(Manifest, make, unused)
    manifest = run.artifacts.check_engine()
    write_handout(folder, manifest, run.task)
    return manifest
