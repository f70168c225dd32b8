"""Random problems, and a brute-force solver that shares no code with the package."""

from __future__ import annotations

from itertools import product

import numpy as np

from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

N_GROUPS, N_LEVELS = 5, 3


def random_cost(rng: np.random.Generator, scale: float, n_pairs: int) -> Cost:
    """Cheaper at lower levels on the whole; pair terms in both orders of the groups and of both signs."""
    unary = np.cumsum(rng.exponential(size=(N_GROUPS, N_LEVELS)), axis=1)
    pairs = []
    for _ in range(n_pairs):
        i, j = rng.choice(N_GROUPS, size=2, replace=False)
        pairs.append((int(i), int(j), scale * rng.normal(size=(N_LEVELS, N_LEVELS))))
    return Cost(scale * unary, tuple(pairs), scale * float(rng.normal()))


def random_problem(seed: int, minimise: str | None = None, tightness: float = 0.4) -> Problem:
    """Budgets at a quantile of every cost over all choices (a random order of them)."""
    rng = np.random.default_rng(seed)
    costs = {
        "latency_ms": random_cost(rng, 1.0, n_pairs=3),
        "bitops": random_cost(rng, 1e9, n_pairs=0),
        "size_mb": random_cost(rng, 1e-3, n_pairs=int(rng.integers(2))),
    }
    limits = {kind: float(np.quantile([cost(c) for c in choices()], tightness)) for kind, cost in costs.items()}
    if minimise is not None:
        del limits[minimise]
    value = random_cost(rng, 1e-3, n_pairs=int(rng.integers(4)))
    return Problem(value, costs, limits, minimise)


def choices() -> list[np.ndarray]:
    return [np.array(levels) for levels in product(range(N_LEVELS), repeat=N_GROUPS)]


def total(cost: Cost, choice: np.ndarray) -> float:
    """The definition of a cost, term by term."""
    value = cost.constant
    for group, level in enumerate(choice):
        value += cost.unary[group, level]
    for i, j, table in cost.pairs:
        value += table[choice[i], choice[j]]
    return float(value)


def brute_force(problem: Problem) -> list[tuple[float, tuple[int, ...]]]:
    """Every choice within the limits with its objective, best first."""
    objective = problem.value if problem.minimise is None else problem.costs[problem.minimise]
    kept = [
        (total(objective, choice), tuple(int(level) for level in choice))
        for choice in choices()
        if all(total(problem.costs[kind], choice) <= limit for kind, limit in problem.limits.items())
    ]
    return sorted(kept, reverse=problem.minimise is None)
