"""What contributions are estimated for, the plan within the budgets, and what they say of its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.stability import repetitions, stability
from hwsmpq.contribution.table import mean_and_error
from hwsmpq.pipeline.decide.choices import problem_of
from hwsmpq.pipeline.evaluate.contribute import Purpose, scores, table_of
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.dominated import dominated
from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem
from hwsmpq.types import Contributions, Cost, Stability

N_REPETITIONS = 50
N_PLANS = 12
"""Plans that say which levels are in doubt."""


def purpose(prepared: Prepared, costs: Mapping[str, Cost], limits: Mapping[str, float]) -> Purpose | None:
    """What contributions are for that serve plans within the limits; None where there are none, or nothing hangs on it.

    The draws suffice when the wanted share (``stability``) of as many fresh draws would give the same plan.
    """
    run = prepared.run
    solved = {kind: limit for kind, limit in limits.items() if kind != "max_drop"}
    # The least cost under a largest drop is not the plan of most value.
    grows = run.settings.estimator == "growing" and solved == limits
    if not solved or not (grows or run.settings.stability is not None):
        return None
    plan, least = _Plan(problem_of(prepared, costs, solved), run.settings.seed), run.settings.stability
    suffice = None if least is None else lambda draws: plan.certainty(draws) >= least
    return Purpose(plan, suffice, [least, sorted(solved.items()), run.constraints])


class _Plan:
    """The best plan of a problem, as a function of draws of its value."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem, self._seed = problem, seed

    def plans(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        tables = [mean_and_error(draws)[0], *repetitions(draws, N_PLANS - 1, self._seed)]
        return np.array([solve(valued(self._problem, table)).choice for table in tables])

    def may_contain(self, draws: NDArray[np.float64]) -> NDArray[np.bool_]:
        table, error = mean_and_error(draws)
        return np.asarray(self._problem.choices & ~dominated(valued(self._problem, table), error))

    def certainty(self, draws: NDArray[np.float64]) -> float:
        return repeated(self._problem, draws, self._seed)[0]


def repeated(problem: Problem, draws: NDArray[np.float64], seed: int) -> tuple[float, NDArray[np.float64]]:
    """How often as many fresh draws would give the same plan: in all of it, and by group."""
    return stability(draws, lambda phi: solve(valued(problem, phi)).choice, N_REPETITIONS, seed)


def valued(problem: Problem, table: NDArray[np.float64], constant: float = 0.0) -> Problem:
    """The problem with a table (n_groups, n_levels) for its value, and without the levels that are NaN in it."""
    measured = np.isfinite(table)
    allowed = replace(problem.permitted, offered=problem.permitted.offered & measured)
    # No choice holds the others, whatever stands there.
    unary = np.where(measured, table, np.nanmin(table, axis=1, keepdims=True))
    return replace(problem, value=Cost(unary, constant=constant), allowed=allowed)


def stability_of(prepared: Prepared, problem: Problem, contributions: Contributions) -> Stability | None:
    """How often as many fresh draws would give the same additive plan; None where nothing was drawn."""
    draws = np.array(contributions.draws, dtype=np.float64)  # None becomes NaN
    if len(draws) < 2:
        return None
    share, by_group = repeated(problem, draws, contributions.seed)
    certainty = dict(zip(prepared.network.group_names, map(float, by_group), strict=True))
    return Stability(share, certainty, N_REPETITIONS, contributions.drawn)


def value_tables(prepared: Prepared, contributions: Contributions) -> dict[str, Cost]:
    """What the solver may take for the value, by the name of the method: the contributions first, then the cheap
    scores. Problems that they are given leave out what no contribution was measured of (see :func:`valued`)."""
    tables = (contributions, *scores(prepared.run, contributions).tables)
    return {
        one.estimator: Cost(np.nan_to_num(table_of(prepared, one)), constant=one.floor_value) for one in tables
    }
