"""Antithetic permutation sampling: every random order is also walked backwards."""

from __future__ import annotations

import numpy as np

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.table import Table
from hwsmpq.contribution.walk import Progress, average, permutations


def antithetic(game: Game, n_pairs: int, seed: int, progress: Progress | None = None) -> Table:
    """Contributions from pairs of a permutation and its reverse (Mitchell et al. 2022); errors over pairs.

    In a pair every group meets every other once below and once above it, which cancels pairwise interactions.

    Raises:
        HwsmpqError: fewer than two pairs, or a value that is not finite.
    """
    orders = permutations(n_pairs, game.n_players, seed)
    return average(game, np.stack([orders, orders[:, ::-1]], axis=1), progress)
