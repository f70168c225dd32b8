"""The processor of this machine: what it is called and which vector instructions it has."""

from __future__ import annotations

import os
import platform
from pathlib import Path

DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp"}
VECTOR_EXTENSIONS = {"sse4_1", "avx2", "avx512f", "asimd"}


def describe() -> dict[str, str]:
    """What a measurement on the processor depends on."""
    found = flags()
    return {
        "device": _entry("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "n_cores": str(os.cpu_count()),
        "pinned_to": _affinity(),
        "governor": _governor(),
        "vector_extensions": ",".join(sorted(found & VECTOR_EXTENSIONS)) or "none",
        "int8_dot_product": ",".join(sorted(found & DOT_PRODUCTS)) or "none",
    }


def int8_saturates() -> bool:
    """Whether int8 kernels add two products in 16 bits, as they do on x86 without a dot-product instruction."""
    return platform.machine() in {"x86_64", "AMD64"} and not DOT_PRODUCTS & flags()


def flags() -> set[str]:
    """The processor's feature flags as the system lists them; none where it lists none."""
    return set((_entry("flags") or _entry("Features")).split())


def _affinity() -> str:
    """Which of the cores this process may use, where it may not use all."""
    cores = os.sched_getaffinity(0)
    return "none" if len(cores) == os.cpu_count() else ",".join(map(str, sorted(cores)))


def _governor() -> str:
    """What sets the clock of the processor; virtual machines do not tell."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"


def _entry(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() == key), "")
