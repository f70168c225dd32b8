"""A game over assignments whose every evaluation is stored the moment it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.memo import Memo
from hwsmpq.types import Assignment

Evaluate = Callable[[list[Assignment]], Iterable[NDArray[np.floating]]]
"""Per-sample values (n_samples,) of each assignment, in order: an array (n, n_samples), or an iterator over its
rows, which loses least when interrupted."""


def assignment_key(assignment: Assignment) -> str:
    """SHA-256 of an assignment, whatever the order of its groups."""
    return hashlib.sha256(json.dumps(assignment, sort_keys=True).encode()).hexdigest()


class MemoizedGame:
    """The mean of per-sample values as a :class:`~hwsmpq.contribution.game.Game`.

    Args:
        evaluate: measures assignments; called only with those the memo lacks, each once, in order of request.
        memo: where every vector is stored, as float32, before anything is computed from it.
        context: SHA-256 of everything besides the assignment that a value depends on.
        groups: names of the players.
        precisions: names of the levels, floor first.
    """

    def __init__(
        self, evaluate: Evaluate, memo: Memo, context: str, groups: Sequence[str], precisions: Sequence[str]
    ) -> None:
        self.evaluate, self.memo, self.context = evaluate, memo, context
        self.groups, self.precisions = tuple(groups), tuple(precisions)
        self.n_evaluations = 0
        """Assignments measured by this object, as opposed to found in the memo."""

    @property
    def n_players(self) -> int:
        return len(self.groups)

    @property
    def n_levels(self) -> int:
        return len(self.precisions)

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean values (n_assignments,) of ``levels`` (n_assignments, n_players)."""
        return np.asarray(self.samples(levels).mean(axis=1, dtype=np.float64))

    def samples(self, levels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Per-sample values (n_assignments, n_samples) of ``levels`` (n_assignments, n_players)."""
        assignments = [
            {group: self.precisions[level] for group, level in zip(self.groups, row, strict=True)} for row in levels
        ]
        keys = [assignment_key(assignment) for assignment in assignments]
        known = self.memo.get_many(self.context, list(dict.fromkeys(keys)))
        missing = {k: a for k, a in zip(keys, assignments, strict=True) if k not in known}
        if missing:
            for key, vector in zip(missing, self.evaluate(list(missing.values())), strict=True):
                known[key] = np.asarray(vector, dtype=np.float32)
                self.memo.put_many(self.context, {key: known[key]})
                self.n_evaluations += 1
        return np.stack([known[key] for key in keys])
