"""What holds the clocks of a Jetson: its power mode, and whether ``jetson_clocks`` keeps them at their top."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

MODEL = Path("/proc/device-tree/model")
CLOCKS = Path("/sys/class/devfreq")
TIMEOUT_SECONDS = 10


def describe() -> dict[str, str]:
    """Board, power mode and range of the GPU's clock, as far as they can be read; nothing elsewhere."""
    found = {"board": _text(MODEL), "power_mode": power_mode()}
    for folder in sorted(CLOCKS.glob("*gpu*")) if found["board"] else ():
        found["gpu_clock_hz"] = f"{_text(folder / 'min_freq')} to {_text(folder / 'max_freq')}"
    return {key: value for key, value in found.items() if value}


def power_mode() -> str:
    """The mode that ``nvpmodel -q`` names, or nothing."""
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
    return match.group(1) if match else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
