"""Small games with known properties, and a contribution oracle that shares no code with the package."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np


class TableGame:
    """A game whose value is a function of one row of levels."""

    def __init__(
        self, n_players: int, n_levels: int, value: Callable[[tuple[int, ...]], float], base: int = 0
    ) -> None:
        self.n_players, self.n_levels, self.value, self.base = n_players, n_levels, value, base
        self.requests: list[tuple[int, ...]] = []
        self.n_calls = 0

    def __call__(self, levels):
        rows = [tuple(int(level) for level in row) for row in levels]
        self.requests += rows
        self.n_calls += 1
        return np.array([self.value(row) for row in rows])


def random_game(n_players: int, n_levels: int, seed: int = 0, base: int = 0) -> TableGame:
    """Independent random values: interactions of every order."""
    table = np.random.default_rng(seed).normal(size=(n_levels,) * n_players)
    return TableGame(n_players, n_levels, lambda row: float(table[row]), base)


def additive_game(n_players: int, n_levels: int, seed: int = 0, base: int = 0) -> tuple[TableGame, np.ndarray]:
    """A sum of one term per player, and those terms relative to the base."""
    terms = np.random.default_rng(seed).normal(size=(n_players, n_levels))

    def value(row: tuple[int, ...]) -> float:
        return float(sum(terms[g, level] for g, level in enumerate(row)))

    return TableGame(n_players, n_levels, value, base), terms - terms[:, [base]]


def pairwise_game(n_players: int, seed: int = 0) -> TableGame:
    """Two levels, with a term per player and per pair of players."""
    matrix = np.random.default_rng(seed).normal(size=(n_players, n_players))
    return TableGame(n_players, 2, lambda row: float(np.array(row) @ matrix @ np.array(row)))


def all_orders(game: TableGame) -> np.ndarray:
    """Contributions by averaging marginal values over every order of the players."""
    n, top = game.n_players, game.n_levels - 1
    phi, n_orders = np.zeros((n, game.n_levels)), 0
    for order in permutations(range(n)):
        n_orders += 1
        state = [game.base] * n
        for player in order:
            background = game.value(tuple(state))
            for level in range(top + 1):
                state[player] = level
                phi[player, level] += game.value(tuple(state)) - background
    return phi / n_orders
