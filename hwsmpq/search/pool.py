"""The pool: the best solutions of several tables, which larger batches then choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.k_best import k_best
from hwsmpq.search.problem import Problem, Solution, identity
from hwsmpq.types import Cost


@dataclass(frozen=True, eq=False)
class Proposal:
    """A solution and the names of the tables that proposed it."""

    solution: Solution
    sources: tuple[str, ...]


def pool(
    problem: Problem, values: Mapping[str, Cost], k: int, known: Sequence[tuple[str, Solution]] = ()
) -> list[Proposal]:
    """Distinct proposals: the ``k`` best solutions under every table, the uniform choices that keep the limits, and
    ``known`` ones, by what proposed them.

    Args:
        problem: the budgets; its own value is not used.
        values: the tables by name; each takes the place of ``problem.value``.

    Raises:
        InfeasibleError: no choice keeps the limits.
    """
    found: list[tuple[str, Solution]] = []
    for name, value in values.items():
        found += [(name, solution) for solution in k_best(replace(problem, value=value), k)]
    uniform = uniform_choices(problem)
    found += [("uniform", unsolved(problem, choice)) for choice in uniform if problem.keeps_limits(choice)]
    return merge([*found, *known])


def uniform_choices(problem: Problem) -> list[NDArray[np.int64]]:
    """One level everywhere, or the nearest that a group may take, for every level."""
    return [problem.permitted.nearest(level) for level in range(problem.choices.shape[1])]


def merge(found: Sequence[tuple[str, Solution]]) -> list[Proposal]:
    """One proposal for every distinct choice, in order of first appearance."""
    merged: dict[tuple[int, ...], Proposal] = {}
    for name, solution in found:
        key = identity(solution.choice)
        known = merged.get(key)
        sources = dict.fromkeys((*known.sources, name) if known else (name,))
        merged[key] = Proposal(known.solution if known else solution, tuple(sources))
    return list(merged.values())


def unsolved(problem: Problem, choice: NDArray[np.int64]) -> Solution:
    """A choice that no solver proved anything about, as a solution."""
    costs = {kind: cost(choice) for kind, cost in problem.costs.items()}
    return Solution(choice, problem.objective(choice), "feasible", 0.0, costs)
