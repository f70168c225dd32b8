"""What learned rounding keeps of a network's accuracy at few bits, beside rounding to nearest, corrected biases and
training, on the report part.

Simulated, since engines compute the same. Every method has the same assignment: ``nearest`` (no bias corrected),
``bias`` (as calibration has it), ``reconstruct`` (on the calibration samples, without labels, for ``--minutes`` of CPU
time) and, where the task has training samples, ``finetune``, alone and after ``reconstruct`` (``both``). With
``--aimet-python``, AIMET's AdaRound learns on the same grids and samples. Figures: ``<network>.<precision>.<method>``
with ``.metric``, ``.stderr`` (of the difference to the network), ``.kl`` (1 - cosine for embeddings) and ``.cpu_s``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from _bench import Bench, arguments
from _peer_networks import NETWORKS, Judge, Network
from torch import Tensor

from hwsmpq import Run, Settings, calibrate
from hwsmpq.engine.encodings import OWN, write_encodings
from hwsmpq.model.task import Task
from hwsmpq.model.tensors import get_tensor
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.finetune import MOST_HELD_OUT
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.fit import fit
from hwsmpq.train.network import QuantizedNetwork, quantized
from hwsmpq.train.objective import negative_value
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import PRECISIONS, REFERENCE, Assignment, Recipe, Reconstruction

PLAN, LADDER, BUDGET = "plan", ("w3a3", "w4a4", "w5a5", "w6a6", "w8a8"), "w4a4"
"""The plan is chosen from a ladder, within the BitOps of one precision everywhere."""
DEFAULTS = {"resnet20": ("w4a4", "w3a3", PLAN), "efficientnet_lite0": ("w6a6", "w4a8"), "minilm": ("w4a8",)}
RECIPE = Recipe(n_epochs=4)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(DEFAULTS), help="names, separated by commas")
    parser.add_argument("--precisions", help=f"by default those of every network; {PLAN}: what a search chooses")
    parser.add_argument("--methods", default="nearest,bias,reconstruct,finetune,both")
    parser.add_argument("--target", default="onnx-qdq", help="whose grids they are")
    parser.add_argument("--minutes", type=float, help="of reconstruction (CPU; by default iterations are counted)")
    parser.add_argument("--aimet-python", help="a Python that holds aimet_onnx")
    parser.add_argument("--aimet-iterations", default="2000", help="a layer; several, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples: dict[str, int] = {}
    bench = Bench("bench_reconstruct", options, samples)
    for name in options.networks.split(","):
        network = NETWORKS[name]
        task = network.load(options.quick)
        for precision in options.precisions.split(",") if options.precisions else DEFAULTS[name]:
            with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
                given = _given(Path(scratch), network, task, precision, options)
                report = given.corrected.parts[1]
                samples |= {f"{name}.calibration": len(task.calibration[0]), f"{name}.report": len(report)}
                judge = Judge(network, task, report, given.reference(), options.seed)
                for method, said, outputs, cpu_s in _methods(given, options):
                    kl, kl_error = judge.distance(outputs)
                    lost, error = judge.lost_points(outputs)
                    value = network.metric_of(network.metric(task, report, outputs), report)
                    bench.row(
                        network=name, precision=precision, method=method, **said, metric=value, lost_points=lost,
                        stderr=error, kl=kl, kl_stderr=kl_error, cpu_s=cpu_s,
                    )
                    key = f"{name}.{precision}.{method}"
                    bench.figures |= {
                        f"{key}.metric": value, f"{key}.stderr": error, f"{key}.kl": kl, f"{key}.cpu_s": cpu_s,
                    }
                    bench.write()
    bench.finish()


@dataclass(frozen=True)
class Given:
    """What every method has: a network, its assignment, and ranges with plain biases and with corrected ones."""

    task: Task
    assignment: Assignment
    plain: Run
    corrected: Run
    folder: Path

    def reference(self) -> Tensor:
        return self.outputs(self.plain, dict.fromkeys(self.assignment, REFERENCE))

    def outputs(self, run: Run, assignment: Assignment) -> Tensor:
        """On the report part."""
        return _report_outputs(prepare(run).simulator, run, assignment)

    def quantized(self, assignment: Assignment) -> QuantizedNetwork:
        prepared = prepare(self.corrected)
        return quantized(prepared.captured, prepared.ranges, self.corrected.scheme, assignment)


def _given(folder: Path, network: Network, task: Task, precision: str, options: Any) -> Given:
    is_plan = precision == PLAN
    ladder = (*LADDER, REFERENCE) if is_plan else (precision, REFERENCE)
    runs = [
        Run(folder / name, Settings(
            network.task_file, target=options.target, ladder=ladder, correct_bias=name == "bias", seed=options.seed,
        ), task)
        for name in ("nearest", "bias")
    ]
    for run in runs:
        calibrate(run)
    groups = prepare(runs[1]).network
    if is_plan:
        assignment = search(runs[1], resolve_budgets(runs[1], bitops=BUDGET)).assignment
    else:
        assignment = groups.uniform(precision)
    return Given(task, assignment, *runs, folder)


def _methods(given: Given, options: Any) -> Iterator[tuple[str, dict[str, Any], Tensor, float]]:
    """Method, what was learned in words, outputs on the report part, CPU seconds."""
    asked = options.methods.split(",")
    for method, run in (("nearest", given.plain), ("bias", given.corrected)):
        if method in asked:
            yield method, {}, given.outputs(run, given.assignment), 0.0
    has_training = given.task.training is not None
    spent = 0.0
    reconstructed: QuantizedNetwork | None = None
    if {"reconstruct", "both"} & set(asked):
        reconstructed = given.quantized(given.assignment)
        began = time.process_time()
        said = _reconstruct(given, reconstructed, options)
        spent = time.process_time() - began
        yield "reconstruct", said, _outputs(given, reconstructed), spent
    for method, network in (("finetune", None), ("both", reconstructed)):
        if method in asked and has_training:
            network = network or given.quantized(given.assignment)
            began = time.process_time()
            said = _finetune(given, network)
            cpu_s = time.process_time() - began + (spent if method == "both" else 0.0)
            yield method, said, _outputs(given, network), cpu_s
    if options.aimet_python:
        for n_iterations in map(int, options.aimet_iterations.split(",")):
            outputs, cpu_s = _aimet(given, options.aimet_python, n_iterations)
            yield f"aimet_{n_iterations}", {"iterations": n_iterations}, outputs, cpu_s


def _reconstruct(given: Given, network: QuantizedNetwork, options: Any) -> dict[str, Any]:
    recipe = Reconstruction(
        n_iterations=20 if options.quick else Reconstruction.n_iterations, minutes=options.minutes, seed=options.seed
    )
    captured = prepare(given.corrected).captured
    blocks = reconstruct(network, captured, given.task.calibration, recipe, clock=time.process_time)
    iterations = sum(one.n_iterations for one in blocks) // len(blocks)
    return {"iterations": iterations, "kept": sum(one.is_kept for one in blocks)}


def _finetune(given: Given, network: QuantizedNetwork) -> dict[str, Any]:
    run, training = given.corrected, given.task.training
    assert training is not None
    plain = given.quantized(dict.fromkeys(given.assignment, REFERENCE))
    held_out = run.parts[0].take(slice(0, MOST_HELD_OUT))
    objective = negative_value("soft", run.judge, plain)
    course = fit(network.requires_grad_(True), training, objective, RECIPE, held_out=held_out)
    return {"epochs": len(course.losses), "best": course.held_out.index(min(course.held_out))}


def _aimet(given: Given, python: str, n_iterations: int) -> tuple[Tensor, float]:
    """AIMET's AdaRound of the float weights, on the grids of weights and activations that are ours."""
    run, folder = given.plain, given.folder / "aimet"
    prepared, precisions = prepare(run), {g: PRECISIONS[name] for g, name in given.assignment.items()}
    network = prepared.network
    qdq, weights = given.folder / "qdq.onnx", {layer.name: layer.weight_name for layer in network.weighted}
    prepared.builder.of_any_batch().write_onnx(given.assignment, qdq)
    of_layer = {layer.name: precisions[network.group_of(layer.name)] for layer in network.layers}
    model, _ = write_encodings(qdq, of_layer, weights, folder)
    _put_float_weights(model, {name: get_tensor(prepared.captured.graph, name) for name in weights.values()})
    for role, inputs in (("calibration", given.task.calibration), ("report", run.parts[1].inputs)):
        np.save(folder / f"{role}.npy", inputs[0][:].numpy())
    before = os.times()
    subprocess.run([python, str(Path(__file__).parent / "_aimet.py"), str(folder), str(n_iterations)], check=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return torch.from_numpy(np.load(folder / "outputs.npy")), cpu_s


def _put_float_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """The weights of the network in place of those that were rounded."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        weight = weights.get(tensor.name.removesuffix(OWN))
        if weight is not None:
            real = weight.detach().contiguous().numpy()
            assert tuple(tensor.dims) == real.shape, f"{tensor.name} is stored otherwise"
            tensor.CopyFrom(onnx.numpy_helper.from_array(real, tensor.name))
    onnx.save(model, path)


def _outputs(given: Given, network: QuantizedNetwork) -> Tensor:
    """Of what was learned, on the report part."""
    run = given.corrected
    captured = prepare(run).captured.with_weights(network.weights())
    return _report_outputs(Simulator(captured, network.ranges(), run.scheme), run, given.assignment)


def _report_outputs(simulator: Simulator, run: Run, assignment: Assignment) -> Tensor:
    return simulator.scores([assignment], run.parts[1].inputs, lambda out, rows: out)[0]


if __name__ == "__main__":
    main()
