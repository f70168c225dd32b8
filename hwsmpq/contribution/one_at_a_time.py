"""One-at-a-time sensitivity: every group alone at every level, all others at the top."""

from __future__ import annotations

import numpy as np

from hwsmpq.contribution.game import Game, options, values
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table, unsampled


def one_at_a_time(game: Game, stop: Stop | None = None, seed: int = 0, progress: Progress | None = None) -> Table:
    """phi[g, b] = value(all top, g at b) - value(all top, g at the base).

    Takes ``n_players * (n_levels - 1) + 2`` evaluations whatever the stop: group by group, and both uniform ends. These
    effects do not add up to the difference of the ends unless the game is additive.

    Raises:
        HwsmpqError: a value is not finite.
    """
    n, below_top = game.n_players, np.sort([game.base, *options(game)[:-1]])
    top = game.n_levels - 1
    rows = np.full((2 + n * len(below_top), n), top)
    rows[0] = game.base
    for group in range(n):
        start = 2 + group * len(below_top)
        rows[start : start + len(below_top), group] = below_top
    found = values(game, rows)
    phi = np.full((n, game.n_levels), found[1])
    phi[:, below_top] = found[2:].reshape(n, -1)
    phi -= phi[:, [game.base]]
    if progress is not None:
        progress(1, 1)
    return unsampled("one-at-a-time", phi, (float(found[0]), float(found[1])), len(rows))
