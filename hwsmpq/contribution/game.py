"""The game that estimators play, and the one place where they ask it for values."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError


class Game(Protocol):
    """A multi-choice cooperative game: groups are players, precisions are levels.

    Level 0 is the floor of the ladder and level ``n_levels - 1`` its top. Groups rest at ``base``: the floor, or the
    lowest level that leaves the network alive, which may be the top. Levels below it are options of single groups.
    """

    @property
    def n_players(self) -> int: ...

    @property
    def n_levels(self) -> int: ...

    @property
    def base(self) -> int: ...

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values (n_assignments,) of assignments (n_assignments, n_players).

        Requests hold many walks at a time, neighbours within a walk differing little, so that an implementation may
        spread walks and reuse what consecutive rows share.
        """
        ...


@runtime_checkable
class Redrawable(Protocol):
    """A game that can be played on other samples."""

    def redraw(self, index: int) -> Game:
        """The same game on the ``index``-th fresh batch."""
        ...


def options(game: Game) -> NDArray[np.int64]:
    """The levels that a group is seen at, in the order of a walk: below the base, above it, the top last.

    Raises:
        HwsmpqError: the base leaves no level above it.
    """
    top = game.n_levels - 1
    if not 0 <= game.base < top:
        raise HwsmpqError(
            f"groups cannot rest at level {game.base} of {game.n_levels}",
            "contributions are measured between a base and the top of the ladder",
            "add a higher precision to the ladder, or choose a lower base",
        )
    levels = np.arange(top + 1)
    return np.asarray(levels[levels != game.base])


def ends(game: Game) -> tuple[float, float]:
    """Values of the all-base and of the all-top assignment, in one request."""
    uniform = np.repeat([[game.base], [game.n_levels - 1]], game.n_players, axis=1)
    base_value, top_value = values(game, uniform)
    return float(base_value), float(top_value)


def values(game: Game, levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values (n_assignments,) of the requested rows.

    Raises:
        HwsmpqError: a value is not finite (one would spoil every contribution it enters).
    """
    found = np.asarray(game(levels), dtype=np.float64)
    if found.shape != (len(levels),):
        raise ValueError(f"the game returned shape {found.shape} for {len(levels)} assignments")
    return finite(found, levels)


def finite(found: NDArray[np.float64], levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """``found`` (n_assignments,), which are values of ``levels``.

    Raises:
        HwsmpqError: a value is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise HwsmpqError(
            f"the value of an assignment is {found[bad[0]]}",
            f"the network gives no finite score at levels {levels[bad[0]].tolist()}",
            "raise the floor of the ladder, or use a bounded value such as accuracy",
        )
    return found
