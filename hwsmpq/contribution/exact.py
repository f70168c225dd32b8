"""Contributions by full enumeration: the oracle of every estimator."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, options, values
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table, unsampled
from hwsmpq.errors import HwsmpqError

MAX_EVALUATIONS = 2**18


def exact(game: Game, stop: Stop | None = None, seed: int = 0, progress: Progress | None = None) -> Table:
    """Multi-choice Shapley values (Peters & Zank 2005; Grabisch & Lange 2007) without sampling.

    Levels below the base are averaged like those above it, over coalitions of groups at the top in a crowd at the
    base. Takes ``2**N + N * 2**(N-1) * (L-2)`` evaluations whatever the stop.

    Raises:
        HwsmpqError: that is more than ``MAX_EVALUATIONS``.
    """
    n, seen = game.n_players, options(game)
    top = seen[-1]
    n_evaluations = 2**n + n * 2 ** (n - 1) * (len(seen) - 1)
    if n_evaluations > MAX_EVALUATIONS:
        raise HwsmpqError(
            f"cannot enumerate {n} groups at {game.n_levels} precisions",
            f"it takes {n_evaluations} evaluations, and at most {MAX_EVALUATIONS} are allowed",
            "estimate the contributions from antithetic permutations instead",
        )
    coalitions = np.arange(2**n)
    members = (coalitions[:, None] >> np.arange(n)) & 1
    assignments: NDArray[np.int64] = np.where(members == 1, top, game.base)
    coalition_values = values(game, assignments)
    weight = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])

    phi = np.zeros((n, game.n_levels))
    for group in range(n):
        without = coalitions[members[:, group] == 0]
        weights = weight[members[without].sum(axis=1)]
        background = coalition_values[without]
        for level in seen[:-1]:
            rows = assignments[without]
            rows[:, group] = level
            phi[group, level] = weights @ (values(game, rows) - background)
        phi[group, top] = weights @ (coalition_values[without | (1 << group)] - background)
        if progress is not None:
            progress(group + 1, n)
    return unsampled("exact", phi, (float(coalition_values[0]), float(coalition_values[-1])), n_evaluations)
