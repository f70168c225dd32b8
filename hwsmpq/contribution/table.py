"""The result of every estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsmpq.types import Drawn


@dataclass(frozen=True, eq=False)
class Table:
    """Contributions of every (group, level), in the unit of the game's value.

    ``estimator`` names the method and its options. ``phi`` and ``stderr`` are (n_players, n_levels); the column of the
    base is 0. ``draws`` (n_draws, n_players, n_levels) are the independent samples whose mean is ``phi``; there are
    none, and ``stderr`` is 0, where nothing was sampled. ``drawn`` says what a draw is: standard errors hold the noise
    of that choice and no other. ``floor_value`` is the value with every group at the base.
    ``n_evaluations`` counts requested values, ``n_permutations`` walks.
    """

    estimator: str
    phi: NDArray[np.float64]
    stderr: NDArray[np.float64]
    draws: NDArray[np.float64]
    floor_value: float
    top_value: float
    n_evaluations: int
    n_permutations: int
    drawn: Drawn | None


def sampled(
    estimator: str, drawn: Drawn, draws: NDArray[np.float64], ends: tuple[float, float], n_evaluations: int,
    n_permutations: int = 0,
) -> Table:
    """The table of independent draws (n_draws, n_players, n_levels): their mean, and the standard error of that.

    Args:
        ends: values of the all-base and of the all-top assignment.
    """
    stderr = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    return Table(estimator, draws.mean(axis=0), stderr, draws, *ends, n_evaluations, n_permutations, drawn)


def unsampled(estimator: str, phi: NDArray[np.float64], ends: tuple[float, float], n_evaluations: int) -> Table:
    """The table of a method without randomness."""
    return Table(estimator, phi, np.zeros_like(phi), np.zeros((0, *phi.shape)), *ends, n_evaluations, 0, None)
