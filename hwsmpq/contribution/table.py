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
    ``n_evaluations`` counts requested values, ``n_permutations`` walks. A level that was left out of a draw is
    NaN there, and one that was never measured is so in ``phi``.
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
    return Table(estimator, *mean_and_error(draws), draws, *ends, n_evaluations, n_permutations, drawn)


def over_samples(estimator: str, draws: NDArray[np.float64], ends: NDArray[np.float64], n_evaluations: int) -> Table:
    """The table of what blocks of samples give, (n_blocks, n_players, n_levels); of one block, without errors.

    Args:
        ends: values (n_blocks, 2) of the all-base and of the all-top assignment.
    """
    base_value, top_value = map(float, ends.mean(axis=0))
    if len(draws) < 2:
        return unsampled(estimator, draws[0], (base_value, top_value), n_evaluations)
    return sampled(estimator, "samples", draws, (base_value, top_value), n_evaluations)


def mean_and_error(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (n_players, n_levels) of draws (n_draws, n_players, n_levels), and its standard error; NaN where there are
    none."""
    n = np.isfinite(draws).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(draws, axis=0) / n
        variance = np.nansum((draws - mean) ** 2, axis=0) / (n - 1)
        return mean, np.where(n > 0, np.sqrt(variance / n), np.nan)


def unsampled(estimator: str, phi: NDArray[np.float64], ends: tuple[float, float], n_evaluations: int) -> Table:
    """The table of a method without randomness."""
    return Table(estimator, phi, np.zeros_like(phi), np.zeros((0, *phi.shape)), *ends, n_evaluations, 0, None)
