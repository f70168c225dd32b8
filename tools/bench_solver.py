"""What the exact solver takes, beside the CBC that PuLP ships, on problems of the sizes that searches have.

Problems are random in the shape of real ones: value and costs of a group grow with its precision, and budgets lie half
way between the cheapest and the dearest assignment. Both solve every instance, in turns. PuLP's model is written from
the definition of the problem and shares no code with the package's.

Figures, for each size, and with the prefix ``cbc_`` for PuLP: ``s`` (wall time of one solution with its model, median
over instances), ``s_max``, ``gap`` (the largest relative distance of the objective from the bound that HiGHS proved),
``n_unproven`` (instances that ended at the time limit).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pulp
from _bench import Bench, arguments
from numpy.typing import NDArray

from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost

TIME_LIMIT_S = 60.0
RELATIVE_GAP = 1e-9
PAIR_SCALE = 0.1
"""Of a pair's terms to a group's."""


@dataclass(frozen=True)
class Size:
    n_groups: int
    n_levels: int
    pairs: Callable[[int], list[tuple[int, int]]]


SIZES = {
    "additive_101x6": Size(101, 6, lambda n: []),
    "additive_1000x8": Size(1000, 8, lambda n: []),
    "pairs_20x4": Size(20, 4, lambda n: list(combinations(range(n), 2))),
    "neighbours_101x6": Size(101, 6, lambda n: [(i, i + 1) for i in range(n - 1)]),
}


def random_problem(size: Size, seed: int) -> Problem:
    """Largest value under budgets on latency and size, each half way between its least and its largest sum."""
    rng = np.random.default_rng(seed)

    def rising(spread: float) -> NDArray[np.float64]:
        scale = rng.lognormal(sigma=spread, size=(size.n_groups, 1))
        return scale * np.cumsum(rng.exponential(size=(size.n_groups, size.n_levels)), axis=1)

    def between() -> tuple[tuple[int, int, NDArray[np.float64]], ...]:
        n = size.n_levels
        return tuple((i, j, PAIR_SCALE * rng.normal(size=(n, n))) for i, j in size.pairs(size.n_groups))

    costs = {"latency_ms": Cost(rising(1.0), between()), "size_mb": Cost(rising(1.0))}
    limits = {kind: float(c.unary.min(axis=1).sum() + c.unary.max(axis=1).sum()) / 2 for kind, c in costs.items()}
    return Problem(Cost(rising(1.0), between()), costs, limits)


@dataclass(frozen=True)
class Solved:
    """One solution: whether it was proven the best, and what it took."""

    choice: NDArray[np.int64]
    is_proven: bool
    seconds: float


def by_highs(problem: Problem) -> tuple[Solved, float]:
    """The solution, and its relative distance from the proven bound."""
    started = time.perf_counter()
    solution = solve(problem, time_limit_s=TIME_LIMIT_S)
    seconds = time.perf_counter() - started
    return Solved(solution.choice, solution.status == "optimal", seconds), solution.gap


def by_cbc(problem: Problem) -> Solved:
    started = time.perf_counter()
    model, (n_groups, n_levels) = pulp.LpProblem("plan", pulp.LpMaximize), problem.value.unary.shape
    y = [[pulp.LpVariable(f"y_{i}_{a}", cat="Binary") for a in range(n_levels)] for i in range(n_groups)]
    z = {
        (i, j): [[pulp.LpVariable(f"z_{i}_{j}_{a}_{b}", 0, 1) for b in range(n_levels)] for a in range(n_levels)]
        for cost in (problem.value, *problem.costs.values()) for i, j, _ in cost.pairs
    }

    def total(cost: Cost) -> pulp.LpAffineExpression:
        terms = [(y[i][a], cost.unary[i, a]) for i in range(n_groups) for a in range(n_levels)]
        for i, j, table in cost.pairs:
            terms += [(z[i, j][a][b], table[a, b]) for a in range(n_levels) for b in range(n_levels)]
        return pulp.LpAffineExpression(terms, cost.constant)

    model += total(problem.value)
    for row in y:
        model += pulp.lpSum(row) == 1
    for kind, limit in problem.limits.items():
        model += total(problem.costs[kind]) <= limit
    for (i, j), block in z.items():
        for level in range(n_levels):
            model += pulp.lpSum(block[level]) == y[i][level]
            model += pulp.lpSum(row[level] for row in block) == y[j][level]
    model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=TIME_LIMIT_S, gapRel=RELATIVE_GAP, threads=1))
    choice = np.array([[variable.value() for variable in row] for row in y]).argmax(axis=1)
    return Solved(choice, model.sol_status == pulp.LpSolutionOptimal, time.perf_counter() - started)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--instances", type=int, default=11, help="of every size")
    options = parser.parse_args()
    n_instances = 2 if options.quick else options.instances
    bench = Bench("bench_solver", options, {"instances": n_instances}, ("pulp",))
    for name, size in SIZES.items():
        highs, cbc, gaps, cbc_gaps = [], [], [], []
        for seed in range(options.seed, options.seed + n_instances):
            problem = random_problem(size, seed)
            ours, gap = by_highs(problem)
            theirs = by_cbc(problem)
            if not problem.keeps_limits(theirs.choice):
                print(f"  CBC's choice of instance {seed} breaks a limit")
            value, other = (problem.value(found.choice) for found in (ours, theirs))
            bound = value + gap * abs(value)
            highs.append(ours)
            cbc.append(theirs)
            gaps.append(gap)
            cbc_gaps.append((bound - other) / abs(bound))
            bench.row(
                size=name, seed=seed, s=ours.seconds, cbc_s=theirs.seconds, value=value, cbc_value=other, gap=gap,
                is_proven=ours.is_proven, cbc_is_proven=theirs.is_proven,
            )
        for prefix, solved, distances in (("", highs, gaps), ("cbc_", cbc, cbc_gaps)):
            seconds = [one.seconds for one in solved]
            bench.figures |= {
                f"{prefix}{name}.s": statistics.median(seconds), f"{prefix}{name}.s_max": max(seconds),
                f"{prefix}{name}.gap": max(distances),
                f"{prefix}{name}.n_unproven": sum(not one.is_proven for one in solved),
            }
    bench.finish()


if __name__ == "__main__":
    main()
