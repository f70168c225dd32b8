"""Walks along permutations of the groups: what all sampling estimators share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, values
from hwsmpq.contribution.table import Table
from hwsmpq.errors import HwsmpqError

Progress = Callable[[int, int], None]
"""Called after every walk with the number of walks done and their total."""


def permutations(n: int, n_players: int, seed: int) -> NDArray[np.int64]:
    """Random orders (n, n_players); a larger ``n`` only appends, so that a longer run reuses a shorter one.

    Raises:
        HwsmpqError: ``n`` is below two, which leaves no standard error.
    """
    if n < 2:
        raise HwsmpqError(
            f"{n} random order(s) give no standard error", "it is taken over independent samples", "use 2 or more"
        )
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_players) for _ in range(n)])


def walk(game: Game, order: NDArray[np.int64], floor_value: float) -> tuple[NDArray[np.float64], float]:
    """One unbiased sample of the whole table, in ``n_players * (n_levels - 1)`` evaluations.

    Groups rise one after another from floor to top; each is seen at every level, with its predecessors at the
    top and its successors at the floor. Its top level comes last, being the background of the next group.

    Returns:
        The sample (n_players, n_levels) and the value of the all-top assignment.
    """
    n, n_raised = game.n_players, game.n_levels - 1
    levels = np.zeros((n * n_raised, n), dtype=np.int64)
    for position, group in enumerate(order):
        start = position * n_raised
        levels[start : start + n_raised, group] = np.arange(1, n_raised + 1)
        levels[start + n_raised :, group] = n_raised
    found = values(game, levels).reshape(n, n_raised)
    background = np.concatenate([[floor_value], found[:-1, -1]])
    sample = np.zeros((n, n_raised + 1))
    sample[order, 1:] = found - background[:, None]
    return sample, float(found[-1, -1])


def average(game: Game, draws: NDArray[np.int64], progress: Progress | None) -> Table:
    """Average walks over ``draws`` (n_draws, n_walks, n_players).

    The draws are independent of each other and the walks of one draw need not be: standard errors are those
    of the mean over draws.

    Raises:
        HwsmpqError: a value is not finite.
    """
    n_draws, n_walks, n = draws.shape
    floor_value = float(values(game, np.zeros((1, n), dtype=np.int64))[0])
    means = np.zeros((n_draws, n, game.n_levels))
    for index, orders in enumerate(draws):
        for step, order in enumerate(orders):
            sample, top_value = walk(game, order, floor_value)
            means[index] += sample / n_walks
            if progress is not None:
                progress(index * n_walks + step + 1, n_draws * n_walks)
    return Table(
        phi=means.mean(axis=0),
        stderr=means.std(axis=0, ddof=1) / np.sqrt(n_draws),
        floor_value=floor_value,
        top_value=top_value,
        n_evaluations=1 + n_draws * n_walks * n * (game.n_levels - 1),
        n_permutations=n_draws * n_walks,
    )
