"""What public networks come to: captured or read, built, audited, and computing what was simulated, on every target.

Networks of torchvision, timm, transformers (small random configurations), ultralytics and segmentation-models-pytorch
(extra ``zoo``) with random weights and small inputs, and the ONNX files below a folder, each in a process of its own.

- ``captured``: the graph equals the network.
- ``read``: a file equals what ONNX Runtime makes of it (files that are quantized already are not counted).
- ``<target>.built``: fp32 and int8 both.
- ``<target>.agrees``: both engines compute what was simulated.
- ``<target>.audited``: layers that have 99 % of the MACs run as requested in both.

Each has its count of attempts (``_of``). An interrupted run goes on with the networks and targets that are not yet in
the file of ``--json``, whose rows say at which commit they were made; ``--markdown`` writes its tables.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _bench import Bench, arguments
from _zoo import N_ROWS, family, make, names, onnx_inputs
from torch import Tensor

from hwsmpq.engine.agree import agreement
from hwsmpq.engine.build import Builder
from hwsmpq.engine.onnx_file import check_onnx_file
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.inputs import names_in, tensors_in
from hwsmpq.model.onnx_import import read_onnx
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, WITH_WEIGHTS, Ladder

TARGETS = ("openvino-cpu", "onnxruntime-cpu", "onnx-qdq", "tensorrt-rtx:sm89")
LADDER = Ladder.parse("int8,fp32")
N_CALIBRATION, N_COMPARED = 8, 8
LEAST_AUDITED = 0.99
QUANTIZED = "quantized already"
"""In what is said of such a file."""
MOST_WAITED = 20
"""Times the limit of CPU time, of a process that sleeps or gets no processor."""
PACKAGES = ("torchvision", "openvino", "onnxruntime")
LIBRARIES = ("torchvision", "torch.onnx", "onnxscript", "openvino", "onnxruntime", "scipy.optimize")


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas")
    parser.add_argument("--networks", help="library:network, separated by commas, or a part of the names")
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="whose ONNX files are networks too")
    parser.add_argument("--limit", type=int, default=120, metavar="S", help="CPU seconds that one network may take")
    parser.add_argument("--hours", type=float, default=4, help="that all may take; the rest is left to the next run")
    parser.add_argument("--again", metavar="PART", help="run networks whose failure holds this text once more")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables of --json, and measure nothing")
    options = parser.parse_args()
    bench = Bench("bench_zoo", options, {"compared": N_COMPARED, "calibration": N_CALIBRATION}, PACKAGES)
    if options.json and options.json.exists():
        bench.rows = json.loads(options.json.read_text())["rows"]
    if options.markdown:
        options.markdown.write_text("\n".join(tables(bench.rows)) + "\n")
        return
    if options.again:
        bench.rows = [row for row in bench.rows if options.again not in " ".join(row["failures"].values())]
    wanted, targets = chosen(options), options.targets.split(",")
    known = {row["network"]: row for row in bench.rows}
    lacking = {name: [t for t in targets if f"{t}.built" not in known.get(name, {})] for name in wanted}
    wanted = [name for name in wanted if lacking[name] and not _ended(known.get(name))]
    for library in LIBRARIES:
        importlib.import_module(library)  # once, for all processes
    deadline = time.monotonic() + 3600 * options.hours
    for name in wanted[: 4 if options.quick else None]:
        if time.monotonic() > deadline:
            print(f"{options.hours:g} hours are over; the same command goes on")
            break
        row, before = apart(name, lacking[name], options), known.get(name, {"failures": {}})
        bench.rows = [other for other in bench.rows if other["network"] != name]
        bench.row(**before | row | {"failures": before["failures"] | row["failures"]})
        bench.figures = figures(bench.rows)
        bench.write()
    bench.figures = figures(bench.rows)
    bench.finish()


def _ended(row: dict[str, Any] | None) -> bool:
    """Whether a network did not get as far as to a target, or was too slow."""
    return row is not None and not row["failures"].keys().isdisjoint(("made", "read", "captured", "process"))


def chosen(options: argparse.Namespace) -> list[str]:
    asked = options.networks.split(",") if options.networks else [""]
    return [name for name in names(options.onnx) if any(part in name for part in asked)]


def apart(name: str, targets: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """The row of a network, measured in a process of its own, which has all libraries loaded already."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    died = ""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        path = Path(file.name)
        process = multiprocessing.get_context("fork").Process(target=_limited, args=(name, targets, options, path))
        process.start()
        process.join(MOST_WAITED * options.limit)
        if process.exitcode is None or process.exitcode == -signal.SIGXCPU:
            process.kill()
            died = f"took more than {options.limit} CPU seconds"
        elif process.exitcode:
            died = f"the process ended with {process.exitcode}"
        process.join()
        text = path.read_text()
    row: dict[str, Any] = json.loads(text) if text else {"network": name, "failures": {}}
    if died:
        row["failures"]["process"] = died
        if "took more" in died:  # what it had begun with is no failure of the network
            begun = [key for key in row if key in ("captured", "read") or key.endswith(".built")]
            row = {key: value for key, value in row.items() if value or key not in begun or key in row["failures"]}
            row["too_slow"] = True
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return row | {"commit": commit(), "cpu_s": round(cpu_s, 1), "wall_s": round(time.monotonic() - start, 1)}


def _limited(name: str, targets: list[str], options: argparse.Namespace, path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (options.limit, options.limit + 5))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    measure(name, targets, options, path)


@functools.cache
def commit() -> str:
    """What the package is at; empty outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def measure(name: str, targets: list[str], options: argparse.Namespace, path: Path) -> None:
    """Write the row of a network into a file after every step, so that a late end leaves these."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {"network": name, "family": family(name), "failures": {}}

    def kept() -> None:
        path.write_text(json.dumps(row))

    try:
        if name.startswith("onnx:"):
            inputs, captured_with = _read(options.onnx / name.partition(":")[2], row)
        else:
            made = make(name, options.seed)
            row["captured"] = False
            kept()
            inputs = tensors_in(made.inputs)
            example, keys = tuple(x[:N_CALIBRATION] for x in inputs), names_in(made.inputs)
            captured_with = functools.cache(lambda kinds: capture(made.model, example, keys, kinds=kinds))
        captured = captured_with(WITH_WEIGHTS)
        row["captured"] = True
    except Exception as error:
        row["failures"]["captured" if "captured" in row else "read" if "read" in row else "made"] = said(error)
        if QUANTIZED in said(error):  # refused, as it is to be
            del row["read"]
        kept()
        return
    coverage = captured.network.coverage
    assert coverage is not None
    row |= {"n_layers": len(captured.network.layers), "n_weights": coverage.n_weights,
            "in_layers": coverage.n_in_layers / max(1, coverage.n_weights),
            "not_in_layers": [f"{weight.name}: {weight.reader}" for weight in coverage.rest][:3]}
    for target in targets:
        kept()
        row[f"{target}.built"] = False
        try:
            for key, value in on_target(captured_with(get_target(target).kinds), inputs, target):
                row[f"{target}.{key}"] = value
                kept()
        except Exception as error:
            row["failures"][target] = said(error)
    kept()


def _read(file: Path, row: dict[str, Any]) -> tuple[tuple[Tensor, ...], Callable[[Any], Captured]]:
    inputs = onnx_inputs(file)
    row["read"] = False
    module = read_onnx(file).eval()
    module.settle(inputs)
    reason = check_onnx_file(file, module, inputs)
    if reason:
        raise RuntimeError(reason)
    row["read"], row["captured"] = True, False
    example = tuple(x[:N_CALIBRATION] for x in inputs)
    return inputs, functools.cache(lambda kinds: capture(module, example, kinds=kinds))


def said(error: Exception) -> str:
    text = f"{error.what} ({error.why})" if isinstance(error, HwsmpqError) else f"{type(error).__name__}: {error}"
    return re.sub(r"(?<!\S)/\S*/", "", text.strip())[:400]  # without the folders of this machine


def on_target(captured: Captured, inputs: tuple[Tensor, ...], name: str) -> Iterator[tuple[str, Any]]:
    """What a target makes of a network: (what, outcome)."""
    target = get_target(name)
    captured = captured.with_ties(target.ties(captured))
    captured = captured.with_substitutes(substitutes(target, captured.network, LADDER))
    scheme, network = get_scheme(target.scheme_name), captured.network
    ranges = calibrate(captured, tuple(x[:N_CALIBRATION] for x in inputs), scheme, [8], observer="minmax")
    builder, rows = Builder(captured, ranges, scheme, target), tuple(x[-N_COMPARED:] for x in inputs)
    macs, executes = {layer.name: layer.n_macs for layer in network.layers}, target.has_latency
    simulator = Simulator(captured, ranges, scheme)
    audited, agrees, ratios = [], [], []
    for precision in (REFERENCE, LADDER.floor):
        assignment = network.uniform(precision)
        with builder.temporary(assignment) as engine:
            audits = builder.audit(assignment, engine)
            right = sum(macs[audit.layer] for audit in audits if audit.as_requested)
            audited.append(right >= LEAST_AUDITED * sum(macs.values()))
            wrong = [f"{audit.layer} {audit.requested}>{audit.realised}" for audit in audits if not audit.as_requested]
            if wrong:
                yield f"{precision}.mismatches", wrong[:3]
            if executes:
                one = agreement(simulator, assignment, rows, engine_outputs(engine, rows))
                agrees.append(one.agrees)
                ratios.append(one.error / one.allowed if math.isfinite(one.error) else 1e9)
    yield "built", True
    yield "audited", all(audited)
    if executes:
        yield "agrees", all(agrees)
        yield "error_over_allowed", max(ratios)


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Counts of networks, and of how many were tried."""
    found: dict[str, float] = {}
    of_targets = (k for row in rows for k in row if k.endswith((".built", ".agrees", ".audited")))
    steps = ["captured", "read", *dict.fromkeys(of_targets)]
    for step in steps:
        tried = [row[step] for row in rows if step in row]
        found |= {step: sum(tried), f"{step}_of": len(tried)}
    covered = [row["in_layers"] for row in rows if "in_layers" in row]
    found["too_slow"] = sum("too_slow" in row for row in rows)
    return found | {"in_layers.mean": sum(covered) / max(1, len(covered)), "networks": len(rows)}


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: outcomes by family, and failures by their text."""
    targets = [k.removesuffix(".built") for k in dict.fromkeys(k for row in rows for k in row if k.endswith(".built"))]
    steps = ["read", "captured", *(f"{t}.{what}" for t in targets for what in ("built", "audited", "agrees"))]
    steps = [step for step in steps if any(step in row for row in rows)]
    yield "| family | networks | " + " | ".join(step.replace(".", " ") for step in steps) + " | weights in layers |"
    yield "|---|---:|" + "---:|" * (len(steps) + 1)
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row.get("family") or row["network"].partition(":")[0], []).append(row)
    for name, members in [*sorted(families.items()), ("**all**", rows)]:
        cells = []
        for step in steps:
            tried = [row[step] for row in members if step in row]
            cells.append(f"{sum(tried)} of {len(tried)}" if tried else "")
        covered = [row["in_layers"] for row in members if "in_layers" in row]
        share = f"{sum(covered) / len(covered):.1%}" if covered else ""
        yield f"| {name} | {len(members)} | " + " | ".join(cells) + f" | {share} |"
    yield ""
    causes = Counter((stage, text) for row in rows for stage, text in row["failures"].items())
    if causes:
        yield "| where | what it said | network |"
        yield "|---|---|---|"
        for (stage, text), n in causes.most_common():
            who = next(row["network"] for row in rows if row["failures"].get(stage) == text)
            plain = " ".join(text.replace("|", "\\|").split())[:220]
            yield f"| {stage} | {plain} | {who}{f' and {n - 1} more' if n > 1 else ''} |"


if __name__ == "__main__":
    assert N_ROWS >= N_CALIBRATION + N_COMPARED
    main()
