"""Every group alone at every level, once with all others at the base and once with all others at the top."""

from __future__ import annotations

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.one_at_a_time import alone
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table


def both_ends(game: Game, stop: Stop | None = None, seed: int = 0, progress: Progress | None = None) -> Table:
    """phi[g, b] = mean over both crowds of value(crowd, g at b) - value(crowd, g at the base).

    These are the Shapley values of every game in which a group's effect changes by a term for each other group that
    moves to the top (interactions of pairs, but of no more): there the mean over all coalitions is that of the smallest
    and the largest (Grabisch 1997, on 2-additive games). Otherwise they are biased by interactions of three and more,
    and free of sampling noise.

    Takes ``2 * n_players * (n_levels - 1) + 2`` evaluations whatever the stop.

    Raises:
        HwsmpqError: a value is not finite.
    """
    return alone("both ends", game, [game.base, game.n_levels - 1], progress)
