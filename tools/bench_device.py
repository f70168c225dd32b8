"""What a pipe to the device costs, and whether runs survive its loss, with the quickstart's network.

Figures: ``quickstart.pipe_overhead`` is the wall time of a run through a pipe over that of one in this process, in the
median of ``--repeats`` pairs; ``kills`` counts runs whose device was killed at a random moment, ``kills_recovered``
those that the same command then brought to a verified certificate without measuring again what was complete.
"""

from __future__ import annotations

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

from _bench import Bench, arguments

SETTINGS = ("--speedup", "1.1", "--max-drop", "2", "--timing-seconds", "5", "--n-pairs", "2")
KEPT = ("ranges.json", "fallbacks.json", "contributions.json")


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python", default=shlex.quote(sys.executable), help="command of the device")
    options = parser.parse_args()
    n_repeats, n_kills = (1, 2) if options.quick else (options.repeats, options.kills)
    bench = Bench("bench_device", options, {"repeats": n_repeats, "kills": n_kills})
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        seconds: dict[str, list[float]] = {"here": [], "pipe": []}
        plans = set()
        for i in range(n_repeats):
            for where, device in (("here", ()), ("pipe", ("--device", options.python))):
                start, out = time.monotonic(), folder / f"{where}{i}"
                code = _start(out, options.seed, *device).wait()
                seconds[where].append(time.monotonic() - start)
                plans.add(json.dumps(_payload(out / "contributions.json"), sort_keys=True))
                bench.row(run=where, wall_s=seconds[where][-1], verified=code == 0)
        ratios = [pipe / here for pipe, here in zip(seconds["pipe"], seconds["here"], strict=True)]
        bench.figures["quickstart.pipe_overhead"] = statistics.median(ratios)
        bench.row(same_contributions=len(plans) == 1)
        rng, longest = random.Random(options.seed), max(seconds["pipe"])
        found = [_survives(bench, folder / f"kill{i}", options, rng.random() * longest) for i in range(n_kills)]
        recovered = [survived for was_killed, survived in found if was_killed]
        bench.figures |= {"kills": float(len(recovered)), "kills_recovered": float(sum(recovered))}
    bench.finish()


def _survives(bench: Bench, out: Path, options: object, after: float) -> tuple[bool, bool]:
    """Whether a run's device was killed after so many seconds, and whether the run ends verified when started again."""
    out.mkdir()
    pid_file, script = out / "pid", out / "device.sh"
    script.write_text(f'#!/bin/sh\necho $$ > {shlex.quote(str(pid_file))}\nexec {options.python} "$@"\n')
    script.chmod(0o755)
    device = ("--device", shlex.quote(str(script)))
    first = _start(out, options.seed, *device)
    time.sleep(after)
    was_killed = False
    with contextlib.suppress(OSError, ValueError):  # not begun yet, or over
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        was_killed = True
    code = first.wait(120)
    kept = {name: (out / name).read_bytes() for name in KEPT if (out / name).exists()}
    again = _start(out, options.seed, *device).wait(600)
    unchanged = all((out / name).read_bytes() == data for name, data in kept.items())
    bench.row(killed_after_s=after, was_killed=was_killed, first=code, again=again, n_kept=len(kept), kept=unchanged)
    return was_killed, again == 0 and unchanged


def _start(out: Path, seed: int, *more: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("hwsmpq")), "run", "hwsmpq.quickstart.task:task", "-o", str(out)]
    given = ("--seed", str(seed), *SETTINGS, *more)
    return subprocess.Popen([*command, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _payload(path: Path) -> object:
    return json.loads(path.read_text())["payload"]


if __name__ == "__main__":
    main()
