"""Whether learning the rounding before contributions selects better: ResNet-20, three budgets of BitOps, report part.

One run folder searches with weights rounded to nearest, one with rounding learned by precision. Every plan is then
reconstructed for itself, as it would be built, so that only the choice differs. Figures, by rounding and budget in
uniform bits: ``<rounding>.<bits>.metric``, ``.kl``, ``.kl_stderr`` of the reconstructed plan, ``.kl_searched`` of the
plan as the search saw it, and ``<bits>.kl_less``, ``.kl_less_stderr``: by how much the learned one is closer, paired.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _bench import Bench, arguments
from _peer_networks import NETWORKS, Judge
from torch import Tensor

from hwsmpq import Run, Settings
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.network import quantized
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import REFERENCE, Reconstruction

NETWORK = "resnet20"
LADDER = ("w3a3", "w4a4", "w5a5", "w6a6", "w8a8")
BITS = (3.5, 4.0, 5.0)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=Reconstruction.n_iterations, help="a block of a plan")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = NETWORKS[NETWORK]
    task, samples = network.load(options.quick), {}
    bench = Bench("bench_rounding", options, samples)
    outputs: dict[tuple[str, float], Tensor] = {}
    recipe = Reconstruction(n_iterations=10 if options.quick else options.iterations, seed=options.seed)
    with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
        for rounding in ("nearest", "learned"):
            settings = Settings(
                network.task_file, target="onnx-qdq", ladder=LADDER, rounding=rounding, seed=options.seed,
            )
            run = Run(Path(scratch) / rounding, settings, task)
            began = time.process_time()
            prepared, report = prepare(run), run.parts[1]
            prepare_cpu_s = time.process_time() - began
            samples |= {"calibration": len(task.calibration[0]), "report": len(report)}
            plain = prepared.network.uniform(REFERENCE)
            judge = Judge(network, task, report, _outputs(prepared.simulator, run, plain), options.seed)
            for bits in BITS:
                began = time.process_time()
                budget = bits**2 * sum(layer.n_macs for layer in prepared.network.layers)
                assignment = search(run, resolve_budgets(run, bitops=budget)).assignment
                cpu_s = time.process_time() - began
                searched = judge.distance(_outputs(prepared.simulator, run, assignment))[0]
                trained = quantized(prepared.captured, prepared.ranges, run.scheme, assignment)
                reconstruct(trained, prepared.captured, task.calibration, recipe)
                simulator = Simulator(
                    prepared.captured.with_weights(trained.weights()), trained.ranges(), run.scheme
                )
                found = outputs[rounding, bits] = _outputs(simulator, run, assignment)
                kl, kl_error = judge.distance(found)
                lost, error = judge.lost_points(found)
                value = network.metric_of(network.metric(task, report, found), report)
                bench.row(
                    rounding=rounding, bits=bits, metric=value, lost_points=lost, stderr=error, kl=kl,
                    kl_stderr=kl_error, kl_searched=searched, prepare_cpu_s=prepare_cpu_s, search_cpu_s=cpu_s,
                )
                key = f"{rounding}.{bits:g}"
                bench.figures |= {
                    f"{key}.metric": value, f"{key}.kl": kl, f"{key}.kl_stderr": kl_error,
                    f"{key}.kl_searched": searched,
                }
                if rounding == "learned":
                    less, less_error = judge.distance(outputs["nearest", bits], found)
                    bench.figures |= {f"{bits:g}.kl_less": less, f"{bits:g}.kl_less_stderr": less_error}
                bench.write()
    bench.finish()


def _outputs(simulator: Simulator, run: Run, assignment: Any) -> Tensor:
    """On the report part."""
    return simulator.scores([assignment], run.parts[1].inputs, lambda out, rows: out)[0]


if __name__ == "__main__":
    main()
