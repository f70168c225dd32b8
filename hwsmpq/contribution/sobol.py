"""Antithetic permutation sampling along a quasi-random sequence of orders."""

from __future__ import annotations

import numpy as np

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table
from hwsmpq.contribution.walk import Orders, sample_walks, with_reverse


def sobol(game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table:
    """Contributions from antithetic pairs whose orders sort the points of a scrambled Sobol sequence.

    Every order by itself is uniform, so that the estimate is unbiased; together they cover positions more evenly than
    independent ones (Mitchell et al. 2022). Standard errors treat the pairs as independent, which they are not: with
    few pairs of few groups they were measured too small, with many too large.

    Raises:
        HwsmpqError: a value is not finite.
    """
    orders = with_reverse(_sobol_orders(game.n_players, seed))
    return sample_walks("antithetic permutations in Sobol order", game, orders, 2, stop, progress)


def _sobol_orders(n_players: int, seed: int) -> Orders:
    from scipy.stats import qmc  # takes half a second, which others need not wait for

    points = qmc.Sobol(n_players, scramble=True, seed=np.random.default_rng(seed))
    while True:
        yield points.random(1).argsort(axis=1, kind="stable")
