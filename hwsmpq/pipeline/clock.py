"""One clock for all stages of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hwsmpq.types import StageTime


class Clock:
    """Wall and CPU seconds by stage. What a stage within another takes is counted there only.

    Args:
        known: what earlier processes took.
    """

    def __init__(self, known: Iterable[StageTime] = ()) -> None:
        self._seconds = {one.stage: [one.wall_s, one.cpu_s] for one in known}
        self._open: list[str] = []
        self._last = _now()

    @property
    def times(self) -> tuple[StageTime, ...]:
        """What every stage took up to now."""
        self._count()
        return tuple(StageTime(stage, round(wall, 3), round(cpu, 3)) for stage, (wall, cpu) in self._seconds.items())

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what the block takes for a stage."""
        self._count()
        self._open.append(stage)
        self._seconds.setdefault(stage, [0.0, 0.0])
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        now = _now()
        if self._open:
            seconds = self._seconds[self._open[-1]]
            for i in (0, 1):
                seconds[i] += now[i] - self._last[i]
        self._last = now


def _now() -> tuple[float, float]:
    times = os.times()  # of this process, and of those that it has ended
    return time.monotonic(), times.user + times.system + times.children_user + times.children_system
