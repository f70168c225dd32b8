"""What a plan takes: wall and CPU seconds by stage of whole commands, from an empty folder, beside NNCF's.

Every way is a process of its own, from its start to the written engine: ``hwsmpq run`` as a user gives it, and NNCF's
default and accuracy control (extra ``peers``; left out where it is not installed). Engines are judged on the report
part. ``--before FILE`` puts the figures of an earlier run, of another version, into the same table.

Figures, for each network and way: ``wall_s``, ``cpu_s`` (with all that the process started), ``kl`` to the fp32
network, ``cpu_to_before``; rows have the stages and the evaluations besides.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _bench import Bench, arguments

TOOLS = Path(__file__).parent
OURS: dict[str, dict[str, list[str]]] = {
    "resnet20": {
        "default": ["--max-drop", "1"],
        "speedup": ["--speedup", "1.3"],
        "bitops": ["--ladder", "w3a3,w4a4,w5a5,w6a6,w8a8", "--bitops", "w4a4"],
    },
    "efficientnet_lite0": {
        "default": ["--max-drop", "1"],
        "speedup": ["--speedup", "1.6"],
        "bitops": ["--ladder", "w4a4,w5a5,w6a6,w7a7,w8a8", "--bitops", "w6a6"],
    },
    "mobilenet_v3_large": {"default": ["--max-drop", "1"], "speedup": ["--speedup", "1.3"]},
    "resnet50": {"default": ["--max-drop", "1"], "speedup": ["--speedup", "1.3"]},
}
"""Those of torchvision have random weights, images and labels (:mod:`_cost_networks`): what they cost counts alone."""
TASKS = {"resnet20": "cifar_resnet20", "efficientnet_lite0": "efficientnet_lite0"}
PEERS = ("nncf", "nncf_accuracy_control")
BATCH = 32
OURS_END = (0, 1)
"""Codes that a run ends with: 1 says that a budget was missed."""
QUICK = ["--n-score-samples", "8", "--search-evaluations", "8", "--n-mixtures", "2", "--timing-seconds", "1"]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_time"), help="where folders are made")
    parser.add_argument("--networks", default=",".join(OURS), help="names, separated by commas")
    parser.add_argument("--ways", default=",".join(("default", "speedup", "bitops", *PEERS)), help="likewise")
    parser.add_argument("--before", type=Path, help="the JSON of an earlier run")
    parser.add_argument("--peer", nargs=3, metavar=("TOOL", "NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        _peer(*options.peer, options.seed, options.quick)
        return
    earlier = json.loads(options.before.read_text())["figures"] if options.before else {}
    bench = Bench("bench_time", options, {}, ("openvino",))
    for network in options.networks.split(","):
        for way in options.ways.split(","):
            if why_not := _why_not(way, network):
                print(f"{network} {way}: {why_not}", flush=True)
                continue
            folder = options.work / network / way
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            row = _peer_row(way, network, folder, options) if way in PEERS else _our_row(way, network, folder, options)
            name = f"{network}.{way}"
            bench.figures |= {f"{name}.{figure}": row[figure] for figure in ("wall_s", "cpu_s", "kl")}
            if f"{name}.cpu_s" in earlier:
                for figure in ("wall_s", "cpu_s", "kl"):
                    row[f"{figure}_before"] = earlier[f"{name}.{figure}"]
                bench.figures[f"{name}.cpu_to_before"] = row["cpu_s"] / row["cpu_s_before"]
            bench.row(network=network, way=way, **row)
            bench.write()
    bench.finish()


def _why_not(way: str, network: str) -> str | None:
    """Why a way is left out."""
    if way not in PEERS:
        return None if way in OURS[network] else "not asked of this network"
    if network not in TASKS:
        return "its random weights say nothing about accuracy"
    return "NNCF is not installed (extra peers)" if find_spec("nncf") is None else None


def _our_row(way: str, network: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    if options.quick and network in TASKS:
        task = _written(folder, "_peer_networks", network, ".load(True)")
    elif network in TASKS:
        task = str(TOOLS / "tasks" / f"{TASKS[network]}.py")
    else:
        task = _written(folder, "_cost_networks", network, "()")
    command = ["-c", "from hwsmpq.cli import main; main()", "run", task, *OURS[network][way], "-o", str(folder)]
    command += ["--seed", str(options.seed), *(QUICK if options.quick else [])]
    row = _measured(command, folder / "log.txt", OURS_END)
    certificate = _payload(folder / "certificate.json")
    latency = certificate["latency_ms"]
    with sqlite3.connect(folder / "evaluations.sqlite") as memo:
        n, n_samples = memo.execute("SELECT count(*), sum(length(samples)) / 8 FROM evaluations").fetchone()
    stages = _payload(folder / "stage_times.json")["stages"] if (folder / "stage_times.json").exists() else ()
    return {
        **row, "kl": certificate["accuracy"]["kl"],
        "latency_ratio": latency and latency["measured"] / latency["reference"],
        "n_evaluations": n, "n_evaluated_samples": n_samples,
        "stages": {one["stage"]: [round(one["wall_s"], 1), round(one["cpu_s"], 1)] for one in stages},
    }


def _written(folder: Path, module: str, network: str, call: str) -> str:
    """A task file for a network that a module of the benchmarks makes."""
    file = folder / "task.py"
    file.write_text(
        f"import sys\n\nsys.path.insert(0, {str(TOOLS)!r})\nfrom {module} import NETWORKS\n\n\n"
        f"def task():\n    return NETWORKS[{network!r}]{call}\n"
    )
    return str(file)


def _peer_row(tool: str, network: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    arguments = [__file__, "--peer", tool, network, str(folder), "--seed", str(options.seed)]
    row = _measured([*arguments, *(["--quick"] if options.quick else [])], folder / "log.txt")
    # What was spent on judging the engine is no part of making it.
    judged = json.loads((folder / "judged.json").read_text())
    return {**row, **{name: row[name] - judged[name] for name in ("wall_s", "cpu_s")}, "kl": judged["kl"]}


def _measured(arguments: Sequence[str], log: Path, allowed: Sequence[int] = (0,)) -> dict[str, float]:
    """Wall and CPU seconds of a Python process, which may end with one of the codes ``allowed``.

    Raises:
        RuntimeError: it failed; names where it says why.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with open(log, "w") as output:
        code = subprocess.run([sys.executable, *arguments], stdout=output, stderr=output, env=os.environ).returncode
    wall_s, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code not in allowed:
        raise RuntimeError(f"exit code {code}: see {log}")
    return {"wall_s": wall_s, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _payload(path: Path) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(path.read_text())["payload"]
    return payload


def _peer(tool: str, name: str, folder: str, seed: int, quick: bool) -> None:
    """NNCF's engine in this process; what is needed to give it a model and to judge its engine is timed by itself."""
    import torch
    from _peer_networks import NETWORKS
    from _peer_nncf import quantize
    from _peer_ours import engine_in

    from hwsmpq import Run, Settings
    from hwsmpq.engine.verify import engine_outputs
    from hwsmpq.model.agreement import tensors_of
    from hwsmpq.quantize.onnx_export import export_onnx

    def now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()

    network, where = NETWORKS[name], Path(folder)
    started = now()
    task = network.load(quick)
    run = Run(where / "run", Settings(network.task_file, target=network.target, value="kl", seed=seed), task)
    search, report = run.parts
    (where / "fp32.onnx").write_bytes(export_onnx(run.captured))
    with torch.no_grad():
        reference = [
            torch.cat([tensors_of(run.captured.graph(x))[0] for x in part.inputs[0].split(BATCH)])
            for part in (search, report)
        ]
    spent = [b - a for a, b in zip(started, now(), strict=True)]
    quantize(tool, where / "fp32.onnx", where, network, task, search, reference[0], quick)
    started = now()
    outputs = engine_outputs(engine_in(where), report.inputs)
    spent = [s + b - a for s, a, b in zip(spent, started, now(), strict=True)]
    kl = float(network.distance(reference[1], outputs).double().mean())
    (where / "judged.json").write_text(json.dumps({"wall_s": spent[0], "cpu_s": spent[1], "kl": kl}))


if __name__ == "__main__":
    main()
