"""Killed, interrupted, out of disk: nothing finished is lost, and the result is the same in the end."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK_FILE, Finished

from cli.console import QDQ, Cli, start, stored

SLOW_TASK = """
import sys, time
sys.path.insert(0, {tests!r})
from hwsmpq.quantize.simulator import Simulator
from tiny_task import task

scores = Simulator.scores

def slow(*args, **kwargs):
    time.sleep(0.5)
    return scores(*args, **kwargs)

Simulator.scores = slow
"""


@pytest.fixture
def slow_task(tmp_path: Path) -> Path:
    """The tiny task, with evaluations slow enough to be caught in the middle of."""
    path = tmp_path / "slow_task.py"
    path.write_text(SLOW_TASK.format(tests=str(Path(TASK_FILE).parent)))
    return path


def n_stored(folder: Path) -> int:
    """Rows of the store as another process sees them."""
    path = folder / "evaluations.sqlite"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1) as connection:
            return int(connection.execute("SELECT count(*) FROM evaluations").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended first: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.01)


def payload(path: Path) -> dict:
    return json.loads(path.read_text())["payload"]


def test_killed_while_contributing(cli: Cli, qdq_run: Finished, slow_task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("run", slow_task, *QDQ, "--bitops", "int8", "-o", folder)
    wait_until(lambda: n_stored(folder) >= 5, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert n_stored(folder) >= 5 and not (folder / "contributions.json").exists()

    result = cli("run", TASK_FILE, "-o", folder, "--bitops", "int8")
    assert result.code == 0, result
    for name in ("contributions.json", "plan.json"):
        assert payload(folder / name) == payload(qdq_run.folder / name)
    # What was stored before the kill was not evaluated again: every row was written once.
    assert n_stored(folder) == n_stored(qdq_run.folder)


def test_ctrl_c(cli: Cli, qdq_run: Finished, slow_task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("run", slow_task, *QDQ, "--bitops", "int8", "-o", folder)
    wait_until(lambda: n_stored(folder) >= 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("interrupted: finished work is kept, run the same command again to go on\n")

    assert cli("run", TASK_FILE, "-o", folder, "--bitops", "int8").code == 0
    for name in ("contributions.json", "plan.json"):
        assert payload(folder / name) == payload(qdq_run.folder / name)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk(cli: Cli, qdq_copy: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = stored(qdq_copy)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        result = cli("search", "--bitops", "w4a4", "-o", qdq_copy)
    result.assert_one_message("cannot write", "contributions.json", "No space left on device", "free space")
    assert stored(qdq_copy) == before
    assert cli("search", "--bitops", "w4a4", "-o", qdq_copy).code == 0


def test_full_disk_while_the_engine_is_built(cli: Cli, qdq_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("search", "--bitops", "w4a4", "-o", qdq_copy).code == 0
    before = stored(qdq_copy)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = cli("build", "-o", qdq_copy)
    result.assert_one_message("No space left on device")
    assert stored(qdq_copy) == before


def test_a_folder_that_cannot_be_made(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cli("inspect", TASK_FILE, "-o", tmp_path / "file" / "run").assert_one_message(str(tmp_path / "file"))
