"""The K best distinct solutions: the pool that larger batches choose from."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.milp import solve
from hwsmpq.search.optimum import NothingInTime, optimum
from hwsmpq.search.problem import Problem, Solution


def k_best(
    problem: Problem, k: int, exclude: Sequence[NDArray[np.int64]] = (), time_limit_s: float = 60.0
) -> list[Solution]:
    """Up to ``k`` distinct solutions outside ``exclude``, best first; fewer where no more exist or time is up.

    Raises:
        HwsmpqError: not even one exists; see :func:`~hwsmpq.search.milp.solve`.
    """
    deadline = time.monotonic() + time_limit_s
    found = [solve(problem, exclude, time_limit_s)]
    while len(found) < k and time.monotonic() < deadline:
        try:
            solution = optimum(problem, [*exclude, *(s.choice for s in found)], deadline - time.monotonic())
        except NothingInTime:
            break
        if solution is None:
            break
        found.append(solution)
    return sorted(found, key=lambda s: s.objective, reverse=problem.minimise is None)
