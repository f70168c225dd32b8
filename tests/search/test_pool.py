"""Pool, and the cheapest choices at several losses, against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.errors import InfeasibleError
from hwsmpq.search.losses import LOSS_SHARES, cheapest_at_losses
from hwsmpq.search.pool import merge, pool
from hwsmpq.search.problem import Problem, Solution

from .problems import N_LEVELS, brute_force, choices, random_cost, random_problem, total


def tables(seed: int) -> dict:
    rng = np.random.default_rng(100 + seed)
    return {"first": random_cost(rng, 1.0, n_pairs=0), "second": random_cost(rng, 1.0, n_pairs=2)}


def best(problem: Problem, k: int) -> set[tuple[int, ...]]:
    return {choice for _, choice in brute_force(problem)[:k]}


@pytest.mark.parametrize("seed", range(5))
def test_pool_holds_the_k_best_of_every_table_and_the_uniform_choices(seed: int) -> None:
    problem, values = random_problem(seed), tables(seed)
    proposals = pool(problem, values, 3)
    by_source = {
        name: {tuple(p.solution.choice.tolist()) for p in proposals if name in p.sources}
        for name in (*values, "uniform")
    }
    for name, value in values.items():
        assert by_source[name] == best(replace(problem, value=value), 3)
    uniform = [np.full(5, level) for level in range(N_LEVELS)]
    assert by_source["uniform"] == {tuple(c.tolist()) for c in uniform if problem.keeps_limits(c)}
    keys = [tuple(p.solution.choice.tolist()) for p in proposals]
    assert len(keys) == len(set(keys))


def test_a_choice_that_two_tables_propose_names_both() -> None:
    problem = random_problem(0)
    value = tables(0)["first"]
    assert all(p.sources[:2] == ("one", "other") for p in pool(problem, {"one": value, "other": value}, 2)[:2])


def test_merge_keeps_the_first_of_equals() -> None:
    a, b = np.array([0, 1]), np.array([1, 1])
    found = [(n, Solution(c, v, "optimal", 0.0, {})) for n, c, v in (("x", a, 1.0), ("y", b, 2.0), ("z", a, 3.0))]
    merged = merge(found)
    assert [(p.sources, p.solution.objective) for p in merged] == [(("x", "z"), 1.0), (("y",), 2.0)]


@pytest.mark.parametrize("seed", range(5))
def test_frontier_is_the_cheapest_at_every_loss(seed: int) -> None:
    problem = random_problem(seed)
    problem = replace(problem, value=replace(problem.value, pairs=()), limits={"size_mb": problem.limits["size_mb"]})
    unary = problem.value.unary
    found = cheapest_at_losses(problem, "bitops")
    losses = {tuple(c.tolist()): float((unary.max(1) - unary[np.arange(5), c]).sum()) for c in choices()}
    whole = float((unary.max(1) - unary.min(1)).sum())
    expected = []
    for share in LOSS_SHARES:
        kept = [
            c for c in choices() if losses[tuple(c.tolist())] <= share * whole + 1e-9 and problem.keeps_limits(c)
        ]
        if not kept:
            break
        expected.append(min(total(problem.costs["bitops"], c) for c in kept))
    assert sorted({s.costs["bitops"] for s in found}) == pytest.approx(sorted(set(expected)))


def test_frontier_of_limits_that_cannot_be_kept_is_refused() -> None:
    problem = random_problem(0)
    with pytest.raises(InfeasibleError, match="size_mb"):
        cheapest_at_losses(replace(problem, limits={"size_mb": -1e9}), "bitops")
