"""What is taken where measurements do not tell choices apart: of what is worth the same the fastest, and of what takes
the same time the simplest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.race import Standing, z_score

Z_SURE = 2.0
"""Paired standard errors by which a choice must be worth more to be preferred to a faster one."""


def preferred(
    standings: Sequence[Standing], costs: NDArray[np.float64], resolution: float, complexity: Sequence[tuple[int, ...]],
    cost_first: bool = False,
) -> int:
    """The place of the choice to take.

    Those stay that the first of them is not surely (``Z_SURE``) worth more than; of these, those that cost no more than
    the cheapest by ``resolution``; of these, the first of least ``complexity``.

    Args:
        standings: on the same samples, the one that is compared with first.
        costs: (n,).
        cost_first: whether the cost is what is sought: then the cheapest stay first, and of them what is worth as much.
    """
    places = list(range(len(standings)))
    for by_cost in (cost_first, not cost_first):
        if by_cost:
            most = min(costs[i] for i in places) + resolution
            places = [i for i in places if costs[i] <= most]
        else:
            places = [i for i in places if not surely_worse(standings[i], standings[places[0]])]
    return min(places, key=lambda i: complexity[i])


def surely_worse(one: Standing, than: Standing) -> bool:
    """Whether samples show that one choice is worth less than another."""
    return z_score(one, than) <= -Z_SURE
