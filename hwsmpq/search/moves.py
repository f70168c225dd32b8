"""Neighbours of a choice: one group or two groups at other levels, every limit kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.problem import Problem, identity

MAX_CHANGES = 2000
"""Single changes that are combined into swaps: the square of this bounds the memory."""


def neighbours(
    problem: Problem, choice: NDArray[np.int64], n: int, exclude: Iterable[NDArray[np.int64]] = ()
) -> list[NDArray[np.int64]]:
    """Up to ``n`` choices that differ from ``choice`` in one group (a shift) or two (a swap), best predicted first.

    Predictions are those of ``problem.objective``: exact for a shift, for a swap without the pair term of its two
    groups. Every limit is kept.

    Args:
        exclude: choices that are not proposed again.
    """
    n_levels = problem.value.unary.shape[1]
    seen = {identity(c) for c in (choice, *exclude)}
    changes = np.argwhere(problem.choices & (np.arange(n_levels) != choice[:, None]))
    gain = _gain(problem, choice, changes)
    if len(changes) > MAX_CHANGES:
        # A swap pairs a gain with a saving, so both ends of the order are kept.
        order = np.argsort(gain)
        kept = np.sort(np.concatenate([order[: MAX_CHANGES // 2], order[-MAX_CHANGES // 2 :]]))
        changes, gain = changes[kept], gain[kept]
    first, second = np.triu_indices(len(changes))
    differ = (first == second) | (changes[first, 0] != changes[second, 0])
    first, second = first[differ], second[differ]
    both = gain[first] + np.where(first == second, 0.0, gain[second])
    room = _room(problem, choice, changes, first, second)
    first, second, both = first[room], second[room], both[room]

    found: list[NDArray[np.int64]] = []
    for index in np.argsort(-both, kind="stable"):
        candidate = choice.copy()
        for change in {first[index], second[index]}:
            candidate[changes[change, 0]] = changes[change, 1]
        if identity(candidate) not in seen and problem.keeps_limits(candidate):
            found.append(candidate)
            if len(found) == n:
                break
    return found


def _gain(problem: Problem, choice: NDArray[np.int64], changes: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each single change (group, level) adds to the objective, exactly; (n_changes,)."""
    objective = problem.objective
    sign = 1.0 if problem.minimise is None else -1.0
    table = objective.unary - objective.unary[np.arange(len(choice)), choice][:, None]
    for i, j, pair in objective.pairs:
        if i == j:
            table[i] += np.diag(pair) - pair[choice[i], choice[i]]
        else:
            table[i] += pair[:, choice[j]] - pair[choice[i], choice[j]]
            table[j] += pair[choice[i], :] - pair[choice[i], choice[j]]
    return sign * table[changes[:, 0], changes[:, 1]]


def _room(
    problem: Problem, choice: NDArray[np.int64], changes: NDArray[np.int64],
    first: NDArray[np.int64], second: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which combinations keep the limits on costs without pair terms; the others are checked one by one."""
    kept = np.ones(len(first), dtype=bool)
    for kind, limit in problem.limits.items():
        cost = problem.costs[kind]
        if cost.pairs:
            continue
        here = cost.unary[np.arange(len(choice)), choice]
        added = cost.unary[changes[:, 0], changes[:, 1]] - here[changes[:, 0]]
        total = cost(choice) + added[first] + np.where(first == second, 0.0, added[second])
        kept &= total <= limit + problem.slack(kind)
    return kept
