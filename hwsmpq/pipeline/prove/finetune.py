"""The stage that trains a plan's quantized network, and what the stages behind it build from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save

from hwsmpq import artifacts
from hwsmpq.artifacts import digest, file_digest
from hwsmpq.engine.build import Builder
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.task import Samples
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.fit import fit
from hwsmpq.train.network import quantized
from hwsmpq.train.objective import negative_value
from hwsmpq.types import REFERENCE, Plan, Recipe, Trained

WEIGHTS_FILE = "weights.safetensors"
CHECKPOINT_FILE = "checkpoint.pt"
ALL_TRAINING = "the task's training samples"
OF_A_TRAINING = ("samples", "recipe", "objective")
"""What one training of a plan asked for; another counts for the plan as well."""
FALLBACK = "the search part"
FALLBACK_WITH_CALIBRATION = "the search part, and the calibration samples with the network's own answers"


@holding
def finetune(run: Run, recipe: Recipe | None = None, device: str = "cpu") -> Trained:
    """Train the plan's quantized network (weights and steps) on the value that scores assignments.

    ``soft``, the default for classification, distils the unquantized network and knows the labels. An interrupted
    training goes on after its last epoch. Later stages build from the result as long as the plan stays the same.

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
    samples, data = _training_samples(prepared)
    objective = "loss" if run.value == "metric" else run.value  # counting right answers has no gradient
    asked = {
        "assignment": prepared.network.realise(plan.assignment), "samples": samples.sha256(), "recipe": recipe,
        "objective": (objective, torch.device(device).type),
    }

    def make() -> Trained:
        if data != ALL_TRAINING:
            run.notify(f"the task has no training samples: training on {data}; the report part stays unseen")
        network = quantized(prepared.captured, prepared.ranges, run.scheme, prepared.network.realise(plan.assignment))
        if not network.is_quantized:
            raise HwsmpqError(
                "nothing is quantized in this plan", "every group runs in fp32", "search with a tighter budget first"
            )
        uniform = prepared.network.uniform(REFERENCE)
        reference = quantized(prepared.captured, prepared.ranges, run.scheme, uniform).to(device)
        folder = run.path(Trained).parent
        losses = fit(
            network, samples, negative_value(objective, run.judge, reference), recipe, device, folder / CHECKPOINT_FILE,
            digest(run.inputs(Trained, **asked)), lambda done, n: run.progress("finetune", done, n),
        )
        artifacts.write_bytes(folder / WEIGHTS_FILE, save(network.weights()))
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        return Trained(
            model_sha256=prepared.network.model_sha256,
            assignment=prepared.network.realise(plan.assignment),
            recipe=recipe,
            objective=objective,
            data=data,
            n_samples=len(samples),
            losses=losses,
            ranges=network.ranges(),
            weights_sha256=file_digest(folder / WEIGHTS_FILE),
        )

    return run.stage(Trained, make, **asked)


def trained(prepared: Prepared, plan: Plan) -> Trained | None:
    """What was trained for a plan; None if nothing was, or only for another plan."""
    run = prepared.run
    of_others = dict.fromkeys(OF_A_TRAINING)
    wanted = run.inputs(Trained, assignment=prepared.network.realise(plan.assignment), **of_others)
    recorded = run.artifacts.made_from(Trained)
    if any(recorded.get(name) != wanted[name] for name in wanted.keys() - of_others):
        return None
    return run.read(Trained)


def builder_of(prepared: Prepared, plan: Plan) -> Builder:
    """Builds the plan's engine, of trained weights if there are any for it."""
    run = prepared.run
    result = trained(prepared, plan)
    if result is None:
        return prepared.builder
    return run.builder_with(_with_weights(prepared, result), result.ranges)


def simulator_of(prepared: Prepared, plan: Plan) -> Simulator:
    """Simulates the plan, with trained weights if there are any for it."""
    run = prepared.run
    result = trained(prepared, plan)
    if result is None:
        return prepared.simulator
    return Simulator(_with_weights(prepared, result), result.ranges, run.scheme, run.settings.memory_mb)


def _with_weights(prepared: Prepared, result: Trained) -> Captured:
    run = prepared.run
    path: Path = run.path(Trained).parent / WEIGHTS_FILE
    if not path.is_file() or file_digest(path) != result.weights_sha256:
        raise HwsmpqError(
            f"{path} is missing or was changed after it was written", f"its hash is not that in {run.path(Trained)}",
            f"delete {run.path(Trained)} and run `hwsmpq finetune` again",
        )
    return prepared.captured.with_weights(load_file(path))


def _training_samples(prepared: Prepared) -> tuple[Samples, str]:
    """The samples, and what they are in words."""
    run = prepared.run
    task = run.task
    if task.training is not None:
        return task.training, ALL_TRAINING
    search_part = run.parts[0]
    if not task.is_classification:
        return search_part, FALLBACK
    uniform, judge = prepared.network.uniform(REFERENCE), run.judge
    answers = prepared.simulator.scores(
        [uniform], task.calibration, lambda out, rows: judge.judged_output(out).argmax(1)
    )[0]
    return Samples(
        tuple(torch.cat(pair) for pair in zip(search_part.inputs, task.calibration, strict=True)),
        torch.cat((search_part.targets, answers.to(search_part.targets.dtype))),
    ), FALLBACK_WITH_CALIBRATION
