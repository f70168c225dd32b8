"""Evaluation in this process, one task after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.types import Assignment

Tell = Callable[[int, int], None]
"""Called with (evaluations done, evaluations in all) of one request."""


class Serial:
    """An executor over one evaluator.

    Args:
        make: builds the evaluator at the first task, given where to tell its progress within a task.
        progress: told after every evaluation.
    """

    def __init__(self, make: Callable[[Tell], Evaluator], progress: Tell) -> None:
        self._make, self._progress = make, progress
        self._n_done = self._n_total = 0

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self._make(lambda done, n: self._progress(self._n_done + done, self._n_total))

    def __call__(self, tasks: Sequence[list[Assignment]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        self._n_done, self._n_total = 0, sum(map(len, tasks))
        for index, task in enumerate(tasks):
            rows = self._evaluator(task)
            self._n_done += len(task)
            yield index, rows
