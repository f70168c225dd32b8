"""Which pairs of groups hurt more, or less, together than the sum of both: for people to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsmpq.pipeline.decide.candidates import surrogate
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.problem import Problem
from hwsmpq.types import Contributions, Interactions


def record_interactions(
    prepared: Prepared, problem: Problem, contributions: Contributions, levels: NDArray[np.int64],
    values: NDArray[np.float64],
) -> Interactions:
    """Write the pair terms of the surrogate that enters the race.

    Args:
        problem: its value is the table of the contributions.
        levels: assignments (n, n_groups) that contributions were estimated from.
        values: their values (n,).
    """

    run = prepared.run
    def make() -> Interactions:
        model = surrogate(problem, levels, values)
        low, high = run.ladder.names.index(contributions.start), len(run.ladder.names) - 1
        names = prepared.network.group_names
        pairs = [
            (names[i], names[j], float(table[low, low] - table[low, high] - table[high, low] + table[high, high]))
            for i, j, table in (model.pairs if model else ())
        ]
        return Interactions(
            model_sha256=prepared.network.model_sha256,
            value=contributions.value,
            low=contributions.start,
            high=run.ladder.top,
            n_evaluations=len(values),
            pairs=tuple(sorted(pairs, key=lambda pair: -abs(pair[2]))),
        )

    return run.stage(Interactions, make)
