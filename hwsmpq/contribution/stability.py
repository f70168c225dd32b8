"""How much of a plan hangs on the sampling of the contributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Stability:
    """``choice`` (n_players,) from the mean of the draws; ``share`` of the resamples that choose the same;
    ``certainty`` (n_players,) share that choose the same for a group.
    """

    choice: NDArray[np.int64]
    share: float
    certainty: NDArray[np.float64]


def bootstrap(
    draws: NDArray[np.float64],
    solve: Callable[[NDArray[np.float64]], NDArray[np.int64]],
    n_resamples: int,
    seed: int,
) -> Stability:
    """Choose again from draws resampled with replacement (Efron 1979).

    Args:
        draws: independent samples (n_draws, n_players, n_levels) of the contributions.
        solve: the choice (n_players,) of levels for contributions (n_players, n_levels).
    """
    choice = solve(draws.mean(axis=0))
    rng = np.random.default_rng(seed)
    resamples = (draws[rng.integers(len(draws), size=len(draws))] for _ in range(n_resamples))
    agrees = np.array([solve(resample.mean(axis=0)) == choice for resample in resamples])
    return Stability(choice, float(agrees.all(axis=1).mean()), agrees.mean(axis=0))
