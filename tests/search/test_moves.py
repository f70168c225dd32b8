"""Neighbours against a list of every choice within two changes."""

from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.search import moves
from hwsmpq.search.moves import neighbours
from hwsmpq.search.problem import Problem

from .problems import brute_force, choices, random_problem, total


def feasible(problem: Problem) -> list[np.ndarray]:
    return [np.array(choice) for _, choice in brute_force(problem)]


@pytest.mark.parametrize("seed", range(6))
def test_every_neighbour_within_the_limits_best_first(seed: int) -> None:
    problem = random_problem(seed)
    start = feasible(problem)[seed]
    expected = {
        tuple(c.tolist()) for c in choices() if 1 <= (c != start).sum() <= 2 and problem.keeps_limits(c)
    }
    found = neighbours(problem, start, 10_000)
    assert {tuple(c.tolist()) for c in found} == expected and len(found) == len(expected) > 0
    values = [total(problem.value, c) for c in found]
    assert values == pytest.approx(sorted(values, reverse=True))
    assert [c.tolist() for c in neighbours(problem, start, 3)] == [c.tolist() for c in found[:3]]


def test_least_cost_is_sought_where_a_cost_is_minimised() -> None:
    problem = random_problem(2, minimise="bitops")
    start = feasible(problem)[-1]
    costs = [total(problem.costs["bitops"], c) for c in neighbours(problem, start, 10_000)]
    assert costs == sorted(costs) and len(costs) > 3


def test_excluded_choices_and_the_choice_itself_are_not_proposed() -> None:
    problem = random_problem(0)
    start = feasible(problem)[0]
    first = neighbours(problem, start, 5)
    again = neighbours(problem, start, 10_000, first)
    kept = {tuple(c.tolist()) for c in again}
    assert kept.isdisjoint(tuple(c.tolist()) for c in [*first, start])
    assert len(again) == len(neighbours(problem, start, 10_000)) - 5


def test_large_problems_combine_gains_with_savings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(1)
    start = feasible(problem)[0]
    best = neighbours(problem, start, 1)[0]
    monkeypatch.setattr(moves, "MAX_CHANGES", 6)
    limited = neighbours(problem, start, 10_000)
    assert 0 < len(limited) < 10_000 and all(problem.keeps_limits(c) for c in limited)
    assert problem.value(limited[0]) <= problem.value(best)
