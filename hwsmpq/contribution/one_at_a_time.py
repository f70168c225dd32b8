"""One-at-a-time sensitivity: every group alone at every level, all others at the top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwsmpq.contribution.game import Game, options, values
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table, unsampled


def one_at_a_time(game: Game, stop: Stop | None = None, seed: int = 0, progress: Progress | None = None) -> Table:
    """phi[g, b] = value(all top, g at b) - value(all top, g at the base).

    Takes ``n_players * (n_levels - 1) + 2`` evaluations whatever the stop: both uniform ends, then group by group.
    These effects do not add up to the difference of the ends unless the game is additive.

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
    n, levels = game.n_players, np.sort([game.base, *options(game)])
    ends = [game.base, int(levels[-1])]
    rows = [np.repeat(np.array(ends)[:, None], n, axis=1)]
    for crowd in crowds:
        block = np.full((n, len(levels) - 1, n), crowd)
        block[np.arange(n), :, np.arange(n)] = levels[levels != crowd]
        rows.append(block.reshape(-1, n))
    found = values(game, np.vstack(rows))
    phi = np.zeros((n, game.n_levels))
    for crowd, part in zip(crowds, np.split(found[2:], len(crowds)), strict=True):
        reached = np.full((n, game.n_levels), found[ends.index(crowd)])
        reached[:, levels != crowd] = part.reshape(n, -1)
        phi += (reached - reached[:, [game.base]]) / len(crowds)
    if progress is not None:
        progress(1, 1)
    return unsampled(name, phi, (float(found[0]), float(found[1])), len(found))
