"""A game over assignments whose every evaluation is stored the moment it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.memo import Memo
from hwsmpq.types import Assignment

Task = list[Assignment]
"""Assignments that are evaluated together: an interruption loses them together, and neighbours share what they can."""

Executor = Callable[[Sequence[Task]], Iterator[tuple[int, NDArray[np.floating]]]]
"""Evaluates tasks: yields (index of a task, per-sample values (n_assignments, n_samples)) of each task once, in any
order, as soon as it is finished."""

MAX_ROWS = 64
"""Assignments of the largest task. A cut costs about half an evaluation, an interruption up to a whole task."""
MIN_ROWS = 16
"""A walk is not cut below this for the sake of balance."""
TASKS_PER_WORKER = 4
"""Enough that workers of unequal speed end a request at about the same time."""


def assignment_key(assignment: Assignment) -> str:
    """SHA-256 of an assignment, whatever the order of its groups."""
    return hashlib.sha256(json.dumps(assignment, sort_keys=True).encode()).hexdigest()


def cut(assignments: Sequence[Assignment], n_workers: int = 1) -> list[Task]:
    """Tasks of at most ``MAX_ROWS`` assignments, in order, where possible cut where a new walk begins.

    Neighbours within a walk differ in one group, and evaluating one after the other is cheaper than evaluating each
    alone; neighbours that differ in more share little. Short walks are joined and long ones cut as ``n_workers`` need.
    """
    balanced = min(MAX_ROWS, -(-len(assignments) // (TASKS_PER_WORKER * n_workers)))
    pieces = [p for walk in _walks(assignments) for p in _even(walk, max(MIN_ROWS, balanced))]
    tasks: list[Task] = []
    for piece in pieces:
        if tasks and len(tasks[-1]) + len(piece) <= balanced:
            tasks[-1].extend(piece)
        else:
            tasks.append(piece)
    return tasks


def _walks(assignments: Sequence[Assignment]) -> Iterator[Task]:
    walk: Task = []
    for assignment in assignments:
        if walk and sum(assignment[group] != level for group, level in walk[-1].items()) > 1:
            yield walk
            walk = []
        walk.append(assignment)
    if walk:
        yield walk


def _even(walk: Task, limit: int) -> Iterator[Task]:
    """Pieces of at most ``limit``, as equal as can be."""
    n_pieces = -(-len(walk) // limit)
    bounds = [len(walk) * i // n_pieces for i in range(n_pieces + 1)]
    return (walk[start:stop] for start, stop in pairwise(bounds))


class MemoizedGame:
    """The mean of per-sample values as a :class:`~hwsmpq.contribution.game.Game`.

    Args:
        execute: evaluates tasks of assignments that the memo lacks, each assignment once.
        memo: where every vector is stored, as float32, before anything is computed from it.
        context: SHA-256 of everything besides the assignment that a value depends on.
        levels: by name of the player, the precision that it runs at each level, floor first.
        n_workers: tasks that ``execute`` works on at once.
        base: the level that groups rest at.
    """

    def __init__(
        self, execute: Executor, memo: Memo, context: str, levels: Mapping[str, Sequence[str]],
        n_workers: int = 1, base: int = 0,
    ) -> None:
        self.memo, self.context = memo, context
        self._levels, self.base = {player: tuple(names) for player, names in levels.items()}, base
        self._execute, self._n_workers = execute, n_workers
        self.n_evaluations = 0
        """Assignments measured by this object, as opposed to found in the memo."""

    @property
    def n_players(self) -> int:
        return len(self._levels)

    @property
    def n_levels(self) -> int:
        return len(next(iter(self._levels.values())))

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean values (n_assignments,) of ``levels`` (n_assignments, n_players)."""
        return np.asarray(self.samples(levels).mean(axis=1, dtype=np.float64))

    def samples(self, levels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Per-sample values (n_assignments, n_samples) of ``levels`` (n_assignments, n_players)."""
        return self.samples_of([
            {player: names[level] for (player, names), level in zip(self._levels.items(), row, strict=True)}
            for row in levels
        ])

    def samples_of(self, assignments: Sequence[Assignment]) -> NDArray[np.float32]:
        """Per-sample values (n_assignments, n_samples) of any assignments, also of precisions outside the game.

        Raises:
            ValueError: the executor returned another number of rows than it was asked for, or left a task out.
        """
        keys = [assignment_key(assignment) for assignment in assignments]
        known = self.memo.get_many(self.context, list(dict.fromkeys(keys)))
        missing = {k: a for k, a in zip(keys, assignments, strict=True) if k not in known}
        if missing:
            tasks = cut(list(missing.values()), self._n_workers)
            for index, rows in self._execute(tasks):
                vectors = np.asarray(rows, dtype=np.float32)
                found = dict(zip(map(assignment_key, tasks[index]), vectors, strict=True))
                self.memo.put_many(self.context, found)
                self.n_evaluations += len(found.keys() - known.keys())
                known.update(found)
            if not missing.keys() <= known.keys():
                raise ValueError(f"the executor finished without {len(missing.keys() - known.keys())} assignments")
        return np.stack([known[key] for key in keys])
