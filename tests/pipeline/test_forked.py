"""Copies of this process that evaluate: the rows of one process, also where copies die, fail or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.evaluate import forked
from hwsmpq.pipeline.evaluate.forked import Forked
from hwsmpq.pipeline.evaluate.serial import Serial

pytestmark = pytest.mark.skipif(not forked.CAN_FORK, reason="copies of a process need Linux")

TASKS = [[{"a": f"w{i}a{j}"} for j in range(3)] for i in range(8)]
HERE = os.getpid()


def rows(task: list[dict[str, str]]) -> np.ndarray:
    return np.array([[ord(c) for c in one["a"]] for one in task], dtype=np.float32)


def executor(evaluate: Callable[..., Any], told: list[tuple[int, int]] | None = None, n_workers: int = 2) -> Forked:
    def tell(done: int, n: int) -> None:
        if told is not None:
            told.append((done, n))

    return Forked(lambda tell: evaluate, tell, lambda assignments: None, n_workers)


def in_copy() -> bool:
    return os.getpid() != HERE


def test_rows_are_those_of_one_process_and_come_from_several() -> None:
    told: list[tuple[int, int]] = []
    expected = dict(Serial(lambda tell: rows, lambda done, n: None)(TASKS))  # type: ignore[arg-type, return-value]

    def with_pid(task: Any) -> np.ndarray:
        time.sleep(0.02)
        return np.c_[rows(task), np.full(len(task), os.getpid() % 2**20)]

    found = dict(executor(with_pid, told)(TASKS))
    assert found.keys() == expected.keys()
    for index, one in found.items():
        np.testing.assert_array_equal(one[:, :-1], expected[index])
    pids = {int(one[0, -1]) for one in found.values()}
    assert len(pids) == 2 and HERE % 2**20 not in pids
    assert told[-1] == (24, 24) and told == sorted(told)


def test_one_task_and_one_worker_stay_in_this_process() -> None:
    def pid(task: Any) -> np.ndarray:
        return np.full((len(task), 1), os.getpid())

    for tasks, n_workers in ((TASKS[:1], 2), (TASKS, 1)):
        assert {int(one[0, 0]) for _, one in executor(pid, n_workers=n_workers)(tasks)} == {HERE}


def test_what_is_done_before_the_copies_is_seen_by_them() -> None:
    known: set[str] = set()

    def evaluate(task: Any) -> np.ndarray:
        assert {one["a"] for one in task} <= known
        return rows(task)

    def warm(assignments: Any) -> None:
        known.update(one["a"] for one in assignments)

    assert len(list(Forked(lambda tell: evaluate, lambda done, n: None, warm, 2)(TASKS))) == 8  # type: ignore[arg-type, return-value]


def test_a_copy_that_dies_loses_nothing(tmp_path: Path) -> None:
    def evaluate(task: Any) -> np.ndarray:
        if in_copy() and task == TASKS[3] and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows(task)

    found = dict(executor(evaluate)(TASKS))
    assert (tmp_path / "died").exists() and sorted(found) == list(range(8))
    np.testing.assert_array_equal(found[3], rows(TASKS[3]))


def test_a_task_that_kills_every_copy_is_named() -> None:
    def evaluate(task: Any) -> np.ndarray:
        if task == TASKS[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows(task)

    with pytest.raises(HwsmpqError, match="3 workers died one after another at the same 3 evaluations"):
        list(executor(evaluate)(TASKS))


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (ValueError("the loss is broken"), ValueError, "the loss is broken"),
        (HwsmpqError("what", "why", "fix"), HwsmpqError, "what\n  why: why\n  fix: fix"),
        (Odd(1, 2), RuntimeError, "Odd: 1 and 2"),  # which cannot be made again from its text
    ],
)
def test_an_error_of_the_user_is_raised_here(raised: Exception, expected: type[Exception], said: str) -> None:
    def evaluate(task: Any) -> np.ndarray:
        raise raised

    with pytest.raises(expected) as found:
        list(executor(evaluate)(TASKS))
    assert str(found.value) == said
    assert any("in evaluate" in note for note in found.value.__notes__)


SCRIPT = """
import os, sys, time
import numpy as np
from hwsmpq.pipeline.evaluate.forked import Forked

def evaluate(task):
    with open(sys.argv[1], "a") as file:
        print(os.getpid(), file=file)
    time.sleep(100)

try:
    list(Forked(lambda tell: evaluate, print, lambda assignments: None, 2)([[{}], [{}], [{}]]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_copy_outlives_this_process(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    pids = tmp_path / "pids"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pids)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: to the whole process group
    else:
        process.kill()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", "")
    while any(is_alive(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.05)
