"""Permutation sampling with the options of the SMPQ paper (arXiv 2508.03002), none of them on by default."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, Redrawable, ends, options, values
from hwsmpq.contribution.stop import Progress, Stop, collect
from hwsmpq.contribution.table import Table, sampled
from hwsmpq.contribution.walk import random_orders, walk_rows
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import Drawn


@dataclass(frozen=True)
class PaperLike:
    """Plain permutations, one a draw.

    Args:
        tolerance: a walk ends once its value is within this of the top's, and the groups that it did not reach count 0
            (Ghorbani & Zou 2019). This is biased. Walks are requested one group at a time.
        fresh_batch: every permutation plays the game on its own batch, which multiplies the variance.
        minus_deviation: report mean minus standard deviation over permutations; no estimate of the Shapley value.
        momentum: report an exponential moving average over permutations in which a later one counts ``1 / momentum``
            times the one before it (Xiao et al. 2022), in place of their mean; standard errors then are no more than
            an indication.

    Raises:
        HwsmpqError: when called, ``fresh_batch`` on a game that cannot be redrawn, or a value that is not finite.
    """

    tolerance: float | None = None
    fresh_batch: bool = False
    minus_deviation: bool = False
    momentum: float | None = None

    @property
    def name(self) -> str:
        parts = ["permutations"]
        if self.tolerance is not None:
            parts.append(f"truncated within {self.tolerance:g}")
        if self.fresh_batch:
            parts.append("fresh batch each")
        if self.minus_deviation:
            parts.append("mean minus deviation")
        if self.momentum is not None:
            parts.append(f"momentum {self.momentum:g}")
        return ", ".join(parts)

    def __call__(self, game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table:
        if self.fresh_batch and not isinstance(game, Redrawable):
            raise HwsmpqError(
                "this game cannot be played on a fresh batch", "it has no way to redraw its samples",
                "give a game with redraw(index), or turn the fresh batch off",
            )
        orders = random_orders(game.n_players, seed)
        seen_ends = [] if self.fresh_batch else [ends(game)]
        samples: list[NDArray[np.float64]] = []

        def request(n: int) -> tuple[NDArray[np.float64], int]:
            n_values = 0
            for _ in range(n):
                played = game
                if isinstance(game, Redrawable) and self.fresh_batch:
                    played = game.redraw(len(samples))
                    seen_ends.append(ends(played))
                    n_values += 2
                sample, n_walk = self._walk(played, next(orders)[0], seen_ends[-1])
                samples.append(sample)
                n_values += n_walk
            return np.stack(samples), n_values

        n_fixed = 2 * len(seen_ends)
        n_per_draw = game.n_players * (game.n_levels - 1) - 1 + 2 * self.fresh_batch
        draws, n_evaluations = collect(stop, n_fixed, n_per_draw, request, progress)
        if self.minus_deviation:
            draws = draws - draws.std(axis=0, ddof=1)
        if self.momentum is not None:
            weights = self.momentum ** np.arange(len(draws))[::-1]
            draws = draws * (weights / weights.mean())[:, None, None]
        base_value, top_value = np.mean(seen_ends, axis=0)
        ends_found = (float(base_value), float(top_value))
        drawn: Drawn = "permutations and batches" if self.fresh_batch else "permutations"
        return sampled(self.name, drawn, draws, ends_found, n_evaluations, len(draws))

    def _walk(
        self, game: Game, order: NDArray[np.int64], end_values: tuple[float, float]
    ) -> tuple[NDArray[np.float64], int]:
        """One sample of the table and the number of values that it requested."""
        seen, (background, top_value) = options(game), end_values
        rows = walk_rows(game, order).reshape(len(order), len(seen), -1)
        sample = np.zeros((len(order), game.n_levels))
        n_values = 0
        for group, group_rows in zip(order, rows, strict=True):
            if self.tolerance is not None and abs(top_value - background) < self.tolerance:
                break
            last = group == order[-1]
            found = values(game, group_rows[:-1] if last else group_rows)
            n_values += len(found)
            if last:
                found = np.append(found, top_value)
            sample[group, seen] = found - background
            background = float(found[-1])
        return sample, n_values
