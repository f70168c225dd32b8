"""Pair terms that are due where two groups read and write different formats, recognised in their tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Switch:
    """A cost of two groups that is due unless both choose levels of one format.

    ``formats`` holds (levels of the first group, levels of the second) by format that the second has.
    """

    formats: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    cost: float


def as_switch(table: NDArray[np.float64]) -> Switch | None:
    """The switch that a table (n_levels, n_levels) of pairs is; None where it is none, or costs nothing."""
    cost = float(table.max())
    if cost <= 0 or not np.isin(table, (0.0, cost)).all():
        return None
    free = table == 0
    # Levels of the second group are of one format where the same levels of the first are free beside them.
    by_rows: dict[tuple[int, ...], list[int]] = {}
    for column in range(free.shape[1]):
        by_rows.setdefault(tuple(np.flatnonzero(free[:, column]).tolist()), []).append(column)
    shared = [row for rows in by_rows for row in rows]
    if len(set(shared)) < len(shared):  # a level that is free beside two formats
        return None
    return Switch(tuple((rows, tuple(columns)) for rows, columns in by_rows.items()), cost)
