"""The game that estimators play, and the one place where they ask it for values."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError


class Game(Protocol):
    """A multi-choice cooperative game: groups are players, precisions are levels.

    Level 0 is the floor of the ladder and level ``n_levels - 1`` its top.
    """

    @property
    def n_players(self) -> int: ...

    @property
    def n_levels(self) -> int: ...

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values (n_assignments,) of assignments (n_assignments, n_players).

        Requests arrive a whole walk at a time, neighbours differing little, so that an
        implementation may reuse what consecutive rows share.
        """
        ...


def values(game: Game, levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values (n_assignments,) of the requested rows.

    Raises:
        HwsmpqError: a value is not finite (one would spoil every contribution it enters).
    """
    found = np.asarray(game(levels), dtype=np.float64)
    if found.shape != (len(levels),):
        raise ValueError(f"the game returned shape {found.shape} for {len(levels)} assignments")
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise HwsmpqError(
            f"the value of an assignment is {found[bad[0]]}",
            f"the network gives no finite score at levels {levels[bad[0]].tolist()}",
            "raise the floor of the ladder, or use a bounded value such as accuracy",
        )
    return found
