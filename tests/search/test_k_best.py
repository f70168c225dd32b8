from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.search.k_best import k_best
from hwsmpq.search.optimum import NothingInTime, optimum
from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

from .problems import brute_force, random_problem


@pytest.mark.parametrize("minimise", [None, "latency_ms"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_head_of_brute_force(seed, minimise):
    problem = random_problem(seed, minimise)
    ranked = brute_force(problem)[:7]
    found = k_best(problem, 7)
    assert [tuple(s.choice) for s in found] == [choice for _, choice in ranked]
    assert [s.objective for s in found] == pytest.approx([objective for objective, _ in ranked])


def test_fewer_where_no_more_exist():
    cost = Cost(np.array([[1.0, 2.0], [1.0, 2.0]]))
    found = k_best(Problem(cost, {"size_mb": cost}, {"size_mb": 3.0}), 10)
    assert {tuple(s.choice) for s in found} == {(0, 0), (0, 1), (1, 0)}
    assert [s.objective for s in found] == [3, 3, 2]


def test_skips_excluded_choices():
    problem = random_problem(2)
    ranked = [choice for _, choice in brute_force(problem)]
    found = k_best(problem, 3, exclude=[np.array(ranked[0]), np.array(ranked[2])])
    assert [tuple(s.choice) for s in found] == [ranked[1], ranked[3], ranked[4]]


def test_what_was_measured_to_miss_is_not_chosen_again():
    problem = random_problem(2)
    ranked = [choice for _, choice in brute_force(problem)]
    missed = replace(problem, missed=frozenset(ranked[:2]))
    assert [tuple(s.choice) for s in k_best(missed, 2)] == ranked[2:4]
    assert not missed.keeps_limits(np.array(ranked[0])) and missed.keeps_limits(np.array(ranked[2]))
    with pytest.raises(InfeasibleError, match="measured"):
        k_best(replace(problem, missed=frozenset(ranked)), 1)


def test_infeasible_raises_the_diagnosis():
    cost = Cost(np.array([[1.0, 2.0]]))
    with pytest.raises(HwsmpqError, match="least reachable"):
        k_best(Problem(cost, {"size_mb": cost}, {"size_mb": 0.5}), 3)


def test_time_that_runs_out_keeps_what_was_found(monkeypatch):
    problem, found = random_problem(0), []

    def optimum_that_tires(*args):
        if len(found) == 2:
            raise NothingInTime("the solver found no assignment")
        found.append(optimum(*args))
        return found[-1]

    monkeypatch.setattr(import_module("hwsmpq.search.k_best"), "optimum", optimum_that_tires)
    assert [tuple(s.choice) for s in k_best(problem, 9)] == [choice for _, choice in brute_force(problem)[:3]]


def test_no_time_left_stops_after_the_first():
    assert len(k_best(Problem(Cost(np.zeros((3, 2))), {}, {}), 5, time_limit_s=0.0)) == 1
