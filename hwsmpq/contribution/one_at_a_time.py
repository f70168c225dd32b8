"""One-at-a-time sensitivity: every group alone at every level, all others at the top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwsmpq.contribution.blocks import effects
from hwsmpq.contribution.game import Game
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table, over_samples


def one_at_a_time(game: Game, stop: Stop | None = None, seed: int = 0, progress: Progress | None = None) -> Table:
    """phi[g, b] = value(all top, g at b) - value(all top, g at the base).

    Takes ``n_players * (n_levels - 1) + 2`` evaluations whatever the stop: both uniform ends, then group by group.
    These effects do not add up to the difference of the ends unless the game is additive. The base may be the top.

    Raises:
        HwsmpqError: a value is not finite.
    """
    return alone("one-at-a-time", game, [game.n_levels - 1], progress)


def alone(name: str, game: Game, crowds: Sequence[int], progress: Progress | None = None) -> Table:
    """What every group gains over the base alone at every level, mean over the levels that all others are at.

    Args:
        crowds: these levels, of which each is the base or the top.

    Raises:
        HwsmpqError: a value is not finite.
    """
    of_ends, gains, n_evaluations = effects(game, crowds, np.ones((game.n_players, game.n_levels), dtype=bool))
    if progress is not None:
        progress(1, 1)
    return over_samples(name, gains.mean(axis=0), of_ends, n_evaluations)
