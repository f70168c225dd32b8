"""How far engines lie from the simulation, over public networks with random weights and small inputs.

Of every network, target and assignment (every precision of the target's ladder uniformly, and a random mixture): the
relative error of the engine's outputs, and the one that a certificate allows. ``differing`` are layers that the
engine's files are said to hold otherwise than prepared, ``otherwise`` those that the runtime is said to compute in
another precision than asked. The statistic was chosen on the networks of torchvision alone (``calibration``);
``alarms`` counts the engines beyond it among those of timm and transformers (extra ``zoo``), which had no part in it,
that run as asked.
An interrupted run goes on with the networks that are not yet in the file of ``--json``.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _zoo
import torch
from _bench import Bench, arguments
from _zoo import make, names
from torch import Tensor

from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.engine.agree import N_SAMPLES, agreement
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.inputs import names_in, tensors_in
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Ladder, Realised, Survey

TARGETS = ("openvino-cpu", "onnxruntime-cpu")
CALIBRATION, REPORT = ("torchvision",), ("timm", "transformers")
N_CALIBRATION = 8
MOST_PARAMETERS, MOST_INPUTS = 10_000_000, 3 * 128 * 128


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas")
    parser.add_argument("--networks", default=":", help="library:network, or a part of it, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _zoo.N_ROWS = N_CALIBRATION + N_SAMPLES
    torch.set_grad_enabled(False)
    bench = Bench("bench_agree", options, {"outputs": N_SAMPLES}, ("torchvision", "openvino", "onnxruntime"))
    if options.json and options.json.exists():
        bench.rows = json.loads(options.json.read_text())["rows"]
    known = {(row["network"], row["target"]) for row in bench.rows}
    wanted = [name for name in names(None) if name.partition(":")[0] in CALIBRATION + REPORT
              and any(part in name for part in options.networks.split(","))]
    for name in wanted[: 4 if options.quick else None]:
        targets = [target for target in options.targets.split(",") if (name, target) not in known]
        if not targets:
            continue
        try:
            made = make(name, options.seed)
            inputs = tensors_in(made.inputs)
            if sum(x.numel() for x in made.model.parameters()) > MOST_PARAMETERS or inputs[0][0].numel() > MOST_INPUTS:
                continue
            captured = capture(made.model, tuple(x[:N_CALIBRATION] for x in inputs), names_in(made.inputs))
            for target in targets:
                for row in measure(captured, inputs, target, options.seed):
                    bench.row(network=name, target=target, **row)
        except Exception as error:
            print(f"{name}: {str(error).splitlines()[:1]}", flush=True)
        judge(bench)
    bench.finish()


def judge(bench: Bench) -> None:
    """Figures of the rows so far, kept in the file."""
    for target in sorted({row["target"] for row in bench.rows}):
        for part, libraries in (("calibration", CALIBRATION), ("report", REPORT)):
            rows = [row for row in bench.rows
                    if row["target"] == target and row["network"].partition(":")[0] in libraries]
            ratios = [row["error"] / row["allowed"] for row in rows if not row["otherwise"]]
            bench.figures |= {
                f"{target}.{part}.engines": len(rows),
                f"{target}.{part}.networks": len({row["network"] for row in rows}),
                f"{target}.{part}.alarms": sum(ratio > 1 for ratio in ratios),
                f"{target}.{part}.largest_ratio": max(ratios, default=0),
                f"{target}.{part}.files_alarm": sum(row["differing"] > 0 for row in rows),
            }
    bench.write()


def measure(captured: Captured, inputs: tuple[Tensor, ...], name: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row an assignment."""
    target = get_target(name)
    ladder = Ladder.parse(",".join(target.default_ladder))
    captured = captured.with_ties(target.ties(captured))
    captured = captured.with_substitutes(substitutes(target, captured.network, ladder))
    scheme, quantizing = get_scheme(target.scheme_name), [ladder.precisions[0]]
    calibration, rows = (tuple(x[part] for x in inputs) for part in (slice(N_CALIBRATION), slice(-N_SAMPLES, None)))
    ranges = calibrate(captured, calibration, scheme, [8], smooth=quantizing, correct=quantizing)
    simulator, builder = Simulator(captured, ranges, scheme), Builder(captured, ranges, scheme, target)
    survey, rng = Survey(target.native, captured.network.substitutes), random.Random(seed)
    mixed = {g: rng.choice(ladder.names) for g in captured.network.group_names}
    layers = [layer.name for layer in captured.network.layers]
    for what in (*ladder.names, "mixture"):
        while True:  # as the target runs it: a layer without a kernel is no wrong result
            network = survey.realise(captured.network)
            assignment = network.realise(mixed) if what == "mixture" else network.uniform(what)
            with TemporaryDirectory() as folder:
                builder.write(assignment, Path(folder))
                engine = target.load(Path(folder))
                found = engine_outputs(engine, rows)
                audit = builder.audit(assignment, engine, Path(folder))
                longer = replace(survey, engines=(*survey.engines, Realised(assignment, engine.realised(layers))))
            if longer.fallbacks(captured.network) == survey.fallbacks(captured.network):
                break
            survey = longer
        start = time.process_time()
        one = agreement(simulator, assignment, rows, found)
        yield {"assignment": what, "error": one.error, "allowed": one.allowed, "cpu_s": time.process_time() - start,
               "n_layers": len(layers),
               "differing": sum(bool(layer.differs) for layer in audit),
               "otherwise": sum(layer.realised not in (layer.requested, NOT_AUDITED) for layer in audit),
               "fallbacks": len(survey.fallbacks(captured.network))}


if __name__ == "__main__":
    main()
