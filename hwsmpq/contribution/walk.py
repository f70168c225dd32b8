"""Walks along permutations of the groups: what all sampling estimators over permutations share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, options, values
from hwsmpq.contribution.stop import Progress, Stop, collect
from hwsmpq.contribution.table import Table, sampled

Orders = Iterator[NDArray[np.int64]]
"""Draws without end, each (n_walks, n_players): the orders of its walks."""


def random_orders(n_players: int, seed: int) -> Orders:
    """Independent uniform orders, one walk a draw."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.permutation(n_players)[None]


def with_reverse(orders: Orders) -> Orders:
    """Every order together with its reverse, in one draw."""
    for draw in orders:
        yield np.concatenate([draw, draw[:, ::-1]])


def walk_rows(game: Game, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Assignments (n_players * (n_levels - 1), n_players) of one walk, the last of them all-top.

    Groups rise one after another from the base to the top; each is seen at every other level, with its predecessors at
    the top and its successors at the base. Its top level comes last, being the background of the next group.
    """
    seen = options(game)
    rows = np.full((len(order) * len(seen), len(order)), game.base)
    for position, group in enumerate(order):
        start = position * len(seen)
        rows[start : start + len(seen), group] = seen
        rows[start + len(seen) :, group] = seen[-1]
    return rows


def walk_sample(
    game: Game, order: NDArray[np.int64], found: NDArray[np.float64], base_value: float
) -> NDArray[np.float64]:
    """One unbiased sample of the whole table (n_players, n_levels) from the values of a walk."""
    by_group = found.reshape(len(order), -1)
    background = np.concatenate([[base_value], by_group[:-1, -1]])
    sample = np.zeros((len(order), game.n_levels))
    sample[order[:, None], options(game)] = by_group - background[:, None]
    return sample


def sample_walks(
    name: str, game: Game, orders: Orders, n_walks: int, stop: Stop, progress: Progress | None
) -> Table:
    """Average draws of ``n_walks`` walks each, taking ``2 + n_draws * n_walks * (n_players * (n_levels - 1) - 1)``
    evaluations.

    The draws are independent of each other and the walks of one draw need not be: standard errors are those
    of the mean over draws. The two ends are requested once: all-base before the first walk and all-top at its end.

    Raises:
        HwsmpqError: a value is not finite.
    """
    n_rows = game.n_players * (game.n_levels - 1) - 1
    ends: list[float] = []
    rounds: list[NDArray[np.float64]] = []

    def request(n: int) -> tuple[NDArray[np.float64], int]:
        draws = np.stack(list(islice(orders, n)))
        walks = [walk_rows(game, order) for draw in draws for order in draw]
        rows = np.concatenate([walk[:-1] for walk in walks])
        if not ends:
            base_row, top_row = np.full((1, game.n_players), game.base), walks[0][-1:]
            rows = np.concatenate([base_row, rows[:n_rows], top_row, rows[n_rows:]])
        found = values(game, rows)
        if not ends:
            ends.extend([float(found[0]), float(found[1 + n_rows])])
            found = np.delete(found, [0, 1 + n_rows])
        whole = np.pad(found.reshape(n * n_walks, n_rows), ((0, 0), (0, 1)), constant_values=ends[1])
        samples = [
            walk_sample(game, order, walk, ends[0])
            for order, walk in zip(draws.reshape(-1, game.n_players), whole, strict=True)
        ]
        rounds.append(np.stack(samples).reshape(n, n_walks, game.n_players, game.n_levels).mean(axis=1))
        return np.concatenate(rounds), len(walks) * n_rows

    options(game)
    draws, n_evaluations = collect(stop, 2, n_walks * n_rows, request, progress)
    return sampled(name, "permutations", draws, (ends[0], ends[1]), n_evaluations, n_walks * len(draws))
