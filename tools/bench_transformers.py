"""Transformers on OpenVINO from end to end: how fast engines are, and how far from fp32, uniform and chosen.

- ``minilm``: trained sentence embeddings, two sentences of 32 tokens an inference. ``plan`` is what the toolkit chooses
  from the whole ladder: the closest to fp32 of all that are at least half as much faster than it as the fastest uniform
  engine is.
- ``vit``: torchvision's ViT-B/16 on one image of 224 x 224, with random weights.
- ``decoder``: blocks of a decoder on the one row that a new token is, with random weights.

All engines of a network are timed in one interleaved run, on one thread and its CPU time, and judged on the report
part, which neither calibration nor search saw.

Figures, for each network and engine: ``latency_ms``; ``latency_ratio`` (to the fp32 engine) and its spread;
``to_default`` (to what OpenVINO makes of the fp32 file by itself, where it does not compute that in fp32);
``size_mb`` of the file of the weights; ``sqnr_db`` of the outputs against those of the fp32 engine; ``n_other``, layers
that run in another precision than the one the engine is named for. For MiniLM also ``spearman``, the ``lost_points``
of it and the ``distance`` (1 - cosine), both against the fp32 engine and with paired standard errors.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from _bench import Bench, arguments
from _peer_networks import NETWORKS as PEER_NETWORKS
from _peer_networks import Judge
from _transformer_networks import NETWORKS
from torch import Tensor

from hwsmpq.device.openvino import FILE
from hwsmpq.device.timing import TimingRequest, measure
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prepare.profile import profile, timing_inputs
from hwsmpq.pipeline.prepare.survey import prepare, survey
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.types import BY_ITSELF, REFERENCE, Assignment, Ladder, Plan, Settings

LADDER = Ladder.parse("w4a16,int8,w8a16,fp32")
TRAINED = "minilm"
SECONDS, SECONDS_QUICK = 30.0, 3.0
SEARCH: dict[str, Any] = {"estimator": "one-at-a-time", "n_score_samples": 64, "timing_seconds": 10.0}
SEARCH_QUICK: dict[str, Any] = {
    **SEARCH, "n_score_samples": 8, "n_mixtures": 2, "search_evaluations": 10, "timing_seconds": 1.0,
}


def main() -> None:
    parser = arguments("Transformers on OpenVINO: latency and accuracy of uniform and chosen engines.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples: dict[str, int] = {}
    bench = Bench("bench_transformers", options, samples, ("torchvision", "openvino"))
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            compare(bench, name, Path(folder))
    bench.finish()


def compare(bench: Bench, name: str, folder: Path) -> None:
    """One row for every engine of a network."""
    options = bench.options
    settings = Settings(
        ladder=LADDER.names, value="mse", seed=options.seed, **(SEARCH_QUICK if options.quick else SEARCH)
    )
    task = NETWORKS[name](options.quick)
    run = Run(folder / "run", settings, task, notify=lambda text: print(f"  {text}", flush=True))
    survey(run)
    assignments = {precision: prepare(run).network.uniform(precision) for precision in LADDER.names}
    if name == TRAINED:
        assignments["plan"] = chosen(run)
    for engine, assignment in assignments.items():
        run.builder.write(assignment, folder / engine)
    engines = {engine: run.target.load(folder / engine) for engine in assignments}
    if run.target.computes_in != REFERENCE:
        engines[BY_ITSELF] = run.builder.untouched()
    timed = measure(
        engines, TimingRequest(timing_inputs(run), options.seed, SECONDS_QUICK if options.quick else SECONDS)
    ).measured
    report, fp32_ms = run.parts[1], timed[REFERENCE].median_ms
    bench.samples[f"{name}.report"] = len(report)
    outputs = {engine: engine_outputs(loaded, report.inputs) for engine, loaded in engines.items()}
    layers = [layer.name for layer in run.network.layers]
    for engine, loaded in engines.items():
        ran = Counter(loaded.realised(layers).values() if engine in assignments else [])
        figures = {
            "latency_ms": timed[engine].median_ms, "latency_ratio": timed[engine].median_ms / fp32_ms,
            "latency_ratio_spread": timed[engine].spread_ms / fp32_ms,
        }
        if BY_ITSELF in timed:
            figures["to_default"] = timed[engine].median_ms / timed[BY_ITSELF].median_ms
        if engine in assignments:
            figures["size_mb"] = (folder / engine / FILE).with_suffix(".bin").stat().st_size / 1e6
            figures["n_other"] = len(layers) - ran[engine]
        if not torch.equal(outputs[engine], outputs[REFERENCE]):
            figures["sqnr_db"] = sqnr_db(outputs[REFERENCE], outputs[engine])
        if name == TRAINED:
            figures |= judged(run, outputs[REFERENCE], outputs[engine])
        bench.row(network=name, engine=engine, **figures, ran=dict(ran))
        bench.figures |= {f"{name}.{engine}.{figure}": value for figure, value in figures.items()}


def judged(run: Run, reference: Tensor, outputs: Tensor) -> dict[str, float]:
    """What sentence embeddings of the report part are worth."""
    network, report = PEER_NETWORKS[TRAINED], run.parts[1]
    judge = Judge(network, run.task, report, reference, run.settings.seed)
    distance, lost = judge.distance(outputs), judge.lost_points(outputs)
    return {
        "spearman": network.metric_of(network.metric(run.task, report, outputs), report),
        "distance": distance[0], "distance_stderr": distance[1],
        "lost_points": lost[0], "lost_points_stderr": lost[1],
    }


def chosen(run: Run) -> Assignment:
    """The toolkit's plan within a latency midway between the fastest uniform engine and the one in fp32."""
    table = profile(run)
    assert table is not None
    uniform_ms = {name: measured.median_ms for name, measured in table.uniform_ms.items()}
    refine(run, resolve_budgets(run, latency_ms=(min(uniform_ms.values()) + uniform_ms[REFERENCE]) / 2))
    return run.read(Plan).assignment


def sqnr_db(signal: Tensor, other: Tensor) -> float:
    """Signal-to-noise ratio of outputs against others."""
    return float(10 * torch.log10(signal.square().mean() / (signal - other).square().mean()))


if __name__ == "__main__":
    main()
