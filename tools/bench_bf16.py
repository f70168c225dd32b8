"""Where processors compute in bf16: plans of int8, bf16 and fp32 against what OpenVINO does by itself.

For every network the whole loop searches the fastest plan that keeps a drop (of trained networks; those of torchvision
have random weights, and get the fastest plan of all). Then all engines are timed in one interleaved run, on one thread
and its CPU time: the runtime's own default (the fp32 file loaded without settings), the same file in f32, uniform int8
and bf16, and the plan. Mixtures of three precisions that the cost model has not seen say how well it predicts, and
latency budgets between the fastest and the slowest uniform engine whether they are kept.

On a machine that does other things too, keep the run folders (``--runs``) and go ``--until`` a stage: what is measured
by then is kept, and the last call, which only times, is short enough to stop all else for.

Figures: ``<network>.<what>.latency_ms``, ``.ratio`` (to the default) and ``.spread`` (relative, of the latency), for
``default``, ``f32``, ``bf16``, ``int8``, ``plan``; ``<network>.plan.plain_ratio`` (without settings);
``<network>.<what>.metric_drop`` and ``.kl`` where it is trained; ``<network>.n_int8``, ``.n_bf16``, ``.n_fp32``
(groups of the plan); ``<network>.mape`` and ``.worst`` (percent); ``cost_model.mape``; ``budgets_met``,
``budgets_tried`` with ``--levels``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import Bench, arguments
from _cost_networks import NETWORKS

from hwsmpq.device.measurement import Measurement
from hwsmpq.device.timing import Timing, TimingRequest, measure
from hwsmpq.hardware.cost_model import fit
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prepare.profile import profile, timing_inputs
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.types import CHOSEN, Certificate, CostTable, Manifest, Plan, Settings

LADDER = ("int8", "bf16", "fp32")
DROP = {"efficientnet_lite0": 1.0, "resnet20": 1.0, "minilm": 0.5}
"""Points that a trained network may lose."""
ANY_DROP = 100.0
BENCHED = (*DROP, "mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "resnet18")
OTHER_SEED = 1000
STAGES = ("prepare", "profile", "search", "time")
UNSEEN = "unseen.json"
"""In a run folder: how unseen mixtures were timed beside the uniform engines."""


def main() -> None:
    parser = arguments("Plans of int8, bf16 and fp32 against what OpenVINO does by itself.")
    parser.add_argument("--networks", nargs="+", default=[name for name in BENCHED if name != "minilm"])
    parser.add_argument("--levels", type=int, default=0, help="latency budgets a network")
    parser.add_argument("--streams", type=int, default=1, help="inferences side by side; latencies are then per result")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep the run folders here, and go on from them")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage; time needs the others")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one interleaved run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.n, options.seconds = (4, 5.0) if options.quick else (12, options.seconds)
    bench = Bench("bench_bf16", options, {"fitted": options.n, "unseen": options.n}, ("torchvision", "openvino"))
    with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
        for name in options.networks:
            _bench(bench, name, options.runs or Path(scratch), options)
    errors = [value for name, value in bench.figures.items() if name.endswith(".mape")]
    if errors:
        bench.figures["cost_model.mape"] = float(np.mean(errors))
    bench.finish()


def _bench(bench: Bench, name: str, folder: Path, options: argparse.Namespace) -> None:
    task, until = NETWORKS[name](), STAGES.index(options.until)
    settings = Settings(
        task.name, ladder=LADDER, seed=options.seed, n_mixtures=options.n, timing_seconds=options.seconds,
        estimator="one-at-a-time", n_score_samples=32, search_evaluations=20, streams=options.streams,
    )
    run = Run(folder / name, settings, task)
    prepare(run)
    if until >= 1:
        profile(run)
        _predictions(bench, run, name, options)
    if until >= 2:
        for level in range(1, options.levels + 1):
            copy = Run(_copied(run, folder / f"{name}-{level}"), settings, task)
            _budget(bench, copy, name, level / (options.levels + 1))
        certificate = refine(run, resolve_budgets(run, max_drop=DROP.get(name, ANY_DROP)))
        counts = Counter(run.read(Plan).assignment.values())
        bench.figures |= {f"{name}.n_{precision}": float(counts[precision]) for precision in LADDER}
        bench.row(network=name, verified=certificate.verified, **{f"n_{p}": counts[p] for p in LADDER})
    if until >= 3:
        _time(bench, run, name, options)


def _copied(run: Run, folder: Path) -> Path:
    """The run folder with what was measured for no budget yet."""
    if not folder.exists():
        shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("engine", "plan.json", "certificate.json"))
    return folder


def _budget(bench: Bench, run: Run, network: str, share: float) -> None:
    """A latency budget, ``share`` of the way from the fastest uniform engine to the slowest, and whether it is kept."""
    uniform = [one.median_ms for one in run.read(CostTable).uniform_ms.values()]
    limit = min(uniform) + share * (max(uniform) - min(uniform))
    (outcome,) = refine(run, resolve_budgets(run, latency_ms=limit)).budgets
    bench.row(network=network, limit_ms=limit, measured_ms=outcome.measured, met=outcome.met)
    for figure, more in (("budgets_met", outcome.met), ("budgets_tried", True)):
        bench.figures[figure] = bench.figures.get(figure, 0.0) + more


def _predictions(bench: Bench, run: Run, network: str, options: argparse.Namespace) -> None:
    """Errors of predictions for mixtures that no fit has seen, in percent."""
    prepared, table, kept = prepare(run), run.read(CostTable), run.folder / UNSEEN
    known = [engine.assignment for engine in table.engines]
    drawn = draw_mixtures(prepared.network, run.ladder, options.n, options.seed + OTHER_SEED)
    unseen = {f"unseen {i}": x for i, x in enumerate(drawn) if x not in known}
    if not kept.exists():
        assignments = {name: prepared.network.uniform(name) for name in LADDER} | unseen
        engines = {name: prepared.builder.engine(x) for name, x in assignments.items()}
        how = TimingRequest(timing_inputs(run), options.seed, options.seconds)
        kept.write_text(json.dumps(dataclasses.asdict(measure(engines, how))))
    found = json.loads(kept.read_text())
    timing = Timing({name: Measurement(**one) for name, one in found["measured"].items()}, found["noise"])
    times, model = timing.as_when(table.uniform_ms), fit(table, prepared.network)
    errors = [100 * abs(model.predict(x) / times[name].median_ms - 1) for name, x in unseen.items()]
    bench.figures |= {f"{network}.mape": float(np.mean(errors)), f"{network}.worst": max(errors)}


def _time(bench: Bench, run: Run, network: str, options: argparse.Namespace) -> None:
    certificate, folder = run.read(Certificate), run.path(Manifest).parent
    builder, uniform = prepare(run).builder, prepare(run).network.uniform
    engines = {
        "default": builder.untouched(), "f32": builder.engine(uniform("fp32")), "bf16": builder.engine(uniform("bf16")),
        "int8": builder.engine(uniform("int8")),
        "plan": run.target.load(folder), "plain": run.target.load_plainly(folder),
    }
    times = measure(engines, TimingRequest(timing_inputs(run), options.seed, options.seconds)).measured
    judged = {engine.name: engine for engine in certificate.engines}
    names = {"f32": "fp32", "plan": CHOSEN}
    for name, time in times.items():
        ratio = time.median_ms / times["default"].median_ms
        if name == "plain":
            bench.figures[f"{network}.plan.plain_ratio"] = ratio
            continue
        values: dict[str, Any] = {
            "latency_ms": time.median_ms, "ratio": ratio, "spread": time.spread_ms / time.median_ms
        }
        engine = judged.get(names.get(name, name))
        if network in DROP and engine is not None:
            values["metric_drop"] = 100 * (judged["fp32"].metric - engine.metric)
            if engine.kl is not None:
                values["kl"] = engine.kl
        bench.figures |= {f"{network}.{name}.{key}": value for key, value in values.items()}
        bench.row(network=network, engine=name, **values)


if __name__ == "__main__":
    main()
