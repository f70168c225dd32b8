"""Where processors compute in bf16: plans of int8, bf16 and fp32 against what OpenVINO does by itself.

For every network the whole loop searches the fastest plan that keeps a drop (of trained networks; those of torchvision
have random weights, and get the fastest plan of all). Then all engines are timed in one interleaved run, on one thread
and its CPU time: the runtime's own default (the fp32 file loaded without settings), the same file in f32, uniform int8
and bf16, and the plan. Mixtures of three precisions that the cost model has not seen say how well it predicts, and
latency budgets between the fastest and the slowest uniform engine whether they are kept.

Figures: ``<network>.<what>.latency_ms``, ``.ratio`` (to the default) and ``.spread`` (relative, of the latency), for
``default``, ``f32``, ``bf16``, ``int8``, ``plan``; ``<network>.plan.plain_ratio`` (without settings);
``<network>.<what>.metric_drop`` and ``.kl`` where it is trained; ``<network>.n_int8``, ``.n_bf16``, ``.n_fp32``
(groups of the plan); ``<network>.mape`` and ``.worst`` (percent); ``cost_model.mape``; ``budgets_met``,
``budgets_tried``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import Bench, arguments
from _cost_networks import NETWORKS

from hwsmpq.device.timing import TimingRequest, measure
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prepare.profile import cost_model, profile, timing_inputs
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.types import CHOSEN, CostTable, Manifest, Plan, Settings

LADDER = ("int8", "bf16", "fp32")
DROP = {"efficientnet_lite0": 1.0, "resnet20": 1.0, "minilm": 0.5}
"""Points that a trained network may lose."""
ANY_DROP = 100.0
BENCHED = (*DROP, "mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "resnet18")
OTHER_SEED = 1000


def main() -> None:
    parser = arguments("Plans of int8, bf16 and fp32 against what OpenVINO does by itself.")
    parser.add_argument("--networks", nargs="+", default=[name for name in BENCHED if name != "minilm"])
    parser.add_argument("--levels", type=int, default=2, help="latency budgets a network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_fitted, n_unseen, seconds = (4, 4, 5.0) if options.quick else (12, 12, 20.0)
    bench = Bench("bench_bf16", options, {"fitted": n_fitted, "unseen": n_unseen}, ("torchvision", "openvino"))
    met, errors = [], []
    for name in options.networks:
        with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
            task, folder = NETWORKS[name](), Path(scratch) / "run"
            settings = Settings(
                task.name, ladder=LADDER, seed=options.seed, n_mixtures=n_fitted, timing_seconds=seconds,
                estimator="one-at-a-time", n_score_samples=32, search_evaluations=20,
            )
            run = Run(folder, settings, task)
            table = profile(run)
            assert table is not None
            for level in range(1, options.levels + 1):
                copy = Run(shutil.copytree(folder, Path(scratch) / f"level{level}"), settings, task)
                met.append(_budget(bench, copy, name, level / (options.levels + 1)))
            errors.append(_predictions(bench, run, table, name, n_unseen, seconds, options))
            _plan(bench, run, name, seconds, options)
        bench.figures |= {
            "cost_model.mape": float(np.mean(errors)), "budgets_met": float(sum(met)), "budgets_tried": float(len(met)),
        }
        bench.write()
    bench.finish()


def _budget(bench: Bench, run: Run, network: str, share: float) -> bool:
    """A latency budget, ``share`` of the way from the fastest uniform engine to the slowest; whether it is kept."""
    uniform = [one.median_ms for one in run.read(CostTable).uniform_ms.values()]
    limit = min(uniform) + share * (max(uniform) - min(uniform))
    (outcome,) = refine(run, resolve_budgets(run, latency_ms=limit)).budgets
    bench.row(network=network, limit_ms=limit, measured_ms=outcome.measured, met=outcome.met)
    return outcome.met


def _predictions(
    bench: Bench, run: Run, table: CostTable, network: str, n: int, seconds: float, options: argparse.Namespace
) -> float:
    """Mean error of predictions for unseen mixtures, in percent."""
    known = [timing.assignment for timing in table.engines]
    prepared = prepare(run)
    model = cost_model(prepared)
    assert model is not None
    drawn = draw_mixtures(prepared.network, run.ladder, n, options.seed + OTHER_SEED)
    unseen = {f"unseen {i}": x for i, x in enumerate(drawn) if x not in known}
    assignments = {name: prepared.network.uniform(name) for name in LADDER} | unseen
    engines = {name: prepared.builder.engine(x) for name, x in assignments.items()}
    times = measure(engines, TimingRequest(timing_inputs(run), options.seed, seconds)).as_when(table.uniform_ms)
    errors = [100 * abs(model.predict(x) / times[name].median_ms - 1) for name, x in unseen.items()]
    bench.figures |= {f"{network}.mape": float(np.mean(errors)), f"{network}.worst": max(errors)}
    return float(np.mean(errors))


def _plan(bench: Bench, run: Run, network: str, seconds: float, options: argparse.Namespace) -> None:
    certificate = refine(run, resolve_budgets(run, max_drop=DROP.get(network, ANY_DROP)))
    folder, builder, uniform = run.path(Manifest).parent, prepare(run).builder, prepare(run).network.uniform
    counts = Counter(run.read(Plan).assignment.values())
    engines = {
        "default": builder.untouched(), "f32": builder.engine(uniform("fp32")), "bf16": builder.engine(uniform("bf16")),
        "int8": builder.engine(uniform("int8")),
        "plan": run.target.load(folder), "plain": run.target.load_plainly(folder),
    }
    times = measure(engines, TimingRequest(timing_inputs(run), options.seed, 2 * seconds)).measured
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
    bench.figures |= {f"{network}.n_{name}": float(counts[name]) for name in LADDER}
    bench.row(network=network, verified=certificate.verified, **{f"n_{name}": counts[name] for name in LADDER})




if __name__ == "__main__":
    main()
