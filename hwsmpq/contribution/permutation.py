"""Plain permutation sampling (Castro et al. 2009), the estimator of the SMPQ paper (arXiv 2508.03002)."""

from __future__ import annotations

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table
from hwsmpq.contribution.walk import random_orders, sample_walks


def permutation(game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table:
    """Contributions from independent permutations, one a draw.

    Raises:
        HwsmpqError: a value is not finite.
    """
    return sample_walks("permutations", game, random_orders(game.n_players, seed), 1, stop, progress)
