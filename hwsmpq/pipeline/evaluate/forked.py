"""Evaluation by processes of this machine, which begin as copies of this one: nothing is loaded or sent to them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.evaluate.serial import Serial, Tell
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.types import Assignment

CAN_FORK = sys.platform == "linux"
"""Elsewhere copies of a process that runs threads are not safe."""
MAX_LOSSES = 3
"""Processes that one task may lose before it is taken to be the reason."""
PR_SET_PDEATHSIG = 1
MEMORY = Path("/proc/meminfo")


def n_processes(memory_mb: int) -> int:
    """How many evaluate by default: as many as torch would take threads (one a core, or what ``OMP_NUM_THREADS`` says)
    and as find ``memory_mb`` each; one where there is a GPU."""
    if not CAN_FORK or torch.cuda.is_available():
        return 1
    lines = MEMORY.read_text().splitlines()
    available_kb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return max(1, min(torch.get_num_threads(), available_kb // 1024 // memory_mb))


class Forked(Serial):
    """An executor over several copies of one evaluator, of one thread each. They live for one request.

    A copy that dies loses the task that it was at, which another is given. Every task gives the bits that it gives in
    one process.

    Args:
        make, progress: as of :class:`Serial`.
        warm: given all assignments of a request, before it is copied, does once what every copy would do by itself.
        n_workers: copies, at most.

    Raises:
        HwsmpqError: one task lost several copies.
        Exception: what the user's code raised in a copy.
    """

    def __init__(
        self, make: Callable[[Tell], Evaluator], progress: Tell, warm: Callable[[Sequence[Assignment]], None],
        n_workers: int,
    ) -> None:
        super().__init__(make, progress)
        self._warm, self._n_workers = warm, n_workers

    def __call__(self, tasks: Sequence[list[Assignment]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        if min(self._n_workers, len(tasks)) < 2:
            yield from super().__call__(tasks)
            return
        self._n_done, self._n_total = 0, sum(map(len, tasks))
        evaluator = self._evaluator
        self._warm([assignment for task in tasks for assignment in task])
        copies: dict[Connection, tuple[BaseProcess, int]] = {}
        queue, losses = deque(range(len(tasks))), Counter[int]()
        try:
            while queue or copies:
                while queue and len(copies) < self._n_workers:
                    connection, process = _copy(evaluator)
                    copies[connection] = process, _give(connection, tasks, queue)
                for connection in wait(list(copies)):
                    assert isinstance(connection, Connection)
                    process, index = copies[connection]
                    try:
                        rows, error = connection.recv()
                    except (EOFError, ConnectionResetError):
                        losses[index] += 1
                        _check(losses[index], len(tasks[index]), process)
                        queue.appendleft(index)
                        _end(connection, copies.pop(connection)[0])
                        continue
                    if error is not None:
                        raise error
                    if queue:
                        copies[connection] = process, _give(connection, tasks, queue)
                    else:
                        _end(connection, copies.pop(connection)[0])
                    self._n_done += len(tasks[index])
                    self._progress(self._n_done, self._n_total)
                    yield index, rows
        finally:
            for connection, (process, _) in copies.items():
                _end(connection, process)


def _give(connection: Connection, tasks: Sequence[list[Assignment]], queue: deque[int]) -> int:
    index = queue.popleft()
    connection.send(tasks[index])
    return index


def _end(connection: Connection, process: BaseProcess) -> None:
    process.kill()
    process.join()
    connection.close()


def _check(n_lost: int, n_evaluations: int, process: BaseProcess) -> None:
    process.join()
    if n_lost == MAX_LOSSES:
        raise HwsmpqError(
            f"{MAX_LOSSES} workers died one after another at the same {n_evaluations} evaluations",
            f"the last ended with code {process.exitcode}",
            "take fewer --workers or a lower --memory-mb if memory ran out; finished work is kept",
        )


def _copy(evaluator: Evaluator) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(evaluator, ours, theirs, os.getpid()), daemon=True)
    with warnings.catch_warnings():
        # Of threads that the copy does not have: it takes no lock that they may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return ours, process


def _work(evaluator: Evaluator, ours: Connection, theirs: Connection, parent: int) -> None:
    """Evaluate what comes until the parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its copies
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    ours.close()
    torch.set_num_threads(1)  # threads of the parent are not copied
    while True:
        task = theirs.recv()
        answer: tuple[Any, BaseException | None]
        try:
            answer = evaluator(task), None
        except Exception as error:
            answer = None, _sendable(error)
        theirs.send(answer)


def _sendable(error: Exception) -> Exception:
    """The error with where it was raised; or another that says the same, if it cannot be pickled and back."""
    note = f"in a worker:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
