"""The stage that reconstructs a plan's quantized network from the calibration samples."""

from __future__ import annotations

import torch

from hwsmpq.artifacts import digest
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.weights import checkpoint_file, store_weights
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.train.network import quantized
from hwsmpq.train.reconstruct import reconstruct as learn
from hwsmpq.types import PRECISIONS, Assignment, Reconstructed, Reconstruction


@holding
def reconstruct(run: Run, recipe: Reconstruction | None = None, device: str = "cpu") -> Reconstructed:
    """Learn how the plan rounds its weights, with its steps and biases, on the calibration samples, without labels.

    Block by block, outputs are brought back to those of the network (:mod:`hwsmpq.train.reconstruct`). An interrupted
    reconstruction goes on after its last block. Later stages build from the result as long as the plan stays the same.

    Args:
        device: that is computed on; what a GPU makes of the same seed is not what a CPU does.
    """
    recipe = recipe or Reconstruction()
    prepared = prepare(run)
    assignment = prepared.network.realise(run.plan().assignment)
    asked = {
        "assignment": assignment, "samples": run.calibration_sha256, "recipe": recipe,
        "trained_on": torch.device(device).type,
    }

    def make() -> Reconstructed:
        if not has_rounding(assignment):
            raise HwsmpqError(
                "nothing of this plan can be reconstructed", "no group has integer weights",
                "search with a tighter budget first, or another ladder",
            )
        network = quantized(prepared.captured, prepared.ranges, run.scheme, assignment)

        def tell(done: int, n: int, said: str) -> None:
            run.progress("reconstruct", done, n)
            run.status("reconstruct", said)

        inputs, identity = run.task.calibration, digest(run.inputs(Reconstructed, **asked))
        blocks = learn(
            network, prepared.captured, inputs, recipe, device, checkpoint_file(run, Reconstructed), identity, tell
        )
        return Reconstructed(
            model_sha256=prepared.network.model_sha256,
            assignment=assignment,
            recipe=recipe,
            n_samples=len(inputs[0]),
            blocks=blocks,
            ranges=network.ranges(),
            weights_sha256=store_weights(run, Reconstructed, network),
        )

    return run.stage(Reconstructed, make, **asked)


def has_rounding(assignment: Assignment) -> bool:
    """Whether an assignment holds anything that is reconstructed."""
    return any(PRECISIONS[name].weight_format == "int" for name in assignment.values())
