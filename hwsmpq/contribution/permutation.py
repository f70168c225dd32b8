"""Plain permutation sampling, the estimator of the SMPQ paper (arXiv 2508.03002)."""

from __future__ import annotations

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.table import Table
from hwsmpq.contribution.walk import Progress, average, permutations


def permutation(game: Game, n_permutations: int, seed: int, progress: Progress | None = None) -> Table:
    """Contributions from independent permutations; standard errors over permutations.

    Raises:
        HwsmpqError: fewer than two permutations, or a value that is not finite.
    """
    return average(game, permutations(n_permutations, game.n_players, seed)[:, None], progress)
