"""What an engine needs of the main memory, measured in a process of its own."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsmpq.device.runtimes import get_runtime
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATUS = Path("/proc/self/status")
N_INFERENCES = 3
SECONDS = 600.0
"""After which loading an engine and running it a few times counts as hanging."""
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from hwsmpq.device.memory import child; child(*sys.argv[2:])"


def peak_mb(
    runtime: str, folder: Path, options: Mapping[str, Any], inputs: Sequence[NDArray[Any]]
) -> float | None:
    """Megabytes (10^6 bytes) that are resident at most while an engine is loaded and run, above what the runtime alone
    has; None where the system does not tell.

    Args:
        runtime: its name among :data:`hwsmpq.device.runtimes.RUNTIMES`; the engine computes on the processor.
        folder: of the engine.
        options: what it is loaded with.
        inputs: of every inference.

    Raises:
        HwsmpqError: the process that loads it ended otherwise, for example for want of memory.
    """
    if not STATUS.exists():
        return None
    arrays = io.BytesIO()
    np.savez(arrays, *inputs)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CHILD, str(root), runtime, str(folder), json.dumps(dict(options))]
    try:
        done = subprocess.run(command, input=arrays.getvalue(), capture_output=True, timeout=SECONDS, check=False)
        return float(done.stdout.split()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError) as error:
        said = "" if isinstance(error, (OSError, subprocess.TimeoutExpired)) else done.stderr.decode(errors="replace")
        raise HwsmpqError(
            f"the memory of the engine in {folder} cannot be measured", said.strip()[-300:] or str(error),
            "free memory, or give a smaller --batch",
        ) from error


def child(runtime: str, folder: str, options: str) -> None:
    """Load an engine in a process that has nothing else, run it, and print its peak."""
    arrays = np.load(io.BytesIO(sys.stdin.buffer.read()))
    inputs = [arrays[name] for name in arrays.files]
    made = get_runtime(runtime)
    made.start()
    alone = _resident_kb("VmRSS")
    engine = made.load(Path(folder), json.loads(options))
    for _ in range(N_INFERENCES):
        engine.milliseconds(inputs)
    print((_resident_kb("VmHWM") - alone) * 1024 / 1e6)


def _resident_kb(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
