"""How far engines lie from the simulation, over the networks of torchvision with random weights and small inputs.

Of every network, target and assignment (uniform fp32 and int8, two random mixtures): the relative error of the engine's
outputs, and the response of the simulated network to a disturbance of every layer. A certificate allows ``AMPLITUDE``
times the response, so ``<target>.alarms`` is the share of engines beyond that.
An interrupted run goes on with the networks that are not yet in the file of ``--json``.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from _bench import Bench, arguments
from torch import Tensor, nn

from hwsmpq.engine.agree import AMPLITUDE, N_SAMPLES
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.agreement import FLOOR, relative_error
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.disturb import Disturbance
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Ladder

TARGETS = ("openvino-cpu", "onnxruntime-cpu")
LADDER = Ladder.parse("int8,fp32")
N_CALIBRATION, N_STATISTICS, N_MIXTURES, N_CLASSES = 16, 24, 2, 100
MOST_PARAMETERS = 60_000_000
FIXED_INPUT = ("maxvit", "raft")
"""Networks that take no small images."""


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas")
    parser.add_argument("--networks", help="names, separated by commas; by default all that fit")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    bench = Bench("bench_agree", options, {"outputs": N_SAMPLES}, ("torchvision", "openvino", "onnxruntime"))
    if options.json and options.json.exists():
        bench.rows = json.loads(options.json.read_text())["rows"]
    known = {(row["network"], row["target"]) for row in bench.rows}
    names = options.networks.split(",") if options.networks else list(networks(options.seed))
    for name in names[: 4 if options.quick else None]:
        wanted = [target for target in options.targets.split(",") if (name, target) not in known]
        if not wanted:
            continue
        try:
            model, x = make(name, options.seed)
            captured = capture(model, (x[:N_CALIBRATION],))
            for target in wanted:
                for row in measure(captured, x, target, options.seed):
                    bench.row(network=name, target=target, **row)
        except (HwsmpqError, RuntimeError, ValueError) as error:
            print(f"{name}: {error}", flush=True)
        judge(bench)
    bench.finish()


def judge(bench: Bench) -> None:
    """Figures of the rows so far, kept in the file."""
    for target in sorted({row["target"] for row in bench.rows}):
        rows = [row for row in bench.rows if row["target"] == target]
        ratios = [row["error"] / max(FLOOR / AMPLITUDE, row["response"]) for row in rows]
        bench.figures |= {
            f"{target}.engines": len(rows),
            f"{target}.networks": len({row["network"] for row in rows}),
            f"{target}.alarms": sum(ratio > AMPLITUDE for ratio in ratios) / len(rows),
            f"{target}.largest_ratio": max(ratios),
        }
    bench.write()


def networks(seed: int) -> Iterator[str]:
    """Names of classification networks that are small enough, in random order."""
    names = torchvision.models.list_models(module=torchvision.models)
    for name in random.Random(seed).sample(names, len(names)):
        if not name.startswith(FIXED_INPUT):
            weights = torchvision.models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
            if weights.meta["num_params"] < MOST_PARAMETERS:
                yield name


def make(name: str, seed: int) -> tuple[nn.Module, Tensor]:
    """A network whose batch norms have statistics, and images."""
    torch.manual_seed(seed)
    size = 96 if name in ("inception_v3", "alexnet") else 64
    more: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
    if name in ("inception_v3", "googlenet"):
        more = {"init_weights": True, "aux_logits": False}
    net = torchvision.models.get_model(name, weights=None, num_classes=N_CLASSES, **more)
    n = N_CALIBRATION + N_STATISTICS + N_SAMPLES
    coarse = torch.randn(n, 3, size // 4, size // 4)
    x = nn.functional.interpolate(coarse, size=size, mode="bilinear") + 0.3 * torch.randn(n, 3, size, size)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
        elif isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    net.train()
    net(x[N_CALIBRATION:][:N_STATISTICS])
    return net.eval(), x


def measure(captured: Captured, x: Tensor, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row an assignment."""
    target = get_target(name)
    captured = captured.with_ties(target.ties(captured))
    captured = captured.with_substitutes(substitutes(target, captured.network, LADDER))
    scheme, quantizing = get_scheme(target.scheme_name), [LADDER.precisions[0]]
    ranges = calibrate(captured, (x[:N_CALIBRATION],), scheme, [8], smooth=quantizing, correct=quantizing)
    simulator, builder = Simulator(captured, ranges, scheme), Builder(captured, ranges, scheme, target)
    network, rng, rows = captured.network, random.Random(seed), (x[-N_SAMPLES:],)
    assignments = {precision: network.uniform(precision) for precision in (REFERENCE, LADDER.floor)}
    for mixture in range(N_MIXTURES):
        share = rng.random()
        drawn = {g: LADDER.names[rng.random() > share] for g in network.group_names}
        assignments[f"mixture {mixture}"] = network.realise(drawn)
    for what, assignment in assignments.items():

        def simulated(simulator: Simulator, assignment: dict[str, str] = assignment) -> Tensor:
            return simulator.scores([assignment], rows, lambda out, rows: out)[0]

        start, expected = time.process_time(), simulated(simulator)
        response = relative_error([expected], [simulated(simulator.disturbed(Disturbance()))])
        seconds = time.process_time() - start
        with builder.temporary(assignment) as engine:
            error = relative_error([expected], [engine_outputs(engine, rows)])
        yield {"assignment": what, "error": error, "response": response, "cpu_s": seconds}


if __name__ == "__main__":
    main()
