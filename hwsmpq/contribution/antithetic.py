"""Antithetic permutation sampling: every random order is also walked backwards."""

from __future__ import annotations

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table
from hwsmpq.contribution.walk import random_orders, sample_walks, with_reverse


def antithetic(game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table:
    """Contributions from pairs of a permutation and its reverse (Mitchell et al. 2022), one pair a draw.

    In a pair every group meets every other once below and once above it, which cancels pairwise interactions.

    Raises:
        HwsmpqError: a value is not finite.
    """
    orders = with_reverse(random_orders(game.n_players, seed))
    return sample_walks("antithetic permutations", game, orders, 2, stop, progress)
