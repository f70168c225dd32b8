"""What a pipe to the device costs, and whether runs survive its loss.

Two parts. ``pipe`` runs a task in pairs, in this process and through a pipe, by turns. ``overhead`` is the wall time
through the pipe over that here, ``latency_ratio`` the same for the latency of the uniform engines, both in the median
of the pairs; everything that is not timed must be equal. ``kills`` runs the task through a pipe whose far end is
killed at a random moment. ``kills`` counts the runs that were hit, ``kills_recovered`` those that the same command then
brought to a verified certificate without measuring anything again that had been complete.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import Bench, arguments

QUICKSTART = "hwsmpq.quickstart.task:task"
SETTINGS = ("--speedup", "1.1", "--max-drop", "2", "--n-pairs", "2")
MEASURED = ("ranges.json", "survey.json", "cost_table.json", "contributions.json", "scores.json", "interactions.json")
UNTIMED = ("network.json", "ranges.json", "contributions.json", "scores.json", "interactions.json")
ROUNDS, COSTS = "rounds.json", "cost_table.json"


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=("pipe", "kills"), default=["pipe", "kills"])
    parser.add_argument("--task", default=QUICKSTART)
    parser.add_argument("--settings", default=shlex.join(SETTINGS), help="options of `hwsmpq run` (one text)")
    parser.add_argument("--timing-seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--python", default=shlex.quote(sys.executable), help="command of the device")
    options = parser.parse_args()
    n_repeats, n_kills = (1, 2) if options.quick else (options.repeats, options.kills)
    bench = Bench("bench_device", options, {"repeats": n_repeats, "kills": n_kills})
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        if "pipe" in options.parts:
            pipe(bench, Path(name), n_repeats)
        if "kills" in options.parts:
            kills(bench, Path(name), n_kills)
    bench.finish()


def pipe(bench: Bench, folder: Path, n_repeats: int) -> None:
    """Pairs of runs, which of the two is first by turns."""
    ratios: dict[str, list[float]] = {"overhead": [], "latency_ratio": []}
    for i in range(n_repeats):
        outs = {"here": folder / f"here{i}", "pipe": folder / f"pipe{i}"}
        seconds = {}
        for where in sorted(outs, reverse=bool(i % 2)):
            device = ("--device", bench.options.python) if where == "pipe" else ()
            start = time.monotonic()
            code = begin(outs[where], bench.options, *device).wait()
            seconds[where] = time.monotonic() - start
            bench.row(run=f"{where} {i}", wall_s=seconds[where], verified=code == 0, **latencies(outs[where]))
        ratios["overhead"].append(seconds["pipe"] / seconds["here"])
        ms, ms_there = (latencies(out) for out in outs.values())
        ratios["latency_ratio"] += [ms_there[name] / ms[name] for name in ms]
        here, there = ({x: payload(out / x) for x in UNTIMED if (out / x).exists()} for out in outs.values())
        differing = [name for name in UNTIMED if here.get(name) != there.get(name)]
        bench.row(pair=i, overhead=ratios["overhead"][-1], differing=differing)
        bench.figures |= {name: statistics.median(found) for name, found in ratios.items()}
        bench.write()  # as it goes: a pair is long


def latencies(out: Path) -> dict[str, float]:
    uniform = payload(out / "cost_table.json")["uniform_ms"]
    return {f"{name}_ms": measured["median_ms"] for name, measured in uniform.items()}


def kills(bench: Bench, folder: Path, n_kills: int) -> None:
    """Runs hit at moments that are spread over as long as a whole run takes."""
    start = time.monotonic()
    code = begin(folder / "whole", bench.options, "--device", bench.options.python).wait()
    whole = time.monotonic() - start
    bench.row(run="whole", wall_s=whole, verified=code == 0)
    rng, hit, recovered = random.Random(bench.options.seed), 0, 0
    for i in range(n_kills):
        was_hit, is_well = survives(bench, folder / f"kill{i}", whole * (i + rng.random()) / n_kills)
        hit, recovered = hit + was_hit, recovered + (was_hit and is_well)
        bench.figures |= {"kills": float(hit), "kills_recovered": float(recovered)}
        bench.write()


def survives(bench: Bench, out: Path, after: float) -> tuple[bool, bool]:
    """Whether a run's device was killed after so many seconds, and whether the run ends verified when started again."""
    out.mkdir()
    pid_file, script = out / "pid", out / "device.sh"
    script.write_text(f'#!/bin/sh\necho $$ > {shlex.quote(str(pid_file))}\nexec {bench.options.python} "$@"\n')
    script.chmod(0o755)
    device = ("--device", shlex.quote(str(script)))
    first = begin(out, bench.options, *device)
    time.sleep(after)
    while not pid_file.exists() and first.poll() is None:
        time.sleep(0.05)  # no device yet: killed as it starts
    was_hit = False
    if first.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            was_hit = True
    code = first.wait(600)
    before, rounds = complete(out), finished_rounds(out)
    again = begin(out, bench.options, *device).wait(1200)
    after_all, all_rounds = complete(out), finished_rounds(out)
    kept = all(after_all.get(name) == data for name, data in before.items()) and all_rounds[: len(rounds)] == rounds
    bench.row(
        killed_after_s=after, was_hit=was_hit, first=code, n_complete=len(before), n_rounds=len(rounds), again=again,
        kept=kept,
    )
    return was_hit, again == 0 and kept


def complete(out: Path) -> dict[str, object]:
    """What a run has measured, as it lies in its files: one that is written again says another time. Mixtures are added
    to a table of costs, whose uniform engines stay as they were measured."""
    found: dict[str, object] = {name: (out / name).read_bytes() for name in MEASURED if (out / name).exists()}
    if COSTS in found:
        table = json.loads((out / COSTS).read_text())["payload"]
        found[COSTS] = [table["uniform_ms"], table["group_ms"]]
    return found


def finished_rounds(out: Path) -> list[Any]:
    return payload(out / ROUNDS)["rounds"] if (out / ROUNDS).exists() else []


def begin(out: Path, options: argparse.Namespace, *more: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("hwsmpq")), "run", options.task, "-o", str(out)]
    given = ("--seed", str(options.seed), "--timing-seconds", str(options.timing_seconds))
    return subprocess.Popen(
        [*command, *given, *shlex.split(options.settings), *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def payload(path: Path) -> Any:
    return json.loads(path.read_text())["payload"]


if __name__ == "__main__":
    main()
