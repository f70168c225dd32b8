"""Finding the front: assignments proposed at many cost limits, and compared on growing batches of the search part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsmpq.pipeline.decide.aim import value_tables, valued
from hwsmpq.pipeline.decide.candidates import Measured, as_candidate, surrogate
from hwsmpq.pipeline.decide.choices import problem_of
from hwsmpq.pipeline.decide.costs import assignment_of, choices_of
from hwsmpq.pipeline.evaluate.contribute import observed, table_of
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.front import front_of
from hwsmpq.search.milp import solve
from hwsmpq.search.moves import neighbours
from hwsmpq.search.pool import Proposal, merge, pool, unsolved
from hwsmpq.search.problem import Problem, Solution, identity
from hwsmpq.types import Candidate, Contributions, Cost, Front, with_slack

N_PROPOSED = 2
"""Solutions of every table within every cost limit."""
N_NEIGHBOURS = 8
"""Swaps and shifts of the best proposal within every cost limit."""
N_KEPT = 2
"""Assignments that go on to a larger batch, for every cost limit."""

CostKind = Literal["latency_ms", "bitops"]
Found = list[tuple[str, Solution]]
"""Choices and the names of what proposed them."""


def find_front(
    prepared: Prepared, costs: Mapping[str, Cost], contributions: Contributions, known: Iterable[Candidate],
    n_points: int,
) -> Front:
    """The front of latency, where there is a cost for it, or else of BitOps, against value.

    Args:
        costs: what assignments cost, by budget kind.
        known: assignments that were measured before. Those measured on the whole search part are compared there,
            whatever smaller batches say; so are uniform assignments.
        n_points: cost limits, evenly spaced (by ratio) from the cheapest assignment to the ladder's top.
    """
    run = prepared.run
    kind: CostKind = "latency_ms" if "latency_ms" in costs else "bitops"
    tables = value_tables(prepared, contributions)
    unvalued, table = problem_of(prepared, costs, {}), table_of(prepared, contributions)
    problem = valued(unvalued, table, contributions.floor_value)
    limited = [replace(problem, limits={**problem.limits, kind: limit}) for limit in _limits(problem, kind, n_points)]
    batches, walks = NestedBatches(prepared), observed(prepared, contributions)

    known = list(known)
    chosen = choices_of(prepared.network, run.ladder, [one.assignment for one in known])
    earlier = [
        (one, choice) for one, choice in zip(known, chosen, strict=True)
        if choice is not None and problem.keeps_limits(choice)
    ]
    found = [(name, unsolved(problem, choice)) for one, choice in earlier for name in one.sources]
    found += _walked(prepared, problem, walks[0])
    model = surrogate(problem, *walks)
    found += _solved(prepared, limited, tables if model is None else {**tables, "surrogate": model})
    found += _improved(limited, kind, merge(found), walks, batches)
    proposals = merge(found)

    whole = sum(batches.sizes)
    settled = {identity(choice) for one, choice in earlier if one.n_samples == whole}
    settled |= {identity(p.solution.choice) for p in proposals if "uniform" in p.sources}
    choices = np.array([p.solution.choice for p in proposals])
    front = front_of(
        choices, _costs(proposals, kind), batches.values, len(batches.sizes), N_KEPT * n_points,
        np.array([identity(choice) in settled for choice in choices]),
    )
    return Front(
        target=run.target.name,
        model_sha256=prepared.network.model_sha256,
        ladder=run.ladder.names,
        seed=run.settings.seed,
        cost=kind,
        value=run.value,
        reference_value=float(batches.reference(whole)[0].mean()),
        n_compared=len(proposals),
        points=tuple(as_candidate(prepared, problem.value, batches, Measured(proposals[i], whole)) for i in front),
    )


def _limits(problem: Problem, kind: CostKind, n: int) -> list[float]:
    """Up to ``n`` limits from the cost of the cheapest choice to that of the top. They are spaced by ratio: BitOps of
    the top are many times those of the floor, and equal steps would leave one limit to all that lies between."""
    least = solve(replace(problem, minimise=kind)).costs[kind]
    top = problem.permitted.nearest(problem.choices.shape[1] - 1)
    return np.unique(np.geomspace(least, max(least, problem.costs[kind](top)), n)).tolist()


def _walked(prepared: Prepared, problem: Problem, walks: NDArray[np.int64]) -> Found:
    """What the contributions were estimated from, as levels that groups may take."""
    run = prepared.run
    assignments = [assignment_of(prepared.network, run.ladder, levels) for levels in walks]
    choices = choices_of(prepared.network, run.ladder, assignments)
    found: Found = []
    for choice in choices:
        assert choice is not None
        if problem.keeps_limits(choice):
            found.append(("walk", unsolved(problem, choice)))
    return found


def _solved(prepared: Prepared, limited: Sequence[Problem], tables: Mapping[str, Cost]) -> Found:
    """The best solutions of every table within every limit, and the uniform choices."""
    run = prepared.run
    found: Found = []
    for done, problem in enumerate(limited, 1):
        found += [(name, p.solution) for p in pool(problem, tables, N_PROPOSED) for name in p.sources]
        run.progress("pareto: solve", done, len(limited))
    return found


def _improved(
    limited: Sequence[Problem], kind: CostKind, proposals: Sequence[Proposal],
    walks: tuple[NDArray[np.int64], NDArray[np.float64]], batches: NestedBatches,
) -> Found:
    """Neighbours of the best proposal within every limit, as far as the first batch can tell.

    A surrogate chooses them that has learned from the proposals too: these lie near the front, where walks seldom are.
    """
    choices, costs = np.array([p.solution.choice for p in proposals]), _costs(proposals, kind)
    values = batches.values(choices, 0).mean(1)
    guide = surrogate(limited[0], np.vstack([walks[0], choices]), np.concatenate([walks[1], values]))
    found: Found = []
    for problem in limited:
        inside = costs <= with_slack(problem.limits[kind])
        leader = choices[np.where(inside, values, -np.inf).argmax()]
        guided = problem if guide is None else replace(problem, value=guide)
        near = neighbours(guided, leader, N_NEIGHBOURS, choices)
        found += [("swap", unsolved(problem, choice)) for choice in near]
    return found


def _costs(proposals: Sequence[Proposal], kind: CostKind) -> NDArray[np.float64]:
    return np.array([p.solution.costs[kind] for p in proposals])
