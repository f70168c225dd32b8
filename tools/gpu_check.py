"""Everything that needs an NVIDIA GPU, in under ten minutes.

Without options, on the machine with the GPU: what is here, the GPU tests, every GPU target on two networks, and the
simulator on the GPU against the simulator on the CPU. With ``--device COMMAND``, classic TensorRT behind a Python that
the command starts (see the page "your device"), in 480 seconds: the quickstart's network, EfficientNet-Lite0 and MiniLM
from the task to the certificate, ResNet-18 and MobileNetV2 with their cost models. ``--rehearse`` does the same where
there is no GPU, with OpenVINO in the place of TensorRT, and lists what must be taken along to a machine without a
package registry.

Each part runs in a process of its own, so that neither a crash nor a poisoned GPU context reaches the others, and ends
at its time limit at the latest. It leaves ``<part>.log`` and its tables in ``--out``. The exit status is 0 if no part
failed, else 1; without a GPU it is 1 too, and nothing is written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _bench import Bench
from _gpu_device import DEVICE_PARTS, DEVICE_SECONDS, REHEARSED, TENSORRT, travels
from _gpu_networks import N_CALIBRATION, N_COMPARED, Prepared, sqnr_db
from _gpu_target import measure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwsmpq.device import nvidia
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import REFERENCE

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "torchvision", "tensorrt", "tensorrt-rtx-cu13", "cuda-bindings", "pycuda", "onnx")
TARGETS = ("torch-cuda", "tensorrt-rtx", "tensorrt")
FP32_DB = 90.0
"""Where the networks are not quantized, there is nothing to tip over."""
LEAST_MARGIN_DB = 3.0
NETWORKS = ("quickstart", "resnet18")
TOTAL_SECONDS, TOTAL_DEVICE_SECONDS = 590, 480
SKIPPED = 3
"""Exit status of a part that cannot run here."""


class Skip(Exception):
    """Why a part cannot run here."""


def versions(bench: Bench, seconds: float) -> str:
    """Driver, GPU and packages."""
    for what, value in {**nvidia.describe(), **nvidia.conditions()}.items():
        bench.row(what=what, value=value)
    for package in PACKAGES:
        try:
            bench.row(what=package, value=importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            bench.row(what=package, value="not installed")
    import torch

    bench.row(what="torch sees CUDA", value=str(torch.cuda.is_available()))
    bench.row(what="CUDA and cuDNN of torch", value=f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    return ", ".join(nvidia.describe().get(what, "?") for what in ("device", "driver"))


def tests(bench: Bench, seconds: float) -> str:
    """The tests marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    summary = next((line for line in reversed(done.stdout.splitlines()) if re.search(r"\d+ \w+.* in ", line)), "")
    if done.returncode:
        raise HwsmpqError(f"pytest ends with status {done.returncode}: {summary}")
    if " passed" not in summary:
        raise Skip(f"no test could run here: {summary}")
    return summary


def simulator(bench: Bench, seconds: float) -> str:
    """The simulator on the GPU against the one on the CPU, at every precision: they may differ by less than it errs.

    A sum in another order tips a value over to the next level now and then, which a deep network without training
    amplifies up to the error of quantization itself.
    """
    import torch

    if not torch.cuda.is_available():
        raise Skip("torch sees no CUDA device")
    least = float("inf")
    for name in NETWORKS:
        prepared = Prepared.of(name, "signed_symmetric", bench.options.seed)
        unquantized = prepared.simulated(prepared.network.uniform(REFERENCE), "cpu")
        for precision in ("int8", "fp8", "w8a16", "bf16", "fp16", REFERENCE):
            assignment = prepared.network.uniform(precision)
            on_cpu, on_gpu = (prepared.simulated(assignment, where) for where in ("cpu", "cuda"))
            quality = sqnr_db(on_cpu, on_gpu)
            of_precision = FP32_DB if precision == REFERENCE else sqnr_db(unquantized, on_cpu)
            bench.row(network=name, precision=precision, sqnr_db=quality, sqnr_db_of_precision=of_precision)
            least = min(least, quality - of_precision)
    if least < LEAST_MARGIN_DB:
        raise HwsmpqError(
            f"GPU and CPU differ by more than a precision errs: {least:.0f} dB",
            f"at least {LEAST_MARGIN_DB:.0f} expected",
        )
    return f"closer than the precision is to fp32, by at least {least:.0f} dB"


def target_part(target: str, network: str) -> Callable[[Bench, float], str]:
    def part(bench: Bench, seconds: float) -> str:
        from hwsmpq.hardware.targets import get_target

        reason = get_target(target).unavailable()
        if reason:
            raise Skip(reason)
        return measure(bench, get_target(target), network, seconds)

    return part


PARTS: dict[str, Callable[[Bench, float], str]] = {
    "versions": versions,
    **{f"{target}.{network}": target_part(target, network) for network in NETWORKS for target in TARGETS},
    "simulator": simulator,
    "tests": tests,
}
"""In the order in which they run: what is known least comes first."""
SECONDS = {
    "versions": 30, "simulator": 50, "tests": 120, "torch-cuda.quickstart": 35, "tensorrt-rtx.quickstart": 45,
    "tensorrt.quickstart": 75, "torch-cuda.resnet18": 75, "tensorrt-rtx.resnet18": 90, "tensorrt.resnet18": 170,
    **DEVICE_SECONDS,
}
"""At most; no machine is known to need all of it."""


def run_part(name: str, options: argparse.Namespace) -> int:
    """Run one part in this process; the last line that it prints is its summary, or why it did not come to an end."""
    options.json = options.out / f"{name}.json"
    bench = Bench(f"gpu_check.{name}", options, {"compared": N_COMPARED, "calibration": N_CALIBRATION})
    try:
        summary = {**PARTS, **DEVICE_PARTS}[name](bench, options.seconds)
    except Skip as reason:
        print(reason)
        return SKIPPED
    except HwsmpqError as error:
        bench.finish()
        print(str(error).replace("\n", " "))
        return 1
    bench.finish()
    print(summary)
    return 0


def supervise(name: str, options: argparse.Namespace, seconds: float) -> tuple[str, str]:
    """Run one part in a process of its own: (verdict, its last line)."""
    log = options.out / f"{name}.log"
    command = [
        sys.executable, __file__, "--run", name, "--out", options.out, "--seconds", str(seconds),
        "--seed", str(options.seed), "--target", options.target, "--device", options.device,
    ]
    with log.open("w") as stream:
        # A session of its own, so that whatever the part started ends with it.
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "failed", f"not done after {seconds:.0f} s; see {log}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return {0: "ok", SKIPPED: "skipped"}.get(status, "failed"), lines[-1] if lines else f"ended with status {status}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, help="folder for tables and logs (default: profiles/<name of the GPU>)")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *DEVICE_PARTS])
    parser.add_argument("--device", default="", metavar="COMMAND", help="starts a Python with tensorrt at the GPU")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, with OpenVINO")
    usual = f"{TOTAL_SECONDS}, with --device {TOTAL_DEVICE_SECONDS}"
    parser.add_argument("--total", type=float, metavar="SECONDS", help=f"of all parts (default {usual})")
    parser.add_argument("--target", default=TENSORRT, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=[*PARTS, *DEVICE_PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.set_defaults(quick=False)
    return parser.parse_args()


def device_name(options: argparse.Namespace) -> str:
    """What is measured on.

    Raises:
        HwsmpqError: no GPU, or the device cannot be used.
    """
    if options.device:
        from hwsmpq.hardware.targets import get_target

        target = get_target(options.target, options.device)
        if reason := target.unavailable():
            raise HwsmpqError(f"{options.target} cannot be used on the device", reason)
        machine = target.machine()
        return f"{machine['device']} {machine['runtime'].partition('-')[0]}"
    gpu = nvidia.describe().get("device")
    if gpu is None:
        raise HwsmpqError("no NVIDIA GPU here", "nvidia-smi reports none", "--rehearse tries what needs none")
    return gpu


def main() -> int:
    options = arguments()
    if options.run:
        return run_part(options.run, options)
    if options.rehearse:
        options.target, options.device = REHEARSED, options.device or shlex.quote(sys.executable)
    on_device = bool(options.device)
    try:
        gpu = device_name(options)
    except HwsmpqError as error:
        print(error)
        return 1
    options.out = options.out or ROOT / "profiles" / re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    options.out.mkdir(parents=True, exist_ok=True)
    usual = TOTAL_DEVICE_SECONDS if on_device else TOTAL_SECONDS
    start, failed, total = time.monotonic(), 0, options.total or usual
    table = Table("part", "verdict", "seconds", "", title=f"gpu_check on {gpu}")
    for name in options.parts or (DEVICE_PARTS if on_device else PARTS):
        begun, limit = time.monotonic(), SECONDS[name] * total / usual
        left = total - (begun - start)
        if left < 10:
            verdict, line = "skipped", f"the {total:.0f} s are used up; run it alone with --parts {name}"
        else:
            verdict, line = supervise(name, options, min(limit, left))
        failed += verdict == "failed"
        seconds = f"{time.monotonic() - begun:.0f} of {limit:.0f}"
        print(f"{name}: {verdict} ({seconds} s): {line}", flush=True)
        table.add_row(name, verdict, seconds, escape(line))
    if options.rehearse:
        travels(options.out)
    with (options.out / "verdicts.txt").open("w") as stream:
        Console(file=stream, width=160).print(table)
    print(f"tables and logs are in {options.out}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
