"""Least-squares estimation on sampled coalitions, for ladders of two levels."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, ends, options, values
from hwsmpq.contribution.stop import Progress, Stop, collect
from hwsmpq.contribution.table import Table, sampled, unsampled
from hwsmpq.errors import HwsmpqError

NAME = "paired leverage-weighted regression"


def regression(game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table:
    """Contributions from paired leverage-weighted least squares (Leverage SHAP, Musco & Witter 2024).

    Shapley values solve a weighted least-squares problem over all coalitions, in which the rows of one size share the
    same leverage: sampling by leverage takes every size equally often. A draw holds one complement pair of each pair of
    sizes {s, N-s}, without replacement over all draws, about N evaluations. Efficiency is kept exactly, and
    interactions of two groups cancel. What a ceiling of evaluations leaves goes into a last, smaller draw. Once every
    coalition was drawn the result is exact.

    ``draws`` are the pseudo-values of the delete-one-draw jackknife, moved so that their mean is the estimate. Their
    errors are on the safe side, since the jackknife gives no credit for drawing without replacement.

    Raises:
        HwsmpqError: more than two levels, or a value is not finite.
    """
    options(game)
    if game.n_levels != 2:
        raise HwsmpqError(
            f"the regression cannot take {game.n_levels} levels", "its coalitions know in and out only",
            "use antithetic permutations, or a ladder of two precisions",
        )
    base_value, top_value = ends(game)
    pairs = _Pairs(game.n_players, seed)
    fit = _Fit(game.n_players, top_value - base_value)

    def request_pairs(drawn: list[NDArray[np.int64]]) -> tuple[NDArray[np.float64], int]:
        drawn = [members for members in drawn if len(members)]
        if drawn:
            members = np.concatenate(drawn)
            found = values(game, np.stack([members, 1 - members], axis=1).reshape(-1, game.n_players))
            bounds = np.cumsum([len(members) for members in drawn])[:-1]
            for part, differences in zip(drawn, np.split(found[::2] - found[1::2], bounds), strict=True):
                fit.add(part, differences)
        return fit.pseudo_values(), 2 * sum(map(len, drawn))

    def request(n_draws: int) -> tuple[NDArray[np.float64], int]:
        return request_pairs([pairs.draw() for _ in range(n_draws)])

    n_per_draw = 2 * (game.n_players // 2)
    draws, n_evaluations = collect(stop, 2, n_per_draw, request, progress)
    n_left = 0 if stop.n_evaluations is None or len(draws) == stop.n_draws else stop.n_evaluations - n_evaluations
    if 2 <= n_left < n_per_draw:
        draws, n_new = request_pairs([pairs.draw(n_left // 2)])
        n_evaluations += n_new
    if pairs.exhausted:
        return unsampled(NAME, _two_columns(fit.solve()), (base_value, top_value), n_evaluations)
    return sampled(NAME, "coalitions", draws, (base_value, top_value), n_evaluations)


class _Pairs:
    """Complement pairs of coalitions without replacement, each named by its smaller member."""

    def __init__(self, n_players: int, seed: int) -> None:
        self._n, self._rng = n_players, np.random.default_rng(seed)
        self._seen: dict[int, set[bytes]] = {size: set() for size in range(1, n_players // 2 + 1)}

    def _n_pairs(self, size: int) -> int:
        return comb(self._n, size) // (2 if 2 * size == self._n else 1)

    @property
    def exhausted(self) -> bool:
        return all(len(seen) == self._n_pairs(size) for size, seen in self._seen.items())

    def draw(self, n_pairs: int | None = None) -> NDArray[np.int64]:
        """One new coalition of 0 and 1 of every size that has any left, (n_sizes, n_players), or of the least sizes."""
        left = [size for size, seen in self._seen.items() if len(seen) < self._n_pairs(size)]
        rows = [self._coalition(size) for size in left[:n_pairs]]
        return np.array(rows, dtype=np.int64).reshape(-1, self._n)

    def _coalition(self, size: int) -> NDArray[np.int64]:
        seen = self._seen[size]
        while True:
            members = np.zeros(self._n, dtype=np.int64)
            members[self._rng.permutation(self._n)[:size]] = 1
            if 2 * size == self._n and not members[0]:
                members = 1 - members
            key = np.packbits(members.astype(bool)).tobytes()
            if key not in seen:
                seen.add(key)
                return members


class _Fit:
    """Least squares over pairs: value(S) - value(complement of S) is the sum of phi over S less that over the rest."""

    def __init__(self, n_players: int, total: float) -> None:
        self._n, self._total = n_players, total
        sizes = np.arange(1, n_players // 2 + 1)
        # Kernel weight of all pairs of one size together: the sampled ones share it. Half of the players pair with
        # half of them, so that there is one such size where otherwise there are two.
        self._mass = np.concatenate([[0.0], np.where(2 * sizes == n_players, 1, 2) / (sizes * (n_players - sizes))])
        self._blocks: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]] = []

    def add(self, members: NDArray[np.int64], differences: NDArray[np.float64]) -> None:
        """Keep one draw: coalitions (n_pairs, n_players) and their differences of value (n_pairs,)."""
        signs = 2.0 * members - 1.0
        # What an even split of the total leaves to explain.
        residual = differences - signs.sum(axis=1) * self._total / self._n
        sizes = members.sum(axis=1)
        self._blocks.append((signs - signs.mean(axis=1, keepdims=True), np.minimum(sizes, self._n - sizes), residual))

    def solve(self, without: int | None = None) -> NDArray[np.float64]:
        """phi (n_players,) from all draws but one; the least deviation from an even split where they fix it not."""
        blocks = [block for index, block in enumerate(self._blocks) if index != without]
        if not blocks:
            return np.full(self._n, self._total / self._n)
        signs, sizes, residual = (np.concatenate(part) for part in zip(*blocks, strict=True))
        weight = (self._mass[sizes] / np.bincount(sizes, minlength=len(self._mass))[sizes])[:, None]
        gram = signs.T @ (weight * signs)
        deviation = np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ (signs.T @ (weight[:, 0] * residual))
        return np.asarray(self._total / self._n + deviation)

    def pseudo_values(self) -> NDArray[np.float64]:
        """Draws (n_draws, n_players, 2) whose mean is the solution and whose spread is that of the jackknife."""
        n = len(self._blocks)
        if not n:
            return np.zeros((0, self._n, 2))
        left_out = np.array([self.solve(without=index) for index in range(n)])
        deviation = (n - 1) * (left_out.mean(axis=0) - left_out)
        return _two_columns(self.solve() + deviation)


def _two_columns(phi: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.zeros_like(phi), phi], axis=-1)
