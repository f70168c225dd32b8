"""Why no assignment keeps the limits, and what could be reached instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil, floor, log10

from hwsmpq.errors import InfeasibleError
from hwsmpq.search.optimum import optimum
from hwsmpq.search.problem import Problem, Solution
from hwsmpq.types import with_slack


def diagnose(problem: Problem, time_limit_s: float) -> InfeasibleError:
    """The error that names the binding budgets of an infeasible problem and the least reachable value of each, as the
    costs have it (what was measured to miss a limit is left aside)."""
    problem = replace(problem, missed=frozenset())
    alone = {kind: _least(problem, kind, {}, time_limit_s) for kind in problem.limits}
    lowest = {kind: least.objective for kind, least in alone.items() if least is not None}
    too_low = [kind for kind, least in lowest.items() if least > with_slack(problem.limits[kind])]
    if too_low:
        return InfeasibleError(
            f"no assignment reaches {_budgets(problem, too_low)}",
            "even with every other budget ignored, the least values lie above: " + _reachable(alone, too_low),
            f"raise the budget: least reachable {_reachable(alone, too_low)}; or add a cheaper precision to the ladder",
        )
    given_others = {
        kind: _least(problem, kind, {k: v for k, v in problem.limits.items() if k != kind}, time_limit_s)
        for kind in problem.limits
    }
    binding = [kind for kind, least in given_others.items() if least is not None]
    if not binding:
        return InfeasibleError(
            f"no assignment keeps {_budgets(problem, problem.limits)} together",
            "each can be reached alone, but dropping any single one does not help",
            f"raise at least two budgets: least reachable alone {_reachable(alone, alone)}",
        )
    return InfeasibleError(
        f"no assignment keeps {_budgets(problem, binding)} together",
        f"each can be reached alone ({_reachable(alone, binding)}), but not with all other budgets kept",
        "raise one budget, keeping the others: least reachable " + _reachable(given_others, binding, " or "),
    )


def _least(problem: Problem, kind: str, limits: dict[str, float], time_limit_s: float) -> Solution | None:
    """The solution with the least of one cost under ``limits``, or None if they cannot be kept."""
    return optimum(replace(problem, limits=limits, minimise=kind), (), time_limit_s)


def _budgets(problem: Problem, kinds: Iterable[str]) -> str:
    return " and ".join(f"{kind} <= {problem.limits[kind]:.6g}" for kind in kinds)


def _reachable(least: Mapping[str, Solution | None], kinds: Iterable[str], joint: str = ", ") -> str:
    parts = []
    for kind in kinds:
        if (solution := least[kind]) is not None:
            unproven = "" if solution.status == "optimal" else " (perhaps less: the solver ran out of time)"
            parts.append(f"{kind} {_round_up(solution.objective):.10g}{unproven}")
    return joint.join(parts)


def _round_up(value: float, n_digits: int = 4) -> float:
    """Round towards plus infinity at ``n_digits`` significant digits, so that the printed limit can be kept."""
    if value == 0:
        return 0.0
    exponent = floor(log10(abs(value))) - n_digits + 1
    return ceil(value / 10.0**exponent - 1e-9) * 10.0**exponent
