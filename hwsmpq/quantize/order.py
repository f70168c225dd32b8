"""The order in which a batch of assignments is cheapest to simulate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def order_for_prefixes(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of ``levels`` (n_assignments, n_groups) in an order in which neighbours share long prefixes.

    Columns follow the execution order of the groups, so that what comes before the first difference of two
    neighbours need not run again. The order is that of a dictionary; levels are compared by where they first occur,
    which leaves the rows of a permutation walk, already such an order, as they are.

    Returns:
        Row numbers (n_assignments,): ``levels[order]`` is the batch to run.
    """
    rank = np.empty_like(levels)
    for column in range(levels.shape[1]):
        _, first, index = np.unique(levels[:, column], return_index=True, return_inverse=True)
        rank[:, column] = first[index]
    if not levels.size:
        return np.arange(len(levels))
    return np.lexsort(rank.T[::-1])
