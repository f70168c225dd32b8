"""Make the cost tables under profiles/: common networks at batch 1, one folder a machine.

Run it on a machine that does nothing else. A table is taken with `hwsmpq profile TASK --from-table FILE` for a network
of the same architecture with any weights, here or on another machine.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from _cost_networks import NETWORKS

from hwsmpq import artifacts
from hwsmpq.pipeline.prepare.profile import profile
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Settings

PROFILES = Path(__file__).parents[1] / "profiles"
SHIPPED = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(SHIPPED), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--target", default="openvino-cpu")
    parser.add_argument("--seconds", type=float, default=Settings.timing_seconds, help="of timing a network")
    parser.add_argument("--out", type=Path, default=PROFILES)
    options = parser.parse_args()
    for name in options.networks.split(","):
        task = NETWORKS[name]()
        with tempfile.TemporaryDirectory(prefix="hwsmpq-") as folder:
            settings = Settings(task.name, target=options.target, timing_seconds=options.seconds)
            run = Run(Path(folder), settings, task, notify=print)
            table = profile(run)
        assert table is not None, "a target that measures latency"
        path = options.out / machine_name(table.machine) / f"{name}.{options.target}.json"
        artifacts.write(path, table)
        times = ", ".join(f"{precision} {one.median_ms:.2f} ms" for precision, one in table.uniform_ms.items())
        print(f"{path}: {times}; noise {100 * table.noise:.1f} %", flush=True)


def machine_name(machine: dict[str, str]) -> str:
    """A folder's name for a machine: its device, its cores if it has some of a CPU, and its runtime."""
    runtime = re.split("[-+,]", machine["runtime"])[0]  # without what its build is called
    cores = f"{machine['n_cores']} cores " if "n_cores" in machine else ""
    words = f"{machine['device']} {cores}{runtime}".lower()
    return re.sub(r"[^a-z0-9.]+", "-", words.replace("(r)", "")).strip("-")


if __name__ == "__main__":
    main()
