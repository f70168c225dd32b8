"""Pair terms that are due where a group reads another format than a group wrote, recognised in their tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Formats = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


@dataclass(frozen=True)
class Switch:
    """A cost of two groups that is due unless both choose levels of one format.

    ``formats`` holds (levels of the first group, levels of the second) by format that the first has, and ``costs`` what
    is due where the second has another.
    """

    formats: Formats
    costs: tuple[float, ...]


def as_switch(table: NDArray[np.float64]) -> Switch | None:
    """The switch that a table (n_levels, n_levels) of pairs is; None where it is none, or costs nothing."""
    formats: dict[tuple[int, ...], tuple[list[int], float]] = {}
    for level, row in enumerate(table):
        cost = float(row.max())
        if cost < 0 or not np.isin(row, (0.0, cost)).all():
            return None
        if cost == 0:  # whatever the second group has
            continue
        # Levels of the first group are of one format where the same levels of the second are free beside them.
        rows, known = formats.setdefault(tuple(np.flatnonzero(row == 0).tolist()), ([], cost))
        if known != cost:
            return None
        rows.append(level)
    shared = [column for columns in formats for column in columns]
    if not formats or len(set(shared)) < len(shared):  # a level that is free beside two formats
        return None
    return Switch(
        tuple((tuple(rows), columns) for columns, (rows, _) in formats.items()),
        tuple(cost for _, cost in formats.values()),
    )
