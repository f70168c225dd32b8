"""What correcting biases does to uniform networks: their distance to the unquantized one, on the report part.

Simulated, since engines compute the same. Figures: ``<network>.<precision>.plain`` and ``.corrected`` (KL divergence,
1 - cosine for embeddings), ``.kept`` (whether calibration keeps the correction, by its own samples),
``.gained_points`` of the metric, and ``<network>.calibrate_cpu_s`` of both.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from _bench import Bench, arguments
from _peer_networks import NETWORKS, Judge
from torch import Tensor

from hwsmpq import Run, Settings, calibrate
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Ranges

LADDERS = {
    "resnet20": ("w3a3", "w4a4", "w6a6", "int8"), "efficientnet_lite0": ("int8",),
    "efficientnet_lite0_per_tensor": ("int8",), "minilm": ("int8",),
}
NAMES = ("plain", "corrected")


@dataclass(frozen=True, eq=False)
class Calibrated:
    run: Run
    ranges: Ranges
    cpu_s: float

    def outputs(self, precision: str) -> Tensor:
        """Of the uniform network on the report part."""
        run = self.run
        simulator = Simulator(run.captured, self.ranges, run.scheme)
        return simulator.scores([run.network.uniform(precision)], run.parts[1].inputs, lambda out, rows: out)[0]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(LADDERS), help="names, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples: dict[str, int] = {}
    bench = Bench("bench_bias", options, samples)
    for name in options.networks.split(","):
        network, ladder = NETWORKS[name], LADDERS[name]
        task = network.load(options.quick)
        with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
            calibrated = []
            for correct in (False, True):
                settings = Settings(
                    network.task_file, target=network.target if ladder == ("int8",) else "onnx-qdq",
                    ladder=(*ladder, REFERENCE), seed=options.seed, correct_bias=correct,
                )
                started = time.process_time()
                run = Run(Path(scratch) / str(correct), settings, task)
                calibrated.append(Calibrated(run, calibrate(run), time.process_time() - started))
            report = calibrated[0].run.parts[1]
            samples |= {f"{name}.calibration": len(task.calibration[0]), f"{name}.report": len(report)}
            judge = Judge(network, task, report, calibrated[0].outputs(REFERENCE), options.seed)
            for precision in ladder:
                plain, corrected = (one.outputs(precision) for one in calibrated)
                kept = bool(calibrated[1].ranges.shifts.get(precision))
                distances = [judge.distance(out) for out in (plain, corrected)]
                lost = [judge.lost_points(out) for out in (plain, corrected)]
                gained = judge.lost_points(plain, than=corrected)
                bench.row(
                    network=name, precision=precision, kept=kept,
                    **{key: mean for key, (mean, _) in zip(NAMES, distances, strict=True)},
                    **{f"{key}_stderr": error for key, (_, error) in zip(NAMES, distances, strict=True)},
                    **{f"{key}_lost_points": mean for key, (mean, _) in zip(NAMES, lost, strict=True)},
                    gained_points=gained[0], gained_stderr=gained[1],
                )
                bench.figures |= {
                    f"{name}.{precision}.{key}": mean for key, (mean, _) in zip(NAMES, distances, strict=True)
                }
                bench.figures |= {
                    f"{name}.{precision}.kept": float(kept), f"{name}.{precision}.gained_points": gained[0],
                }
            for key, one in zip(NAMES, calibrated, strict=True):
                bench.figures[f"{name}.calibrate_cpu_s.{key}"] = one.cpu_s
    bench.finish()


if __name__ == "__main__":
    main()
