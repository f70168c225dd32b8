"""Limits that what was measured lowers: plans that are predicted to just keep one miss it half of the time."""

from __future__ import annotations

from dataclasses import replace

from hwsmpq.pipeline.decide.costs import choices_of
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.profile import rounds
from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem, identity
from hwsmpq.types import with_slack


def within_memory(problem: Problem, prepared: Prepared) -> Problem:
    """The problem without what was measured to need more memory than its limit, which is lower by what an engine needed
    beyond its prediction at most."""
    run, cost, limit = prepared.run, problem.costs["peak_mb"], problem.limits["peak_mb"]
    built = [one for one in rounds(run).rounds if one.peak_mb is not None]
    choices = choices_of(prepared.network, run.ladder, [one.assignment for one in built])
    needed = [(choice, one.peak_mb) for choice, one in zip(choices, built, strict=True)
              if choice is not None and one.peak_mb is not None]
    over = {identity(choice) for choice, peak in needed if peak > with_slack(limit)}
    margin = max((peak - cost(choice) for choice, peak in needed), default=0.0)
    return with_margin(replace(problem, missed=problem.missed | over), "peak_mb", margin)


def with_margin(problem: Problem, kind: str, margin: float) -> Problem:
    """The limit of a cost less the margin, if there is any, but never below what the other limits allow to reach."""
    if margin <= 0:
        return problem
    limit = problem.limits[kind]
    others = {other: value for other, value in problem.limits.items() if other != kind}
    least = solve(replace(problem, limits=others, minimise=kind)).costs[kind]
    return replace(problem, limits={**problem.limits, kind: max(limit - margin, min(limit, least))})
