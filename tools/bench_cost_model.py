"""How well latencies of engines that the fit has not seen are predicted, and whether latency budgets are met.

For each target and network: a cost table is profiled as `hwsmpq profile` does it, and mixtures that are not in it are
built and timed in one interleaved run with the uniform engines, each over several loads. Models:

- ``isolated_sum``: the sum of every layer's latency as an engine of its own,
- ``counter_sum``: the sum of the runtime's counters in the uniform engines,
- ``anchored``: the same, scaled and shifted so that the uniform engines are exact,
- ``ours``: with switching costs, as the search uses it.

Then latency budgets at evenly spaced levels between the uniform engines of the ladder's ends go through the whole loop
(search, build, verify, and again while the measured engine misses), each from the same table. Only latency is judged
here: contributions are Fisher's, the plan is the additive one, and the networks of torchvision have random weights.

Figures: ``<target>.<network>.<model>.mape``, ``.worst`` (both in percent), ``.spearman``; ``.ours.coverage90``;
``.n_fitted`` (mixtures in the fit), ``.fit_s`` (wall time of the profile), ``.noise``;
``<target>.budgets_met``, ``.budgets_tried``, ``.mean_slack`` (share of the budget left unused by engines that met it)
and ``.mean_rounds``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from _bench import Bench, arguments
from _cost_networks import NETWORKS
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from hwsmpq.device.runtime import Engine
from hwsmpq.device.timing import TimingRequest, measure
from hwsmpq.engine.build import Builder
from hwsmpq.hardware.cost_model import anchored, fit
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.model.capture import capture
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prepare.profile import profile, timing_inputs
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.types import Assignment, CostTable, Settings

RUNTIMES = {"openvino-cpu": "openvino", "onnxruntime-cpu": "onnxruntime"}
"""Target -> the package that runs its engines."""
BENCHED = ("resnet18", "mobilenet_v2", "resnet20", "efficientnet_lite0")
N_FITTED, N_UNSEEN, N_LEVELS = 12, 30, 5
N_FITTED_QUICK, N_UNSEEN_QUICK, N_LEVELS_QUICK = 4, 6, 1
PROFILE_SECONDS, MIXTURE_SECONDS, VERIFY_SECONDS, ISOLATED_SECONDS = 60.0, 60.0, 8.0, 20.0
OTHER_SEED = 1000
"""Added to the seed for the unseen mixtures."""


def main() -> None:
    parser = arguments("Predictions of latency, and latency budgets, on engines that the cost model has not seen.")
    parser.add_argument("--targets", default=",".join(RUNTIMES))
    parser.add_argument("--networks", default=",".join(BENCHED))
    parser.add_argument("--ladder", default="int8,fp32")
    options = parser.parse_args()
    targets = options.targets.split(",")
    n_unseen, n_levels = (N_UNSEEN_QUICK, N_LEVELS_QUICK) if options.quick else (N_UNSEEN, N_LEVELS)
    bench = Bench(
        "bench_cost_model", options, {"fitted": _n_fitted(options), "unseen": n_unseen, "levels": n_levels},
        ["torchvision", *(RUNTIMES[target] for target in targets if target in RUNTIMES)],
    )
    with tempfile.TemporaryDirectory(prefix="hwsmpq-bench-") as scratch:
        for target in targets:
            for name in options.networks.split(","):
                folder = Path(scratch) / target / name
                task = NETWORKS[name]()
                start = time.monotonic()
                run = _run(folder, task, target, options)
                table = profile(run)
                assert table is not None
                bench.figures |= {
                    f"{target}.{name}.n_fitted": len(table.engines), f"{target}.{name}.noise": table.noise,
                    f"{target}.{name}.fit_s": time.monotonic() - start,
                }
                _predictions(bench, run, table, f"{target}.{name}", n_unseen, options)
                for level in range(1, n_levels + 1):
                    copy = Path(shutil.copytree(folder, folder.with_name(f"{name}-{level}")))
                    _budget(bench, _run(copy, task, target, options, VERIFY_SECONDS), name, level / (n_levels + 1))
                _summary(bench, target)
                bench.write()
    bench.finish()


def _n_fitted(options: argparse.Namespace) -> int:
    return N_FITTED_QUICK if options.quick else N_FITTED


def _run(folder: Path, task: Task, target: str, options: argparse.Namespace, seconds: float = PROFILE_SECONDS) -> Run:
    settings = Settings(
        task.name, target=target, ladder=tuple(options.ladder.split(",")), seed=options.seed,
        estimator="fisher", additive=True, n_score_samples=32, n_mixtures=_n_fitted(options),
        timing_seconds=seconds / (4 if options.quick else 1),
    )
    return Run(folder, settings, task)


def _predictions(
    bench: Bench, run: Run, table: CostTable, prefix: str, n_unseen: int, options: argparse.Namespace
) -> None:
    """Unseen mixtures, measured and predicted by every model."""
    network, fitted = prepare(run).network, [timing.assignment for timing in table.engines]
    drawn = draw_mixtures(network, run.ladder, n_unseen, options.seed + OTHER_SEED)
    unseen = {f"unseen {i}": x for i, x in enumerate(drawn) if x not in fitted}
    assignments = {name: network.uniform(name) for name in run.ladder.names} | unseen
    engines: dict[str, Engine] = {name: run.builder.engine(x) for name, x in assignments.items()}
    share = 0.25 if options.quick else 1.0
    timing = measure(engines, TimingRequest(timing_inputs(run), options.seed, share * MIXTURE_SECONDS))
    times = timing.as_when(table.uniform_ms)
    measured = np.array([times[name].median_ms for name in unseen])
    model = fit(table, network)
    plain = anchored(table, network)
    isolated, layers = _isolated(run, share * ISOLATED_SECONDS), network.layers
    models: dict[str, Callable[[Assignment], float]] = {
        "isolated_sum": lambda x: sum(isolated[layer.name][x[network.group_of(layer.name)]] for layer in layers),
        "counter_sum": lambda x: sum(table.group_ms[g][p] for g, p in x.items()),
        "anchored": plain.predict,
        "ours": model.predict,
    }
    for name, predicted in models.items():
        found = np.array([predicted(x) for x in unseen.values()])
        bench.figures |= _errors(f"{prefix}.{name}", found, measured)
    intervals = np.array([model.interval_ms(x) for x in unseen.values()])
    inside = (intervals[:, 0] <= measured) & (measured <= intervals[:, 1])
    bench.figures[f"{prefix}.ours.coverage90"] = float(inside.mean())
    lowest = run.ladder.names[0]
    for (name, x), ms, (low, high) in zip(unseen.items(), measured, intervals, strict=True):
        bench.row(
            network=prefix, mixture=name, measured_ms=float(ms), spread_ms=times[name].spread_ms,
            interval_low_ms=float(low), interval_high_ms=float(high),
            **{f"n_{lowest}": list(x.values()).count(lowest)},
            **{f"{model}_ms": float(predicted(x)) for model, predicted in models.items()},
        )


def _errors(prefix: str, predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> dict[str, float]:
    errors = 100 * np.abs(predicted / measured - 1)
    return {
        f"{prefix}.mape": float(errors.mean()), f"{prefix}.worst": float(errors.max()),
        f"{prefix}.spearman": float(spearmanr(predicted, measured).statistic),
    }


class _Alone(Engine):
    """An engine with inputs of its own."""

    def __init__(self, engine: Engine, inputs: list[NDArray[np.float32]]) -> None:
        self._engine, self._inputs = engine, inputs

    def clock(self) -> float:
        return self._engine.clock()

    def milliseconds(self, inputs: Sequence[NDArray[np.float32]]) -> float:
        return self._engine.milliseconds(self._inputs)

    def reload(self) -> None:
        self._engine.reload()

    def infer(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return self._engine.infer(self._inputs)

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        return self._engine.realised(layers)

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[np.float32]], n_repeats: int
    ) -> dict[str, float]:
        return self._engine.layer_ms(layers, self._inputs, n_repeats)


def _isolated(run: Run, seconds: float) -> Mapping[str, Mapping[str, float]]:
    """Layer -> precision -> ms of an engine that has this layer only, in what the target runs it in. Layers of one
    shape are measured once."""
    network, names = prepare(run).network, run.ladder.names
    modules = _modules(run, [layer.name for layer in network.layers])
    keys = {name: f"{module} {tuple(x.shape)}" for name, (module, x) in modules.items()}
    levels = network.levels(names)
    realised = {name: dict(zip(names, levels[network.group_of(name)], strict=True)) for name in modules}
    engines: dict[str, Engine] = {}
    builders = []  # engines are loaded again from their files, which live as long as these
    for name, key in keys.items():
        if f"{key} {names[-1]}" not in engines:
            module, x = modules[name]
            captured = capture(module, (x,))
            ranges = calibrate(captured, (x,), run.scheme, [8])
            builders.append(Builder(captured, ranges, run.scheme, run.target))
            for precision in dict.fromkeys(realised[name].values()):
                engine = builders[-1].engine(captured.network.uniform(precision))
                engines[f"{key} {precision}"] = _Alone(engine, [x.numpy()])
    measured = measure(engines, TimingRequest([], run.settings.seed, seconds)).measured
    return {
        name: {asked: measured[f"{keys[name]} {found}"].median_ms for asked, found in realised[name].items()}
        for name in modules
    }


def _modules(run: Run, names: Sequence[str]) -> dict[str, tuple[nn.Module, Tensor]]:
    """The modules of these names with one sample of their input."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, name=name: found.update({name: (module, args[0].clone())})
        )
        for name, module in run.task.model.named_modules() if name in names
    ]
    with torch.no_grad():
        run.task.model.eval()(*(x[:1] for x in run.task.calibration))
    for hook in hooks:
        hook.remove()
    return found


def _budget(bench: Bench, run: Run, network: str, share: float) -> None:
    """One latency budget, ``share`` of the way between the uniform engines of the ladder's ends, through the loop."""
    uniform = run.read(CostTable).uniform_ms
    low, high = (uniform[name].median_ms for name in (run.ladder.names[0], run.ladder.top))
    limit = low + share * (high - low)
    certificate = refine(run, resolve_budgets(run, latency_ms=limit))
    (outcome,) = certificate.budgets
    assert outcome.measured is not None and certificate.latency_ms is not None
    bench.row(
        target=run.target.name, network=network, share=share, limit_ms=limit, measured_ms=outcome.measured,
        predicted_ms=certificate.latency_ms.predicted, met=outcome.met, rounds=len(certificate.rounds),
        slack=1 - outcome.measured / limit,
    )


def _summary(bench: Bench, target: str) -> None:
    budgets = [row for row in bench.rows if row.get("target") == target]
    met = [row for row in budgets if row["met"]]
    bench.figures |= {
        f"{target}.budgets_tried": len(budgets), f"{target}.budgets_met": len(met),
        f"{target}.mean_rounds": float(np.mean([row["rounds"] for row in budgets])),
    }
    if met:
        bench.figures[f"{target}.mean_slack"] = float(np.mean([row["slack"] for row in met]))


if __name__ == "__main__":
    main()
