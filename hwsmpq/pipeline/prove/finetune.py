"""The stage that trains a plan's quantized network."""

from __future__ import annotations

import torch

from hwsmpq.artifacts import digest
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.weights import checkpoint_file, reconstructed, starting_point, store_weights
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.train.fit import fit
from hwsmpq.train.network import quantized
from hwsmpq.train.objective import negative_value
from hwsmpq.types import REFERENCE, Recipe, Reconstructed, Trained

MOST_HELD_OUT, SHARE_HELD_OUT = 1024, 0.125
"""Samples of the search part that judge every epoch; without training samples, this share of it."""
ALL_TRAINING = "the task's training samples"
FALLBACK = "the search part"
FALLBACK_WITH_CALIBRATION = "the search part, and the calibration samples with the network's own answers"


@holding
def finetune(run: Run, recipe: Recipe | None = None, device: str = "cpu") -> Trained:
    """Train the plan's quantized network (weights and steps) on the value that scores assignments.

    ``soft``, the default for classification, distils the unquantized network and knows the labels. What was
    reconstructed for the plan is where it begins. An interrupted training goes on after its last epoch. Samples of the
    search part judge every epoch: the best is kept, or the start where none was better. Later stages build from the
    result as long as the plan stays the same.

    Args:
        device: that is trained on; what a GPU makes of the same seed is not what a CPU does.
    """
    recipe = recipe or Recipe()
    if run.scheme.power_of_two_scales:
        raise HwsmpqError(
            f"plans of {run.target.name} are not retrained", "steps that are learned are no powers of two",
            "retrain without power-of-two scales",
        )
    prepared = prepare(run)
    plan = run.plan()
    samples, held_out, data = _training_samples(prepared)
    start = reconstructed(prepared, plan)
    unused = () if start else (Reconstructed,)
    objective = "loss" if run.value == "metric" else run.value  # counting right answers has no gradient
    asked = {
        "assignment": prepared.network.realise(plan.assignment),
        "samples": (samples.sha256(), held_out.sha256()), "recipe": recipe,
        "objective": (objective, torch.device(device).type),
    }

    def make() -> Trained:
        if data != ALL_TRAINING:
            run.notify(f"the task has no training samples: training on {data}; the report part stays unseen")
        network = quantized(*starting_point(prepared, start), run.scheme, asked["assignment"])
        if not network.is_quantized:
            raise HwsmpqError(
                "nothing is quantized in this plan", "every group runs in fp32", "search with a tighter budget first"
            )
        uniform = prepared.network.uniform(REFERENCE)
        reference = quantized(prepared.captured, prepared.ranges, run.scheme, uniform).to(device)
        course = fit(
            network, samples, negative_value(objective, run.judge, reference), recipe, device,
            checkpoint_file(run, Trained), digest(run.inputs(Trained, unused, **asked)),
            lambda done, n: run.progress("finetune", done, n), held_out,
        )
        return Trained(
            model_sha256=prepared.network.model_sha256,
            assignment=prepared.network.realise(plan.assignment),
            recipe=recipe,
            objective=objective,
            data=data,
            n_samples=len(samples),
            losses=course.losses,
            held_out=course.held_out,
            ranges=network.ranges(),
            weights_sha256=store_weights(run, Trained, network),
        )

    return run.stage(Trained, make, unused, **asked)


def _training_samples(prepared: Prepared) -> tuple[Samples, Samples, str]:
    """The samples, those that only judge, and what was trained on in words."""
    task, search_part = prepared.run.task, prepared.run.parts[0]
    if task.training is not None:
        return task.training, search_part.take(slice(0, MOST_HELD_OUT)), ALL_TRAINING
    n = len(search_part)
    n_held_out = min(max(round(SHARE_HELD_OUT * n), 1), MOST_HELD_OUT)
    trained, held_out = search_part.take(slice(n_held_out, n)), search_part.take(slice(0, n_held_out))
    if not task.is_classification:
        return trained, held_out, FALLBACK
    uniform, judge = prepared.network.uniform(REFERENCE), prepared.run.judge
    answers = prepared.simulator.scores(
        [uniform], task.calibration, lambda out, rows: judge.judged_output(out).argmax(1)
    )[0]
    inputs = tuple(torch.cat((x[:], y)) for x, y in zip(trained.inputs, task.calibration, strict=True))
    targets = trained.targets[:]
    return Samples(inputs, torch.cat((targets, answers.to(targets.dtype)))), held_out, FALLBACK_WITH_CALIBRATION
