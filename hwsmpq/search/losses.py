"""The cheapest choices at several predicted losses of value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwsmpq.errors import InfeasibleError
from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem, Solution, identity
from hwsmpq.types import Cost
from hwsmpq.types.budget import TOLERANCE

LOSS_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.0)
"""Shares of the whole predicted loss of value, one solution each."""


def cheapest_at_losses(problem: Problem, cheapest: str) -> list[Solution]:
    """The solution of least ``cheapest`` at each of several largest predicted losses of value, loosest first.

    Raises:
        InfeasibleError: no choice keeps the limits at any loss.
    """
    unary, choices = problem.value.unary, problem.choices
    best = np.where(choices, unary, -np.inf).max(1, keepdims=True)
    loss = Cost(np.where(choices, best - unary, 0.0))
    whole = float(loss.unary.max(1).sum())
    costs = {**problem.costs, "value_loss": loss}
    found: dict[tuple[int, ...], Solution] = {}
    for share in LOSS_SHARES:
        # A group whose top precision measured as harmful makes "no loss" unreachable by rounding only.
        limits = {**problem.limits, "value_loss": (share + TOLERANCE) * whole}
        try:
            solution = solve(replace(problem, costs=costs, limits=limits, minimise=cheapest))
        except InfeasibleError:
            if not found:
                raise
            break
        found.setdefault(identity(solution.choice), solution)
    return list(found.values())
