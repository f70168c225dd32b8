"""The NVIDIA GPU as ``nvidia-smi`` describes it: what it is, and the state that it is in."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence

# Our name -> the field that nvidia-smi calls it. No field tells the number of multiprocessors.
IDENTITY = {"index": "index", "uuid": "uuid"}
STATIC = {
    "device": "name",
    "compute_capability": "compute_cap",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "max_sm_clock_mhz": "clocks.max.sm",
    "max_memory_clock_mhz": "clocks.max.memory",
    "power_limit_w": "power.limit",
}
MOMENTARY = {
    "power_state": "pstate",
    "sm_clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_celsius": "temperature.gpu",
    "power_draw_w": "power.draw",
    "persistence_mode": "persistence_mode",
}
TIMEOUT_SECONDS = 30


def gpu_count() -> int:
    """Number of GPUs that CUDA may use here; 0 also where nvidia-smi is missing."""
    return len(_gpus({}))


def describe() -> dict[str, str]:
    """What a measurement on the first visible GPU depends on; without what the GPU or its driver does not report."""
    return next(iter(_gpus(STATIC)), {})


def conditions() -> dict[str, str]:
    """The state of the first visible GPU at this moment; without what the GPU or its driver does not report."""
    return next(iter(_gpus(MOMENTARY)), {})


def _gpus(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The visible GPUs in CUDA's order, each with those of the fields that it reports."""
    asked = {**IDENTITY, **fields}
    command = ["nvidia-smi", f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = visible(parse(done.stdout, tuple(asked)), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return [{key: value for key, value in gpu.items() if key not in IDENTITY} for gpu in gpus]


def parse(text: str, keys: Sequence[str]) -> list[dict[str, str]]:
    """A dictionary a GPU from nvidia-smi's CSV lines of values without units, in the order of the keys.

    Values in brackets (``[N/A]``, ``[Not Supported]``, ``[Unknown Error]``) are left out, and so are other lines.
    """
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [
        {key: value for key, value in zip(keys, row) if not value.startswith("[")}
        for row in rows
        if len(row) == len(keys)
    ]


def visible(gpus: Iterable[dict[str, str]], selection: str | None) -> list[dict[str, str]]:
    """The GPUs that a value of ``CUDA_VISIBLE_DEVICES`` selects, in its order; all of them without one.

    As CUDA reads it: indices or beginnings of UUIDs, up to the first that fits no GPU. Of a MIG slice nothing is known.
    """
    gpus = list(gpus)
    if selection is None:
        return gpus
    chosen: list[dict[str, str]] = []
    for entry in selection.split(","):
        fitting = [
            gpu for gpu in gpus
            if entry == gpu.get("index") or (entry.startswith("GPU-") and gpu.get("uuid", "").startswith(entry))
        ]
        if entry.startswith("MIG-"):
            fitting = [{}]
        if not fitting:
            break
        chosen.append(fitting[0])
    return chosen
