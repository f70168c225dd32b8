"""What learned rounding keeps of a network's accuracy at few bits, beside rounding to nearest, corrected biases and
training, on the report part.

Simulated, since engines compute the same. Every method has the same assignment: ``nearest`` (no bias corrected),
``bias`` (as calibration has it), ``reconstruct`` (on the calibration samples, without labels, for ``--minutes``) and,
where the task has training samples, ``finetune``. Figures: ``<network>.<precision>.<method>.metric``, ``.stderr``
(of the difference to the network), ``.kl`` (1 - cosine for embeddings) and ``.cpu_s``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _bench import Bench, arguments
from _peer_networks import NETWORKS, Judge
from torch import Tensor

from hwsmpq import Run, Settings, calibrate
from hwsmpq.model.task import Task
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.fit import fit
from hwsmpq.train.network import QuantizedNetwork, quantized
from hwsmpq.train.objective import negative_value
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import REFERENCE, Recipe, Reconstruction

PRECISIONS = {"resnet20": ("w4a4", "w3a3"), "efficientnet_lite0": ("w6a6", "w4a8"), "minilm": ("w4a8",)}
RECIPE = Recipe(n_epochs=4)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(PRECISIONS), help="names, separated by commas")
    parser.add_argument("--precisions", help="by default those of every network")
    parser.add_argument("--methods", default="nearest,bias,reconstruct,finetune")
    parser.add_argument("--minutes", type=float, help="of reconstruction (CPU; by default iterations are counted)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples: dict[str, int] = {}
    bench = Bench("bench_reconstruct", options, samples)
    for name in options.networks.split(","):
        network = NETWORKS[name]
        task = network.load(options.quick)
        names = options.precisions.split(",") if options.precisions else PRECISIONS[name]
        with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
            reference: Tensor | None = None
            for precision in names:
                for method in options.methods.split(","):
                    run = _run(Path(scratch) / f"{precision}-{method}", network.task_file, task, precision, method)
                    report = run.parts[1]
                    if reference is None:
                        reference = _outputs(run, REFERENCE)
                        samples |= {f"{name}.calibration": len(task.calibration[0]), f"{name}.report": len(report)}
                    judge = Judge(network, task, report, reference, options.seed)
                    for said, outputs, cpu_s in _learned(run, task, precision, method, options):
                        kl, kl_error = judge.distance(outputs)
                        lost, error = judge.lost_points(outputs)
                        value = float(run.judge.metric(outputs, report.targets).mean())
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


def _run(folder: Path, task_file: str, task: Task, precision: str, method: str) -> Run:
    settings = Settings(
        task_file, target="onnx-qdq", ladder=(precision, REFERENCE), correct_bias=method != "nearest",
    )
    run = Run(folder, settings, task)
    calibrate(run)
    return run


def _outputs(run: Run, precision: str) -> Tensor:
    prepared = prepare(run)
    return prepared.simulator.scores(
        [prepared.network.uniform(precision)], run.parts[1].inputs, lambda out, rows: out
    )[0]


def _learned(
    run: Run, task: Task, precision: str, method: str, options: Any
) -> Iterator[tuple[dict[str, Any], Tensor, float]]:
    """What was learned in words, outputs on the report part, CPU seconds."""
    prepared = prepare(run)
    assignment = prepared.network.uniform(precision)
    if method in ("nearest", "bias"):
        yield {}, _outputs(run, precision), 0.0
        return
    if method == "finetune" and task.training is None:
        return
    network = quantized(prepared.captured, prepared.ranges, run.scheme, assignment)
    began = time.process_time()
    said: dict[str, Any]
    if method == "reconstruct":
        recipe = Reconstruction(
            n_iterations=20 if options.quick else Reconstruction.n_iterations, minutes=options.minutes,
            seed=options.seed,
        )
        blocks = reconstruct(network, prepared.captured, task.calibration, recipe, clock=time.process_time)
        iterations = sum(one.n_iterations for one in blocks) // len(blocks)
        said = {"iterations": iterations, "kept": sum(one.is_kept for one in blocks)}
    else:
        assert task.training is not None
        plain = quantized(prepared.captured, prepared.ranges, run.scheme, prepared.network.uniform(REFERENCE))
        fit(network, task.training, negative_value(run.value, run.judge, plain), RECIPE)
        said = {"epochs": RECIPE.n_epochs}
    cpu_s = time.process_time() - began
    yield said, _simulated(run, network, assignment), cpu_s


def _simulated(run: Run, network: QuantizedNetwork, assignment: dict[str, str]) -> Tensor:
    captured = prepare(run).captured.with_weights(network.weights())
    simulator = Simulator(captured, network.ranges(), run.scheme)
    return simulator.scores([assignment], run.parts[1].inputs, lambda out, rows: out)[0]


if __name__ == "__main__":
    main()
