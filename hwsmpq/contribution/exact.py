"""Contributions by full enumeration: the oracle of every estimator."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, values
from hwsmpq.contribution.table import Table
from hwsmpq.errors import HwsmpqError

MAX_EVALUATIONS = 2**18


def exact(game: Game) -> Table:
    """Multi-choice Shapley values (Peters & Zank 2005; Grabisch & Lange 2007) without sampling.

    Takes ``2**N + N * 2**(N-1) * (L-2)`` evaluations.

    Raises:
        HwsmpqError: that is more than ``MAX_EVALUATIONS``.
    """
    n, top = game.n_players, game.n_levels - 1
    n_evaluations = 2**n + n * 2 ** (n - 1) * (top - 1)
    if n_evaluations > MAX_EVALUATIONS:
        raise HwsmpqError(
            f"cannot enumerate {n} groups at {top + 1} precisions",
            f"it takes {n_evaluations} evaluations, and at most {MAX_EVALUATIONS} are allowed",
            "estimate the contributions from antithetic permutations instead",
        )
    coalitions = np.arange(2**n)
    members = (coalitions[:, None] >> np.arange(n)) & 1
    assignments: NDArray[np.int64] = members * top
    coalition_values = values(game, assignments)
    weight = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])

    phi = np.zeros((n, top + 1))
    for group in range(n):
        without = coalitions[members[:, group] == 0]
        weights = weight[members[without].sum(axis=1)]
        base = coalition_values[without]
        for level in range(1, top):
            rows = assignments[without]
            rows[:, group] = level
            phi[group, level] = weights @ (values(game, rows) - base)
        phi[group, top] = weights @ (coalition_values[without | (1 << group)] - base)
    return Table(
        phi, np.zeros_like(phi), float(coalition_values[0]), float(coalition_values[-1]), n_evaluations, 0
    )
