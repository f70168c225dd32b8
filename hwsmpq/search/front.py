"""The choices that no cheaper one beats, told apart on nested batches that grow as candidates shrink."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.race import Measure, Standing, z_score
from hwsmpq.types.budget import TOLERANCE

Z_BEHIND = 3.0
"""Standard errors behind the best that costs no more, at which a choice is dropped. They are more than in a race: this
best is picked from many, and the more there are, the more of its lead is luck."""


def front_of(
    choices: NDArray[np.int64], costs: NDArray[np.float64], measure: Measure, n_batches: int, n_kept: int,
    settled: NDArray[np.bool_],
) -> list[int]:
    """Measure choices batch by batch and give the front: those of higher mean value than all that cost no more.

    A choice goes on to the next batch while it may still belong to the front: unless it is surely behind
    (``Z_BEHIND`` paired standard errors) the best that costs no more, and among the ``n_kept`` least behind.

    Args:
        choices: distinct choices (n, n_groups).
        costs: what each costs (n,).
        measure: gives the values on the samples that a batch adds to the batches before it.
        settled: which are measured on every batch whatever their values (n,).

    Returns:
        Indices of the front on all batches, in order of cost and of value.
    """
    alive = np.arange(len(choices))
    values: list[NDArray[np.floating]] = list(measure(choices, 0))
    for batch in range(1, n_batches):
        lag = behind(costs[alive], _standings(choices, values, alive))
        hopeful = [i for i in np.argsort(lag, kind="stable") if lag[i] < Z_BEHIND][:n_kept]
        alive = np.union1d(alive[hopeful], np.flatnonzero(settled))
        for index, added in zip(alive, measure(choices[alive], batch), strict=True):
            values[index] = np.concatenate([values[index], added])
    front = alive[behind(costs[alive], _standings(choices, values, alive)) < 0]
    return sorted(front.tolist(), key=lambda index: float(values[index].mean()))


def behind(costs: NDArray[np.float64], standings: Sequence[Standing]) -> NDArray[np.float64]:
    """How far each choice lies behind the best of those that cost no more, in paired standard errors, (n,): negative
    where it is better than all of them, and minus infinity where there are none."""
    # Sums in another order differ by rounding.
    ranks = np.round(costs / (TOLERANCE * max(float(np.abs(costs).max()), 1e-300)))
    order = np.lexsort((np.array([-s.mean for s in standings]), ranks))
    found = np.full(len(standings), -np.inf)
    leader = standings[order[0]]
    for index in order[1:]:
        found[index] = z_score(leader, standings[index])
        if standings[index].mean > leader.mean:
            leader = standings[index]
    return found


def _standings(
    choices: NDArray[np.int64], values: Sequence[NDArray[np.floating]], indices: NDArray[np.intp]
) -> list[Standing]:
    return [Standing(choices[i], np.asarray(values[i], dtype=np.float64)) for i in indices]
