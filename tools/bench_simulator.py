"""What an evaluation in the simulator costs beside one plain forward pass, what memory it takes, and that it is exact.

CPU time of one thread. A walk raises the groups of a network one by one in random order, each through all precisions of
the ladder; its cost per evaluation is set against one eager fp32 forward pass of the model as its task gives it, on the
same batch. Forward passes and walks alternate; figures are medians over repeats.

Figures, for each network: ``cost_ratio`` (against the forward pass), ``cost_ratio_channels_last`` (against one of the
model in channels_last), ``peak_mb`` (growth of resident memory in a walk over the batch, with the default bound),
``peak_mb_at_<bound>`` (the same with a small bound), ``max_abs_diff`` (outputs of the walk against simulators without a
past, one an assignment), and for ResNet-20 ``random_order_ratio``: cost of 20 unrelated assignments in the order that
shares most over that in the order given.
"""

from __future__ import annotations

import copy
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _bench import Bench, arguments
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.load import load_task
from hwsmpq.model.task import Task
from hwsmpq.quantize.order import order_for_prefixes
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Assignment, Ladder, Ranges

TASKS = Path(__file__).parent / "tasks"
SCHEME = "unsigned_activations"
N_CALIBRATION = 64
N_CHECKED = 4
N_UNRELATED = 20
DEFAULT_MB, SMALL_MB = 1024, 128


@dataclass(frozen=True)
class Network:
    task: str
    batch: int
    ladder: str
    n_repeats: int


NETWORKS = {
    "resnet20": Network("cifar_resnet20", 256, "w3a3,w4a4,w5a5,w6a6,w8a8", 3),
    "efficientnet_lite0": Network("efficientnet_lite0", 64, "w6a8,w8a8", 2),
    "minilm": Network("minilm_stsb", 32, "w4a8,w8a8", 3),
}


@dataclass(frozen=True)
class Prepared:
    """A network with its ranges, and the batch that it is timed on."""

    task: Task
    captured: Captured
    ladder: Ladder
    ranges: Ranges
    inputs: tuple[Tensor, ...]

    @staticmethod
    def of(network: Network) -> Prepared:
        task = load_task(str(TASKS / f"{network.task}.py"))
        captured = capture(task.model, task.calibration)
        ladder = Ladder.parse(network.ladder)
        bits = sorted({precision.activation_bits for precision in ladder.precisions})
        ranges = calibrate(captured, tuple(x[:N_CALIBRATION] for x in task.calibration), get_scheme(SCHEME), bits)
        return Prepared(task, captured, ladder, ranges, task.evaluation.take(slice(network.batch)).inputs)

    def simulator(self, memory_mb: int = DEFAULT_MB) -> Simulator:
        return Simulator(self.captured, self.ranges, get_scheme(SCHEME), memory_mb)

    def walk(self, seed: int) -> list[Assignment]:
        """The assignments of one permutation walk, floor excluded."""
        current = self.captured.network.uniform(self.ladder.floor)
        walk = []
        for group in np.random.default_rng(seed).permutation(self.captured.network.group_names):
            for name in self.ladder.names[1:]:
                current = current | {str(group): name}
                walk.append(current)
        return walk

    def outputs(self, simulator: Simulator, assignments: list[Assignment]) -> Tensor:
        return simulator.scores(assignments, self.inputs, lambda out, rows: out)


def cpu_s(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def measure(bench: Bench, name: str, network: Network, seed: int, n_repeats: int) -> None:
    prepared = Prepared.of(network)
    simulator, walk = prepared.simulator(), prepared.walk(seed)
    last = copy.deepcopy(prepared.task.model).to(memory_format=torch.channels_last)
    inputs_last = tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in prepared.inputs)

    @torch.inference_mode()
    def forward() -> None:
        prepared.task.model(*prepared.inputs)

    @torch.inference_mode()
    def forward_last() -> None:
        last(*inputs_last)

    prepared.outputs(simulator, [walk[0], walk[-1]])  # quantize the weights, warm up
    seconds: dict[str, list[float]] = {"forward": [], "forward_channels_last": [], "evaluation": []}
    found = torch.empty(0)

    def evaluations() -> None:
        nonlocal found
        found = prepared.outputs(simulator, walk)

    for repeat in range(n_repeats):
        seconds["forward"].append(cpu_s(forward))
        seconds["forward_channels_last"].append(cpu_s(forward_last))
        seconds["evaluation"].append(cpu_s(evaluations) / len(walk))
        bench.row(network=name, repeat=repeat, **{f"{what}_s": taken[-1] for what, taken in seconds.items()})

    def ratio(base: str) -> float:
        return statistics.median(e / b for e, b in zip(seconds["evaluation"], seconds[base], strict=True))

    figures = {
        "cost_ratio": ratio("forward"),
        "cost_ratio_channels_last": ratio("forward_channels_last"),
        "max_abs_diff": max_abs_diff(prepared, walk, found, seed),
        "n_evaluations_of_walk": len(walk),
        "chunk_size": simulator.chunk_size,
    }
    if name == "resnet20":
        figures["random_order_ratio"] = random_order_ratio(prepared, simulator, seed)
    for memory_mb, figure in ((DEFAULT_MB, "peak_mb"), (SMALL_MB, f"peak_mb_at_{SMALL_MB}")):
        peak = peak_mb_in_subprocess(name, memory_mb)
        if peak is not None:
            figures[figure] = peak
    bench.figures |= {f"{name}.{figure}": float(number) for figure, number in figures.items()}


def max_abs_diff(prepared: Prepared, walk: list[Assignment], found: Tensor, seed: int) -> float:
    """Over the whole batch and some steps of the walk, the last one among them."""
    steps = [*np.random.default_rng(seed).choice(len(walk) - 1, N_CHECKED - 1, replace=False), len(walk) - 1]
    fresh = [prepared.outputs(prepared.simulator(), [walk[step]])[0] for step in steps]
    return max(float((found[step] - other).abs().max()) for step, other in zip(steps, fresh, strict=True))


def random_order_ratio(prepared: Prepared, simulator: Simulator, seed: int) -> float:
    groups, ladder = prepared.captured.network.group_names, prepared.ladder.names
    levels = np.random.default_rng(seed).integers(len(ladder), size=(N_UNRELATED, len(groups)))
    rows = [{g: ladder[level] for g, level in zip(groups, row, strict=True)} for row in levels]
    ordered = [rows[i] for i in order_for_prefixes(levels)]
    prepared.outputs(simulator, rows)  # quantize the weights
    pairs = [
        (cpu_s(lambda: prepared.outputs(simulator, ordered)), cpu_s(lambda: prepared.outputs(simulator, rows)))
        for _ in range(3)
    ]
    return statistics.median(a / b for a, b in pairs)


def peak_mb_in_subprocess(name: str, memory_mb: int) -> float | None:
    """Peak growth of resident memory; None where the system does not tell it."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--peak-of", name, "--memory-mb", str(memory_mb)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak_mb(network: Network, memory_mb: int, seed: int) -> float:
    """Peak resident memory of a short walk over the batch, less what weights and data already took."""
    prepared = Prepared.of(network)
    simulator, walk = prepared.simulator(memory_mb), prepared.walk(seed)[:4]
    for _ in simulator.outputs(walk, tuple(x[:1] for x in prepared.inputs)):
        pass  # quantize the weights, load the kernels
    ctypes.CDLL(None).malloc_trim(0)  # else the walk reuses what calibration freed, and nothing grows
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_kib("VmRSS")
    prepared.outputs(simulator, walk)
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--peak-of", choices=NETWORKS, help="print the peak memory of one network in MB, and stop")
    parser.add_argument("--memory-mb", type=int, default=DEFAULT_MB, help="bound for --peak-of")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        print(peak_mb(NETWORKS[options.peak_of], options.memory_mb, options.seed))
        return
    bench = Bench("bench_simulator", options, {f"{name}.batch": n.batch for name, n in NETWORKS.items()})
    for name in options.networks:
        network = NETWORKS[name]
        try:
            measure(bench, name, network, options.seed, 1 if options.quick else network.n_repeats)
        except HwsmpqError as error:
            bench.row(network=name, skipped=str(error))
    bench.finish()


if __name__ == "__main__":
    main()
