"""Switches as few variables: recognised in tables, and solved as the tables are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.search.formulation import Variables
from hwsmpq.search.problem import Problem
from hwsmpq.search.switches import as_switch
from hwsmpq.types import Cost

from .problems import N_GROUPS, N_LEVELS, random_problem
from .test_milp import check


def table_of(first: np.ndarray, second: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """What two groups pay whose levels have these formats, by the format of the first."""
    return costs[first][:, None] * (first[:, None] != second[None, :])


def test_switches_are_recognised_by_what_is_free() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, second = rng.integers(3, size=(2, int(rng.integers(2, 6))))
        costs = rng.choice([0.0, 0.7, 1.3], size=3)
        table = table_of(first, second, costs)
        found = as_switch(table)
        if not table.any():
            assert found is None
            continue
        if found is None:  # formats that the second group has none of are told apart by their costs alone
            absent = [costs[one] for one in set(first.tolist()) - set(second.tolist()) if costs[one]]
            assert len(set(absent)) > 1
            continue
        rebuilt = np.zeros(table.shape)
        for (rows, columns), cost in zip(found.formats, found.costs, strict=True):
            rebuilt[list(rows)] = cost
            rebuilt[np.ix_(rows, columns)] = 0
        np.testing.assert_array_equal(rebuilt, table)


@pytest.mark.parametrize(
    "table",
    [[[0, 0], [0, 0]], [[0, -1], [-1, 0]], [[0, 1, 2], [1, 0, 1], [1, 1, 0]], [[0, 1, 1], [0, 2, 2], [1, 0, 0]],
     [[0, 0, 1], [1, 0, 0], [1, 1, 0]]],
    ids=["free", "a gain", "by the second too", "two costs of one format", "free beside two formats"],
)
def test_other_tables_are_no_switches(table: list[list[float]]) -> None:
    assert as_switch(np.array(table, dtype=np.float64)) is None


def switching(seed: int, minimise: str | None = None, tightness: float = 0.4) -> Problem:
    """A random problem whose latency, and whose value too, has switches of every size between random groups, repeated
    and in both orders."""
    rng = np.random.default_rng(seed)
    problem = random_problem(seed, minimise, tightness)

    def switched(cost: Cost, scale: float) -> Cost:
        pairs = []
        for _ in range(5):
            i, j = (int(g) for g in rng.choice(N_GROUPS, size=2, replace=False))
            first, second = rng.integers(3, size=(2, N_LEVELS))
            pairs.append((i, j, table_of(first, second, scale * rng.lognormal(sigma=2, size=3))))
        return replace(cost, pairs=(*cost.pairs, *pairs, pairs[0]))

    costs = {**problem.costs, "latency_ms": switched(problem.costs["latency_ms"], 1.0)}
    limits = dict(problem.limits)
    if "latency_ms" in limits:
        limits["latency_ms"] += 2.0
    return replace(problem, value=switched(problem.value, 1e-3), costs=costs, limits=limits)


def test_problems_with_switches_equal_brute_force() -> None:
    assert sum([check(switching(seed)) for seed in range(25)]) > 10
    assert sum([check(switching(seed, minimise="latency_ms")) for seed in range(10)]) > 5
    assert all(Variables.of(switching(seed)).switches for seed in range(5))


def test_a_cost_that_is_the_value_too_is_written_for_both() -> None:
    problem = switching(0)
    latency = problem.costs["latency_ms"]
    check(replace(problem, value=latency))
