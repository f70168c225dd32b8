"""When sampling ends, and the rounds that it proceeds in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.table import mean_and_error
from hwsmpq.errors import HwsmpqError

MIN_DRAWS = 2
"""One draw leaves no standard error."""
DRAWS_PER_ROUND = 2
"""Draws between two looks at a criterion that depends on what was found."""


class Aim(Protocol):
    """The best plan, which contributions are estimated for."""

    def plans(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """The best plans (n, n_players) for contributions as other draws than (n_draws, n_players, n_levels) may give
        them."""
        ...

    def may_contain(self, draws: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The levels (n_players, n_levels) that the best plan may contain."""
        ...


@dataclass(frozen=True)
class Stop:
    """Sampling ends at the first criterion that is reached, and never before two draws.

    Args:
        n_draws: independent draws of the whole table.
        n_evaluations: requested values; not exceeded, except by the least two draws.
        seconds: wall-clock time.
        error: root-mean-square standard error over root-mean-square contribution.
        stable: says of draws (n_draws, n_players, n_levels) whether they suffice; give a ceiling beside it.
        aim: what they are for, which ends nothing by itself.

    Raises:
        HwsmpqError: no criterion, or one that is out of range.
    """

    n_draws: int | None = None
    n_evaluations: int | None = None
    seconds: float | None = None
    error: float | None = None
    stable: Callable[[NDArray[np.float64]], bool] | None = None
    aim: Aim | None = None

    def __post_init__(self) -> None:
        numbers = {"n_evaluations": self.n_evaluations, "seconds": self.seconds, "error": self.error}
        if self.n_draws is None and self.stable is None and all(number is None for number in numbers.values()):
            raise HwsmpqError("nothing ends the sampling", "no criterion was given", "give a number of draws")
        if self.n_draws is not None and self.n_draws < MIN_DRAWS:
            raise HwsmpqError(
                f"{self.n_draws} draw(s) give no standard error", "it is taken over independent draws",
                f"use {MIN_DRAWS} or more",
            )
        for name, number in numbers.items():
            if number is not None and not number > 0:
                raise HwsmpqError(f"{name} is {number}", "sampling could never end there", "give a positive number")

    @property
    def adaptive(self) -> bool:
        """Whether the number of draws depends on what is found, so that they cannot all be requested at once."""
        return self.seconds is not None or self.error is not None or self.stable is not None

    def reached(self, draws: NDArray[np.float64], elapsed_s: float) -> bool:
        """Whether a criterion that depends on what was found is met."""
        if self.seconds is not None and elapsed_s >= self.seconds:
            return True
        if self.error is not None and relative_error(draws) <= self.error:
            return True
        return self.stable is not None and self.stable(draws)

    def n_next(self, n_done: int, n_requested: int, n_per_draw: int) -> int:
        """Draws to request next, by the counts alone; 0 where they end the sampling.

        Args:
            n_requested: values requested so far, beside the draws too.
            n_per_draw: the most values that one draw requests.
        """
        limits = []
        if self.n_draws is not None:
            limits.append(self.n_draws - n_done)
        if self.n_evaluations is not None:
            # Both ends of the ladder tell all about a single group: its draws request nothing more.
            limits.append((self.n_evaluations - n_requested) // max(1, n_per_draw))
        if self.adaptive:
            limits.append(DRAWS_PER_ROUND)
        return max(min(limits), MIN_DRAWS - n_done, 0)


def relative_error(draws: NDArray[np.float64]) -> float:
    """Root-mean-square standard error over root-mean-square contribution; 0 where no draw differs."""
    mean, error = mean_and_error(draws)
    squared_error, squared_phi = float(np.nanmean(error**2)), float(np.nanmean(mean**2))
    if squared_error == 0:
        return 0.0
    return sqrt(squared_error / squared_phi) if squared_phi > 0 else inf


Progress = Callable[[int, int | None], None]
"""Called after every round with the draws done, and their total where it is known in advance."""


def collect(
    stop: Stop, n_fixed: int, n_per_draw: int,
    request: Callable[[int], tuple[NDArray[np.float64], int]], progress: Progress | None,
) -> tuple[NDArray[np.float64], int]:
    """Request draws round by round until the stop is reached.

    Args:
        n_fixed: values requested beside the draws.
        n_per_draw: the most values that one draw requests.
        request: makes the given number of further draws; returns all draws so far, (n_draws, n_players, n_levels), and
            the number of values that the further ones requested. None of these end the sampling.

    Returns:
        All draws, and the number of requested values.
    """
    started = time.monotonic()
    draws, n_requested, n_new = np.zeros((0, 0, 0)), n_fixed, 1
    while n_new and (n := stop.n_next(len(draws), n_requested, n_per_draw)):
        draws, n_new = request(n)
        n_requested += n_new
        if progress is not None:
            progress(len(draws), stop.n_draws)
        if stop.adaptive and len(draws) >= MIN_DRAWS and stop.reached(draws, time.monotonic() - started):
            break
    return draws, n_requested
