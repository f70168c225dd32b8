"""Levels that are left out are in no optimal choice, by enumeration of all choices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hwsmpq.search.allowed import Allowed, Rule
from hwsmpq.search.dominated import dominated
from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

N, LEVELS = 4, 3


def problem(seed: int, pairs: bool = True) -> Problem:
    rng = np.random.default_rng(seed)
    tables = tuple((i, i + 1, rng.uniform(0, 0.3, (LEVELS, LEVELS))) for i in range(N - 1)) if pairs else ()
    costs = {"latency_ms": Cost(rng.uniform(size=(N, LEVELS)), tables), "size_mb": Cost(rng.uniform(size=(N, LEVELS)))}
    limits = {kind: cost(np.ones(N, dtype=np.int64)) for kind, cost in costs.items()}
    mask = rng.uniform(size=(N, LEVELS)) < 0.9
    mask[:, 1] = True
    return Problem(Cost(rng.normal(size=(N, LEVELS))), costs, limits, allowed=Allowed(mask))


@pytest.mark.parametrize("pairs", [False, True])
def test_no_optimal_choice_contains_a_dominated_level(pairs):
    n_found = 0
    for seed in range(60):
        one = problem(seed, pairs)
        found = dominated(one, np.zeros((N, LEVELS)))
        kept = [np.array(c) for c in product(range(LEVELS), repeat=N) if one.keeps_limits(np.array(c))]
        best = max(kept, key=one.value)
        assert not found[np.arange(N), best].any()
        n_found += int(found.sum())
    assert n_found > 10


def test_intervals_must_not_meet():
    one = problem(1, pairs=False)
    found = dominated(one, np.zeros((N, LEVELS)))
    assert found.any() and not dominated(one, np.full((N, LEVELS), 10.0)).any()


def test_tied_groups_lose_nothing():
    one = problem(1, pairs=False)
    tied = Allowed(one.choices, (Rule("--together", np.ones((N, LEVELS), dtype=bool), (0, 1)),))
    assert not dominated(Problem(one.value, one.costs, one.limits, allowed=tied), np.zeros((N, LEVELS))).any()
