"""Neighbours of a choice: one group (or set of groups that take one level) or two at other levels, every limit kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.problem import Problem, identity
from hwsmpq.types import Cost, with_slack

MAX_CHANGES = 2000
"""Single changes that are combined into swaps: the square of this bounds the memory."""


def neighbours(
    problem: Problem, choice: NDArray[np.int64], n: int, exclude: Iterable[NDArray[np.int64]] = ()
) -> list[NDArray[np.int64]]:
    """Up to ``n`` choices that differ from ``choice`` in one group (a shift) or two (a swap), best by
    ``problem.objective`` first. Every limit is kept.

    Args:
        exclude: choices that are not proposed again.
    """
    allowed = problem.permitted
    if allowed.are_tied:
        others = [allowed.join(other) for other in exclude if allowed.permits(other)]
        return [allowed.spread(found) for found in neighbours(problem.joined, allowed.join(choice), n, others)]
    n_levels = problem.value.unary.shape[1]
    seen = {identity(c) for c in (choice, *exclude)}
    changes = np.argwhere(problem.choices & (np.arange(n_levels) != choice[:, None]))
    sign = 1.0 if problem.minimise is None else -1.0
    if len(changes) > MAX_CHANGES:
        # A swap pairs a gain with a saving, so both ends of the order are kept.
        order = np.argsort(sign * _Added(problem.objective, choice, changes).alone)
        changes = changes[np.sort(np.concatenate([order[: MAX_CHANGES // 2], order[-MAX_CHANGES // 2 :]]))]
    first, second = np.triu_indices(len(changes))
    kept = (first == second) | (changes[first, 0] != changes[second, 0])
    first, second = first[kept], second[kept]
    for kind, limit in problem.limits.items():
        cost = problem.costs[kind]
        total = cost(choice) + _Added(cost, choice, changes).together(first, second)
        kept = total <= with_slack(limit)
        first, second = first[kept], second[kept]
    gain = sign * _Added(problem.objective, choice, changes).together(first, second)

    found: list[NDArray[np.int64]] = []
    for index in np.argsort(-gain, kind="stable"):
        candidate = choice.copy()
        for change in {first[index], second[index]}:
            candidate[changes[change, 0]] = changes[change, 1]
        if identity(candidate) not in seen and problem.keeps_limits(candidate):
            found.append(candidate)
            if len(found) == n:
                break
    return found


class _Added:
    """What changes (group, level) of a choice add to a cost.

    Args:
        changes: (n_changes, 2), one group each.
    """

    def __init__(self, cost: Cost, choice: NDArray[np.int64], changes: NDArray[np.int64]) -> None:
        n_groups, n_levels = cost.unary.shape
        groups, levels = changes.T
        table = cost.unary - cost.unary[np.arange(n_groups), choice][:, None]
        between: dict[tuple[int, int], NDArray[np.float64]] = {}
        for i, j, pair in cost.pairs:
            if i == j:
                table[i] += np.diag(pair) - pair[choice[i], choice[i]]
                continue
            table[i] += pair[:, choice[j]] - pair[choice[i], choice[j]]
            table[j] += pair[choice[i], :] - pair[choice[i], choice[j]]
            # What both changes add beyond the sum of each alone.
            beyond = pair - pair[:, choice[j]][:, None] - pair[choice[i], :] + pair[choice[i], choice[j]]
            for ends, one in (((i, j), beyond), ((j, i), beyond.T)):
                between[ends] = between.get(ends, 0.0) + one
        self._groups, self._levels = groups, levels
        self._place = np.zeros((n_groups, n_groups), dtype=np.int32)  # of the table between two groups
        for place, (i, j) in enumerate(between, 1):
            self._place[i, j] = place
        self._between = np.array([np.zeros((n_levels, n_levels)), *between.values()])
        self.alone = np.asarray(table[groups, levels])
        """(n_changes,)"""

    def together(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
        """By pairs of changes in different groups, or of a change and itself, which counts once."""
        place = self._place[self._groups[first], self._groups[second]]
        beyond = self._between[place, self._levels[first], self._levels[second]]
        return np.where(first == second, self.alone[first], self.alone[first] + self.alone[second] + beyond)
