from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem
from hwsmpq.types import Budget, Cost

from .problems import brute_force, choices, random_problem, total

VALUE = Cost(np.array([[0.0, 1.0], [0.0, 1.0]]))
FAST_IS_BIG = {
    "latency_ms": Cost(np.array([[1.0, 4.0], [1.0, 4.0]]), constant=0.5),
    "size_mb": Cost(np.array([[9.0, 2.0], [9.0, 2.0]])),
}


def diagnosis(problem: Problem) -> HwsmpqError:
    with pytest.raises(HwsmpqError) as caught:
        solve(problem)
    return caught.value


def test_budget_that_nothing_reaches():
    error = diagnosis(Problem(VALUE, FAST_IS_BIG, {"latency_ms": 2.0, "size_mb": 30.0}))
    assert error.what == "no assignment reaches latency_ms <= 2"
    assert "least reachable latency_ms 2.5;" in error.fix
    assert "size_mb" not in str(error)


@pytest.mark.parametrize(("budget", "asked", "reached"), [
    (Budget("latency_ms", 2.0, speedup=3.0), "--speedup 3", "--speedup 2.4"),
    (Budget("latency_ms", 2.0, throughput=500.0), "--throughput 500", "--throughput 400"),
])
def test_latency_is_named_as_it_was_asked_for_too(budget, asked, reached):
    error = diagnosis(Problem(VALUE, FAST_IS_BIG, {"latency_ms": 2.0}, budgets={"latency_ms": budget}))
    assert error.what == f"no assignment reaches latency_ms <= 2 ({asked})"
    assert f"least reachable latency_ms 2.5 ({reached});" in error.fix


def test_two_budgets_that_nothing_reaches():
    error = diagnosis(Problem(VALUE, FAST_IS_BIG, {"latency_ms": 2.0, "size_mb": 3.0}))
    assert error.what == "no assignment reaches latency_ms <= 2 and size_mb <= 3"
    assert "least reachable latency_ms 2.5, size_mb 4;" in error.fix


def test_budgets_that_contradict_each_other():
    problem = Problem(VALUE, FAST_IS_BIG, {"latency_ms": 3.0, "size_mb": 12.0})
    error = diagnosis(problem)
    assert error.what == "no assignment keeps latency_ms <= 3 and size_mb <= 12 together"
    assert "(latency_ms 2.5, size_mb 4)" in error.why
    assert error.fix.endswith("least reachable latency_ms 5.5 or size_mb 18")


def test_what_was_measured_to_miss_a_budget_is_no_part_of_the_diagnosis():
    missed = frozenset({(0, 0), (0, 1), (1, 0), (1, 1)})
    error = diagnosis(Problem(VALUE, FAST_IS_BIG, {"latency_ms": 3.0, "size_mb": 12.0}, missed=missed))
    assert error.fix.endswith("least reachable latency_ms 5.5 or size_mb 18")


def test_budget_that_takes_no_part_in_the_contradiction_is_not_named():
    costs = {**FAST_IS_BIG, "bitops": Cost(np.array([[1e9, 2e9], [1e9, 2e9]]))}
    error = diagnosis(Problem(VALUE, costs, {"latency_ms": 3.0, "size_mb": 12.0, "bitops": 9e9}))
    assert "latency_ms" in error.what and "size_mb" in error.what and "bitops" not in str(error)


def test_two_separate_contradictions():
    def only(group: int, low: float, high: float) -> Cost:
        unary = np.zeros((2, 2))
        unary[group] = low, high
        return Cost(unary)

    costs = {"a": only(0, 0, 1), "b": only(0, 1, 0), "c": only(1, 0, 1), "d": only(1, 1, 0)}
    error = diagnosis(Problem(VALUE, costs, dict.fromkeys(costs, 0.5)))
    assert "dropping any single one does not help" in error.why
    assert "least reachable alone a 0, b 0, c 0, d 0" in error.fix


def test_following_the_advice_makes_it_feasible_and_less_does_not():
    """The advised limit is reachable, and the brute-force least value is at most its rounding below it."""
    n_advised = 0
    for seed in range(25):
        problem = random_problem(seed, tightness=0.05)
        if brute_force(problem):
            continue
        advised = re.findall(r"(\w+) (-?[\d.e+-]+)", diagnosis(problem).fix.split("least reachable ")[1])
        for kind, text in advised:
            others = {k: v for k, v in problem.limits.items() if k != kind}
            solve(replace(problem, limits={**others, kind: float(text)}))
            least = min(
                total(problem.costs[kind], choice)
                for choice in choices()
                if all(total(problem.costs[k], choice) <= v for k, v in others.items())
            )
            assert least <= float(text) <= least + 1.1e-3 * abs(least)
            n_advised += 1
    assert n_advised > 10


def test_minimise_mode_names_the_limits_only():
    error = diagnosis(Problem(VALUE, FAST_IS_BIG, {"size_mb": 3.0}, minimise="latency_ms"))
    assert error.what == "no assignment reaches size_mb <= 3"
    assert "latency_ms" not in str(error)
