"""The exact solver of the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.search.diagnose import diagnose
from hwsmpq.search.optimum import optimum
from hwsmpq.search.problem import Problem, Solution


def solve(problem: Problem, exclude: Sequence[NDArray[np.int64]] = (), time_limit_s: float = 60.0) -> Solution:
    """The best choice outside ``exclude``; the same problem gives the same choice, also among equals.

    Raises:
        HwsmpqError: no assignment keeps the limits (names the binding ones and what can be reached), all that do
            are excluded, or none was found within ``time_limit_s``.
    """
    solution = optimum(problem, exclude, time_limit_s)
    if solution is not None:
        return solution
    if problem.missed and optimum(replace(problem, missed=frozenset()), (), time_limit_s) is not None:
        raise InfeasibleError(
            "no assignment is left that may keep the budgets",
            f"{len(problem.missed)} were measured, and those that are predicted to keep them did not",
            "raise a budget or add a precision to the ladder",
        )
    if exclude and optimum(problem, (), time_limit_s) is not None:
        raise HwsmpqError(
            f"no assignment is left besides the {len(exclude)} excluded", "they are all that keep the budgets",
            "raise a budget or add a precision to the ladder",
        )
    raise diagnose(problem, time_limit_s)
