"""This project against NNCF on OpenVINO: accuracy, latency and search time of the engines that each of them makes.

All tools get the same calibration samples, the same fp32 model and the same search part; their engines run in the same
OpenVINO. Every engine of a network is timed in one interleaved run, on one thread and its CPU time, and judged on the
report part, which no tool saw. Besides the fastest plan that loses at most one point (``ours``), this project is asked
for plans that match an engine of NNCF: the most accurate one that is as fast (``ours_at_latency_of_<tool>``), and the
fastest one that stays as close to the fp32 network (``ours_at_kl_of_<tool>``). ``ours_cheap`` does the same with every
group scored alone on 64 samples (``--estimator one-at-a-time --n-score-samples 64``).

Figures, for each network and tool: ``metric_drop`` (points), ``kl`` (for embeddings 1 - cosine), ``latency_ratio`` (to
the fp32 engine, floats computed in f32 unless the file says otherwise), ``plain_to_default`` (loaded without settings,
as the tools' documentation does, to the fp32 file likewise: on some processors OpenVINO computes floats in bf16 then),
``search_s``, and for matched plans the differences to the peer. The row ``runtime_default`` is the fp32 file without
settings. What a tool has made is kept in the work folder, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import Bench, arguments
from _peer_networks import NETWORKS, Judge, Network
from _peer_nncf import MATCHED, quantize, require
from _peer_nncf import TOOLS as NNCF_TOOLS
from _peer_ours import VARIANTS, Clock, Ours, Record, engine_in

from hwsmpq.device.openvino import OpenvinoEngine
from hwsmpq.device.timing import TimingRequest, measure
from hwsmpq.engine.build import ONNX_FILE
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.pipeline.prepare.profile import timing_inputs
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.types import REFERENCE, Measurement

DEFAULT, PLAIN = "runtime_default", " without settings"
AT_LATENCY, AT_KL = "_at_latency_of_", "_at_kl_of_"
SECONDS, SECONDS_QUICK = 60.0, 5.0
FIGURES = tuple(
    f"{name}{suffix}"
    for name, suffixes in (
        ("metric_drop", ("", "_stderr")), ("kl", ("", "_stderr")), ("latency_ratio", ("", "_spread")),
        ("plain_to_default", ("",)),
        ("search", ("_s", "_cpu_s")), ("kl_minus_peer", ("", "_stderr")), ("drop_minus_peer", ("", "_stderr")),
        ("latency_to_peer", ("",)),
    )
    for suffix in suffixes
)
DONE_FILE, ROWS_FILE, RATIOS_FILE = "done.json", "rows.json", "ratios.json"


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_peers"), help="where finished work is kept")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--tools", default=",".join((*NNCF_TOOLS, *VARIANTS)), help="names, separated by commas")
    parser.add_argument("--unmatched", action="store_true", help="leave out the plans that match an engine of NNCF")
    options = parser.parse_args()
    names, tools = (_chosen(parser, text, known) for text, known in (
        (options.networks, NETWORKS), (options.tools, (*NNCF_TOOLS, *VARIANTS)),
    ))
    if any(tool in NNCF_TOOLS for tool in tools):
        require()
    work = options.work / f"{'quick' if options.quick else 'full'}-{options.seed}"
    samples: dict[str, int] = {}
    packages = ("openvino", *(["nncf"] if find_spec("nncf") else []))
    bench = Bench("bench_peers", options, samples, packages)
    for name in names:
        comparison = Comparison(name, work / name, options.seed, options.quick)
        samples |= comparison.samples
        for row in comparison.compare(tools, () if options.unmatched else MATCHED):
            bench.row(**row)
            for figure, value in row.items():
                if figure in FIGURES:
                    bench.figures[f"{name}.{row['tool']}.{figure}"] = value
    bench.finish()


def _chosen(parser: argparse.ArgumentParser, text: str, known: Any) -> list[str]:
    chosen = [name for name in text.split(",") if name]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        parser.error(f"unknown: {', '.join(unknown) or text!r}; choose among {', '.join(known)}")
    return chosen


class Comparison:
    """All tools on one network."""

    def __init__(self, name: str, folder: Path, seed: int, quick: bool) -> None:
        print(f"{name}", flush=True)
        self._name, self._folder, self._seed, self._quick = name, folder, seed, quick
        self._network: Network = NETWORKS[name]
        self._task = self._network.load(quick)
        self._ours = {
            variant: Ours(variant, folder / variant / "run", self._network, self._task, seed, quick)
            for variant in VARIANTS
        }
        self._run = self._ours[next(iter(VARIANTS))].run
        self._search_part, report_part = self._run.parts
        self.samples = {
            f"{name}.calibration": len(self._task.calibration[0]), f"{name}.search": len(self._search_part),
            f"{name}.report": len(report_part),
        }
        self._stored(REFERENCE, self._fp32)
        self._default = self._stored(DEFAULT, self._untouched)
        self._judge = Judge(self._network, self._task, report_part, self._outputs(REFERENCE, "report"), seed)

    def compare(self, tools: list[str], matched: Collection[str]) -> list[dict[str, Any]]:
        """One row for every engine, all of them timed in one run.

        Args:
            matched: tools that plans of ours are matched to.
        """
        records = {tool: self._stored(tool, self._nncf(tool)) for tool in tools if tool in NNCF_TOOLS}
        peers = [tool for tool in records if tool in matched]
        records[DEFAULT] = self._default
        ratios = self._ratios(peers)
        for variant in (tool for tool in tools if tool in VARIANTS):
            ours = self._ours[variant]
            records[variant] = self._stored(variant, ours.default)
            for tool in peers:
                name = variant + AT_LATENCY + tool
                records[name] = self._stored(
                    name, lambda to, ours=ours, tool=tool: ours.at_latency(to, ratios[tool])
                )
                name = variant + AT_KL + tool
                records[name] = self._stored(name, lambda to, ours=ours, tool=tool: ours.at_distance(
                    to, self._outputs(tool, "search"), self._outputs(REFERENCE, "search")
                ))
        path = self._folder / ROWS_FILE
        stored = json.loads(path.read_text()) if path.exists() else {}
        if stored.get("records") != records:
            timed = self._timed([REFERENCE, *records], plainly=[*records])
            stored = {"records": records, "rows": [self._row(tool, records[tool], timed) for tool in records]}
            _write(path, stored)
        rows: list[dict[str, Any]] = stored["rows"]
        return rows

    def _row(self, tool: str, record: Record, timed: dict[str, Measurement]) -> dict[str, Any]:
        fp32_ms = timed[REFERENCE].median_ms
        outputs = self._outputs(tool, "report")
        drop, drop_stderr = self._judge.lost_points(outputs)
        distance, distance_stderr = self._judge.distance(outputs)
        row = {
            "network": self._name, "tool": tool,
            "metric_drop": drop, "metric_drop_stderr": drop_stderr, "kl": distance, "kl_stderr": distance_stderr,
            "latency_ratio": timed[tool].median_ms / fp32_ms, "latency_ratio_spread": timed[tool].spread_ms / fp32_ms,
            "latency_ms": timed[tool].median_ms, "fp32_ms": fp32_ms,
            "plain_to_default": timed[tool + PLAIN].median_ms / timed[DEFAULT + PLAIN].median_ms,
            **{key: value for key, value in record.items() if isinstance(value, int | float | str)},
            **{f"{stage}_s": seconds for stage, seconds in record["stages_s"].items() if stage != "search"},
        }
        peer = next((tool.partition(matched)[2] for matched in (AT_LATENCY, AT_KL) if matched in tool), None)
        if peer is not None:
            others = self._outputs(peer, "report")
            row["kl_minus_peer"], row["kl_minus_peer_stderr"] = self._judge.distance(outputs, than=others)
            row["drop_minus_peer"], row["drop_minus_peer_stderr"] = self._judge.lost_points(outputs, than=others)
            row["latency_to_peer"] = timed[tool].median_ms / timed[peer].median_ms
        return row

    def _fp32(self, folder: Path) -> Record:
        run, clock = self._run, Clock()
        (folder / ONNX_FILE).write_bytes(export_onnx(run.captured))
        clock("build", lambda: run.target.build(folder / ONNX_FILE, folder))
        return clock.record()

    def _untouched(self, folder: Path) -> Record:
        clock = Clock()
        onnx = self._engine_folder(REFERENCE) / ONNX_FILE
        clock("build", lambda: self._run.target.build_untouched(onnx, folder))
        return clock.record()

    def _nncf(self, tool: str) -> Callable[[Path], Record]:
        def make(folder: Path) -> Record:
            clock = Clock()
            onnx, reference = self._engine_folder(REFERENCE) / ONNX_FILE, self._outputs(REFERENCE, "search")
            clock("quantize", lambda: quantize(
                tool, onnx, folder, self._network, self._task, self._search_part, reference, self._quick
            ))
            return clock.record()

        return make

    def _stored(self, tool: str, make: Callable[[Path], Record]) -> Record:
        """What ``make`` said of the engine that it left in the tool's folder, now or in an earlier run."""
        folder = self._engine_folder(tool)
        done = folder / DONE_FILE
        print(f"  {tool}{' (kept)' if done.exists() else ''}", flush=True)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _write(done, make(folder))
        record: Record = json.loads(done.read_text())
        return record

    def _ratios(self, peers: list[str]) -> dict[str, float]:
        """Latency ratios of the engines that plans are matched to, measured once."""
        path = self._folder / RATIOS_FILE
        ratios: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        if not set(peers) <= set(ratios):
            timed = self._timed([REFERENCE, *peers])
            ratios = {peer: timed[peer].median_ms / timed[REFERENCE].median_ms for peer in peers}
            _write(path, ratios)
        return ratios

    def _engine_folder(self, tool: str) -> Path:
        return self._folder / tool / "engine"

    def _engine(self, tool: str, plain: bool = False) -> OpenvinoEngine:
        return engine_in(self._engine_folder(tool), plain or tool == DEFAULT)

    def _timed(self, tools: list[str], plainly: Collection[str] = ()) -> dict[str, Measurement]:
        """Times of engines, and of some loaded without settings too, all in one run."""
        engines = {tool: self._engine(tool) for tool in tools}
        engines |= {tool + PLAIN: self._engine(tool, plain=True) for tool in plainly}
        print(f"  timing {len(engines)} engines", flush=True)
        return measure(
            engines, TimingRequest(timing_inputs(self._run), self._seed, SECONDS_QUICK if self._quick else SECONDS),
        ).measured

    def _outputs(self, tool: str, part: str) -> torch.Tensor:
        """Outputs of a tool's engine on one part, kept beside it."""
        folder = self._engine_folder(tool)
        path = folder / f"outputs_{part}.npy"
        if not path.exists():
            samples = self._run.parts[("search", "report").index(part)]
            np.save(path, engine_outputs(self._engine(tool), samples.inputs).numpy())
        return torch.from_numpy(np.load(path))


def _write(path: Path, value: Any) -> None:
    """All of the file, or nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    temporary.rename(path)


if __name__ == "__main__":
    main()
