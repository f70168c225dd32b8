from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

from .problems import brute_force, random_problem, total


def check(problem: Problem) -> bool:
    """Compare with brute force; True where a solution exists."""
    ranked = brute_force(problem)
    if not ranked:
        with pytest.raises(HwsmpqError, match="no assignment"):
            solve(problem)
        return False
    solution = solve(problem)
    assert tuple(solution.choice) == ranked[0][1]
    assert solution.objective == pytest.approx(ranked[0][0], rel=1e-12)
    assert solution.status == "optimal" and 0 <= solution.gap <= 1e-8
    assert solution.costs == pytest.approx({kind: total(c, solution.choice) for kind, c in problem.costs.items()})
    return True


def test_best_value_equals_brute_force():
    outcomes = [check(random_problem(seed)) for seed in range(30)]
    assert sum(outcomes) > 20


@pytest.mark.parametrize("kind", ["latency_ms", "bitops"])
def test_least_cost_equals_brute_force(kind):
    assert all([check(random_problem(seed, minimise=kind)) for seed in range(10)])


def test_tight_budgets_equal_brute_force():
    outcomes = [check(random_problem(seed, tightness=0.04)) for seed in range(30)]
    assert 3 < sum(outcomes) < 27


def test_no_limits_at_all():
    check(replace(random_problem(0), limits={}))


def test_limit_equal_to_the_cost_of_a_choice_admits_it():
    for seed in range(10):
        problem = random_problem(seed)
        best = solve(problem)
        tight = replace(problem, limits={kind: best.costs[kind] for kind in problem.limits})
        assert tuple(solve(tight).choice) == tuple(best.choice)


def test_limit_just_below_the_cost_of_a_choice_excludes_it():
    for seed in range(10):
        problem = random_problem(seed)
        best = solve(problem)
        limits = dict(problem.limits, bitops=best.costs["bitops"] * (1 - 1e-7))
        assert tuple(solve(replace(problem, limits=limits)).choice) != tuple(best.choice)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_unit_of_the_tables_does_not_matter(scale):
    problem = random_problem(3)
    expected = solve(problem)

    def scaled(cost: Cost) -> Cost:
        pairs = tuple((i, j, scale * table) for i, j, table in cost.pairs)
        return Cost(scale * cost.unary, pairs, scale * cost.constant)

    other = Problem(
        scaled(problem.value),
        {kind: scaled(cost) for kind, cost in problem.costs.items()},
        {kind: scale * limit for kind, limit in problem.limits.items()},
    )
    assert tuple(solve(other).choice) == tuple(expected.choice)


def test_tiny_difference_on_a_large_constant_decides():
    unary = np.array([[0.0, 1e-7], [1e-7, 0.0]])
    problem = Problem(Cost(unary, constant=1.0), {"latency_ms": Cost(np.ones((2, 2)))}, {"latency_ms": 2.0})
    assert solve(problem).choice.tolist() == [1, 0]


def test_repeated_and_reversed_pairs_add_up():
    table = np.array([[0.0, 5.0], [0.0, 0.0]])
    value = Cost(np.zeros((2, 2)), ((0, 1, table), (1, 0, table), (1, 0, 2 * table)))
    solution = solve(Problem(value, {}, {}))
    assert solution.choice.tolist() == [1, 0]
    assert solution.objective == 15


def test_pair_of_a_group_with_itself_is_its_diagonal():
    table = np.array([[0.0, 9.0], [9.0, 1.0]])
    solution = solve(Problem(Cost(np.zeros((1, 2)), ((0, 0, table),)), {}, {}))
    assert solution.choice.tolist() == [1] and solution.objective == 1


def test_excluded_choices_are_not_returned():
    problem = random_problem(1)
    ranked = brute_force(problem)
    excluded = [np.array(choice) for _, choice in ranked[:3]]
    assert tuple(solve(problem, exclude=excluded).choice) == ranked[3][1]


def test_excluding_all_says_so_and_does_not_blame_a_budget():
    problem = Problem(Cost(np.zeros((1, 2))), {"latency_ms": Cost(np.array([[1.0, 2.0]]))}, {"latency_ms": 1.5})
    with pytest.raises(HwsmpqError, match="besides the 1 excluded"):
        solve(problem, exclude=[np.array([0])])


def test_same_choice_every_time_among_equals():
    problem = Problem(Cost(np.zeros((6, 3))), {"size_mb": Cost(np.ones((6, 3)))}, {"size_mb": 6.0})
    assert len({tuple(solve(problem).choice) for _ in range(3)}) == 1


def test_limit_without_a_cost_is_refused():
    with pytest.raises(HwsmpqError, match="no latency_ms cost"):
        Problem(Cost(np.zeros((1, 2))), {}, {"latency_ms": 1.0})
    with pytest.raises(HwsmpqError, match="no latency_ms cost"):
        Problem(Cost(np.zeros((1, 2))), {}, {}, minimise="latency_ms")


def test_tables_that_are_not_finite_or_do_not_fit_are_refused():
    with pytest.raises(HwsmpqError, match="the value table"):
        Problem(Cost(np.array([[0.0, np.nan]])), {}, {})
    with pytest.raises(HwsmpqError, match="the size_mb table"):
        pair = (0, 1, np.array([[np.inf, 0.0], [0.0, 0.0]]))
        Problem(Cost(np.zeros((2, 2))), {"size_mb": Cost(np.zeros((2, 2)), (pair,))}, {})
    with pytest.raises(ValueError, match="size_mb"):
        Problem(Cost(np.zeros((2, 2))), {"size_mb": Cost(np.zeros((2, 3)))}, {})


def test_solver_prints_nothing(capfd):
    """Seed 1 makes HiGHS 1.12 print a debugging line."""
    rng = np.random.default_rng(1)
    value, latency, bitops = (np.cumsum(rng.exponential(size=(101, 6)), axis=1) for _ in range(3))
    limits = {"latency_ms": 0.6 * latency[:, -1].sum(), "bitops": 0.6 * bitops[:, -1].sum()}
    solve(Problem(Cost(value), {"latency_ms": Cost(latency), "bitops": Cost(bitops)}, limits))
    print("still printing")
    assert capfd.readouterr().out == "still printing\n"
