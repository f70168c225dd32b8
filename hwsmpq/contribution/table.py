"""The result of every estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Table:
    """Contributions of every (group, level), in the unit of the game's value.

    ``phi`` and ``stderr`` are (n_players, n_levels); column 0, the floor, is 0. ``n_evaluations`` counts
    requested values. ``n_permutations`` counts walks, 0 for a full enumeration.
    """

    phi: NDArray[np.float64]
    stderr: NDArray[np.float64]
    floor_value: float
    top_value: float
    n_evaluations: int
    n_permutations: int
