"""How much of a plan hangs on the sampling of the contributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.table import mean_and_error

POOLED_DRAWS = 4
"""Draws that what all groups together show of the spread counts for, beside those of one group."""
TINY = 1e-300


def stability(
    draws: NDArray[np.float64],
    solve: Callable[[NDArray[np.float64]], NDArray[np.int64]],
    n_repetitions: int,
    seed: int,
) -> tuple[float, NDArray[np.float64]]:
    """How often as many fresh draws would give the same choice: in all of it, and by group (n_players,).

    Args:
        draws: independent samples (n_draws, n_players, n_levels) of the contributions, two or more.
        solve: the choice (n_players,) of levels for contributions (n_players, n_levels).
        n_repetitions: fresh contributions that are simulated.
    """
    choice = solve(mean_and_error(draws)[0])
    same = np.array([solve(phi) == choice for phi in repetitions(draws, n_repetitions, seed)])
    return float(same.all(axis=1).mean()), same.mean(axis=0)


def repetitions(draws: NDArray[np.float64], n: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Contributions (n_players, n_levels) as fresh draws may give them.

    Two means differ by twice the variance of one. Resampling a few draws does not know that (two of them are their own
    mean half of the time), and they hardly say how much one group spreads: so its variance is shrunk towards what all
    groups show, in proportion to their squared contributions, and followed with Student's t (Smyth 2004). Levels of a
    group move together as they do over all groups.
    """
    rng, (mean, error) = np.random.default_rng(seed), mean_and_error(draws)
    n_draws = np.isfinite(draws).sum(axis=0).max(axis=1, keepdims=True)  # (n_players, 1)
    n_degrees, variance = n_draws - 1, np.nan_to_num(n_draws * error**2)
    size = np.nanmean(draws**2, axis=(0, 2))[:, None]
    pooled = size * variance.sum(axis=0) / max(float(size.sum()), TINY)
    deviation = np.sqrt((n_degrees * variance + POOLED_DRAWS * pooled) / (n_degrees + POOLED_DRAWS))
    directions = np.nan_to_num((draws - mean) / np.maximum(deviation, TINY)).reshape(-1, deviation.shape[1])
    directions /= np.maximum(np.sqrt((directions**2).sum(axis=0)), TINY)
    for _ in range(n):
        student = np.sqrt(rng.chisquare(n_degrees + POOLED_DRAWS, size=(len(size), 1)) / (n_degrees + POOLED_DRAWS))
        normal = rng.normal(size=(len(size), len(directions))) @ directions
        yield mean + np.sqrt(2 / n_draws) * deviation * normal / student
