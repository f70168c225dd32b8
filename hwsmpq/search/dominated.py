"""Levels that no optimal choice contains: another costs no more, whatever the other groups take, and is worth more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

Z_WORTH_LESS = 2.0
"""Standard errors from the mean to the end of an interval."""


def dominated(problem: Problem, stderr: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Levels (n_groups, n_levels) that cost no less under any limit than another permitted level of their group, and
    are worth less at the best end of their interval than that one at the worst of its own.

    Args:
        problem: its value is a table of single groups.
        stderr: of that table, (n_groups, n_levels).
    """
    worth, mask = problem.value.unary, problem.choices
    found = np.zeros_like(mask)
    if problem.permitted.are_tied:  # what one group would take, another may not
        return found
    low, high = worth - Z_WORTH_LESS * stderr, worth + Z_WORTH_LESS * stderr
    costs_more = [_costs_no_less(problem.costs[kind]) for kind in problem.limits]
    worse = np.all([high[:, :, None] < low[:, None, :], *costs_more], axis=0)
    return np.asarray((worse & mask[:, None, :]).any(axis=2))


def _costs_no_less(cost: Cost) -> NDArray[np.bool_]:
    """Whether a level costs no less than another of the same group, whatever the others take:
    (n_groups, n_levels, n_levels)."""
    least = cost.unary[:, :, None] - cost.unary[:, None, :]
    for i, j, table in cost.pairs:
        if i == j:
            least[i] += np.diag(table)[:, None] - np.diag(table)[None, :]
            continue
        least[i] += (table[:, None, :] - table[None, :, :]).min(axis=2)
        least[j] += (table.T[:, None, :] - table.T[None, :, :]).min(axis=2)
    return np.asarray(least >= 0)
