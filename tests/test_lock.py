"""One process a folder at a time."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.lock import BUILDING, hold

HOLDER = (
    "import sys, time, pathlib; from hwsmpq.lock import hold; lock = hold(pathlib.Path(sys.argv[1]));"
    "print('held', flush=True); time.sleep(60)"
)


def test_the_holder_is_named_and_the_lock_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(HwsmpqError, match=rf"(?s)run is in use.*process {holder.pid} on .*since 20"):
        hold(folder)
    (folder / f"{BUILDING}x" / "engine").mkdir(parents=True)
    (folder / ".plan.json.abc.tmp").write_text("half")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock = hold(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"], "what a killed process left"
    assert hold(folder) is lock
    del lock


def test_a_lock_that_nobody_keeps_is_free(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    again = hold(tmp_path)
    assert again is lock
    del lock, again
    gc.collect()
    done = subprocess.run([sys.executable, "-c", HOLDER.replace("sleep(60)", "sleep(0)"), str(tmp_path)])
    assert done.returncode == 0
