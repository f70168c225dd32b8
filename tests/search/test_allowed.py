"""What the user leaves of the choices, against a list of all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.errors import InfeasibleError
from hwsmpq.search.allowed import Allowed, Rule
from hwsmpq.search.k_best import k_best
from hwsmpq.search.losses import cheapest_at_losses
from hwsmpq.search.milp import solve
from hwsmpq.search.moves import neighbours
from hwsmpq.search.pool import pool
from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

from .problems import N_GROUPS, N_LEVELS, choices, random_problem, total

SEEDS = range(12)


def held(seed: int, **how: object) -> tuple[Problem, list[tuple[int, ...]]]:
    """A random problem under random rules and a limit of switches, and all choices that these and the budgets leave, by
    definition."""
    rng = np.random.default_rng(1000 + seed)
    problem = random_problem(seed, tightness=0.6, **how)
    rules, tests = [], []
    group, level = int(rng.integers(N_GROUPS)), int(rng.integers(N_LEVELS))
    mask = np.ones((N_GROUPS, N_LEVELS), dtype=bool)
    mask[group] = np.arange(N_LEVELS) == level
    rules.append(Rule("pin", mask))
    tests.append(lambda c: c[group] == level)
    other, least = int(rng.integers(N_GROUPS)), int(rng.integers(1, N_LEVELS))
    if other != group:
        mask = np.ones((N_GROUPS, N_LEVELS), dtype=bool)
        mask[other, :least] = False
        rules.append(Rule("at least", mask))
        tests.append(lambda c: c[other] >= least)
    free = np.ones((N_GROUPS, N_LEVELS), dtype=bool)
    first, second = rng.choice(N_GROUPS, size=2, replace=False)
    sets = [(int(first), int(second))]
    if seed % 3 == 0:  # two sets that share a group are one
        sets.append((int(second), int(rng.choice([i for i in range(N_GROUPS) if i not in sets[0]]))))
    for one in sets:
        rules.append(Rule("together", free, one))
        tests.append(lambda c, one=one: len({c[i] for i in one}) == 1)
    most = float(rng.integers(1, 4))
    table = 1.0 - np.eye(N_LEVELS)
    switches = Cost(np.zeros((N_GROUPS, N_LEVELS)), tuple((i, i + 1, table) for i in range(N_GROUPS - 1)))
    tests.append(lambda c: sum(c[i] != c[i + 1] for i in range(N_GROUPS - 1)) <= most)
    whole = replace(
        problem, costs={**problem.costs, "switches": switches}, limits={**problem.limits, "switches": most},
        allowed=Allowed(free.copy(), tuple(rules)),
    )
    kept = [
        tuple(c.tolist()) for c in choices()
        if all(test(c) for test in tests)
        and all(total(problem.costs[kind], c) <= limit for kind, limit in problem.limits.items())
    ]
    return whole, kept


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_choices_are_those_of_a_brute_force(seed: int) -> None:
    problem, kept = held(seed)
    if not kept:
        with pytest.raises(InfeasibleError):
            solve(problem)
        return
    values = sorted((total(problem.value, np.array(c)) for c in kept), reverse=True)
    found = k_best(problem, 4)
    assert {tuple(s.choice.tolist()) for s in found} <= set(kept)
    assert [s.objective for s in found] == pytest.approx(values[:4]) and len(found) == min(4, len(kept))
    assert {tuple(p.solution.choice.tolist()) for p in pool(problem, {"one": problem.value}, 2)} <= set(kept)


def test_most_of_these_problems_have_a_choice() -> None:
    assert sum(bool(held(seed)[1]) for seed in SEEDS) >= len(SEEDS) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbours_change_one_or_two_sets_and_keep_everything(seed: int) -> None:
    problem, kept = held(seed)
    sets = problem.permitted.sets
    for start in kept[:3]:
        near = {
            c for c in kept if 1 <= sum(any(c[i] != start[i] for i in members) for members in sets) <= 2
        }
        found = neighbours(problem, np.array(start), 10_000)
        assert {tuple(c.tolist()) for c in found} == near and len(found) == len(near)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_missed_or_excluded_is_not_found(seed: int) -> None:
    problem, kept = held(seed)
    if len(kept) < 3:
        return
    best = solve(problem).choice
    second = solve(problem, [best])
    assert tuple(second.choice.tolist()) in kept and not np.array_equal(second.choice, best)
    without = replace(problem, missed=frozenset({tuple(best.tolist())}))
    assert solve(without).objective == pytest.approx(second.objective)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cheapest_at_a_loss_are_permitted(seed: int) -> None:
    problem, kept = held(seed, minimise="latency_ms")
    if kept:
        found = cheapest_at_losses(problem, "latency_ms")
        assert found and all(tuple(s.choice.tolist()) in kept for s in found)


def test_the_nearest_choice_to_a_level_is_above_it_or_else_below() -> None:
    mask = np.array([[True, True, True], [True, False, True], [True, True, False]])
    assert [Allowed(mask).nearest(level).tolist() for level in range(3)] == [[0, 0, 0], [1, 2, 1], [2, 2, 1]]


def only(group: int, level: int) -> np.ndarray:
    mask = np.ones((3, 2), dtype=bool)
    mask[group] = np.arange(2) == level
    return mask


def test_the_constraints_that_bind_are_named_and_no_others() -> None:
    """Three groups of cost 1 or 5 within 8: one may be dear. Two pins together break it, a third says nothing."""
    value, cost = Cost(np.array([[0.0, 1.0]] * 3)), Cost(np.array([[1.0, 5.0]] * 3))
    rules = Rule("--pin 'a=fp32'", only(0, 1)), Rule("--pin 'c=int8'", only(2, 0)), Rule("--pin 'b=fp32'", only(1, 1))
    allowed = Allowed(np.ones((3, 2), dtype=bool), rules)
    with pytest.raises(InfeasibleError) as caught:
        solve(Problem(value, {"size_mb": cost}, {"size_mb": 8.0}, allowed=allowed))
    assert caught.value.what == "no assignment keeps size_mb <= 8 with --pin 'a=fp32' and --pin 'b=fp32'"
    assert caught.value.fix == "drop or loosen one of them, or raise a budget: least reachable size_mb 11"
    solve(Problem(value, {"size_mb": cost}, {"size_mb": 11.0}, allowed=allowed))


def test_constraints_are_not_blamed_where_the_budget_is_out_of_reach_without_them() -> None:
    value, cost = Cost(np.array([[0.0, 1.0]] * 3)), Cost(np.array([[1.0, 5.0]] * 3))
    allowed = Allowed(np.ones((3, 2), dtype=bool), (Rule("--pin 'a=fp32'", only(0, 1)),))
    with pytest.raises(InfeasibleError) as caught:
        solve(Problem(value, {"size_mb": cost}, {"size_mb": 2.0}, allowed=allowed))
    assert caught.value.what == "no assignment reaches size_mb <= 2"


def test_a_limit_of_switches_is_named_as_what_binds() -> None:
    """The first group is pinned to the dear level, and without a switch all are."""
    value, cost = Cost(np.array([[0.0, 1.0]] * 3)), Cost(np.array([[1.0, 5.0]] * 3))
    switches = Cost(np.zeros((3, 2)), ((0, 1, 1.0 - np.eye(2)), (1, 2, 1.0 - np.eye(2))))
    allowed = Allowed(np.ones((3, 2), dtype=bool), (Rule("--pin 'a=fp32'", only(0, 1)),))
    with pytest.raises(InfeasibleError) as caught:
        solve(Problem(value, {"size_mb": cost, "switches": switches}, {"size_mb": 8.0, "switches": 0.0},
                      allowed=allowed))
    assert "switches <= 0" in caught.value.what and "--pin 'a=fp32'" in caught.value.what
    assert "switches 1" in caught.value.fix
