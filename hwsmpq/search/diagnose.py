"""Why no assignment keeps limits and constraints, and what could be reached instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, log10

from hwsmpq.errors import InfeasibleError
from hwsmpq.search.allowed import Allowed, Rule
from hwsmpq.search.optimum import optimum
from hwsmpq.search.problem import Problem, Solution
from hwsmpq.types import with_slack


def diagnose(problem: Problem, time_limit_s: float) -> InfeasibleError:
    """The error that names the binding budgets and constraints of an infeasible problem and the least reachable value
    of each budget, as the costs have it (what was measured to miss a limit is left aside)."""
    problem = replace(problem, missed=frozenset())
    rules = binding_rules(problem, time_limit_s)
    if rules:
        return _held_by(problem, rules, time_limit_s)
    alone = {kind: _least(problem, kind, {}, time_limit_s) for kind in problem.limits}
    lowest = {kind: least.objective for kind, least in alone.items() if least is not None}
    too_low = [kind for kind, least in lowest.items() if least > with_slack(problem.limits[kind])]
    if too_low:
        reachable = _reachable(problem, alone, too_low)
        return InfeasibleError(
            f"no assignment reaches {_budgets(problem, too_low)}",
            f"even with every other budget ignored, the least values lie above: {reachable}",
            f"raise the budget: least reachable {reachable}; or add a cheaper precision to the ladder",
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
            f"raise at least two budgets: least reachable alone {_reachable(problem, alone, alone)}",
        )
    return InfeasibleError(
        f"no assignment keeps {_budgets(problem, binding)} together",
        f"each can be reached alone ({_reachable(problem, alone, binding)}), but not with all other budgets kept",
        "raise one budget, keeping the others: least reachable " + _reachable(problem, given_others, binding, " or "),
    )


def binding_rules(problem: Problem, time_limit_s: float) -> tuple[Rule, ...]:
    """Rules that together, and with none of them dropped, make an infeasible problem infeasible; none where it stays
    so without any."""
    allowed = problem.permitted
    if not allowed.rules or not _can(replace(problem, allowed=Allowed(allowed.offered)), time_limit_s):
        return ()
    for rule in allowed.rules:
        fewer = allowed.without(rule)
        if not _can(replace(problem, allowed=fewer), time_limit_s):
            allowed = fewer
    return allowed.rules


def _held_by(problem: Problem, rules: Sequence[Rule], time_limit_s: float) -> InfeasibleError:
    allowed = replace(problem.permitted, rules=tuple(rules))
    given_others = {
        kind: _least(
            replace(problem, allowed=allowed), kind, {k: v for k, v in problem.limits.items() if k != kind},
            time_limit_s,
        )
        for kind in problem.limits
    }
    binding = [kind for kind, least in given_others.items() if least is not None]
    said = " and ".join(rule.said for rule in rules)
    reachable = _reachable(problem, given_others, binding, " or ")
    raised = f", or raise a budget: least reachable {reachable}" if binding else ""
    return InfeasibleError(
        f"no assignment keeps {_budgets(problem, binding or problem.limits)} with {said}",
        f"without {'it' if len(rules) == 1 else 'one of these'} there are some",
        f"drop or loosen {'it' if len(rules) == 1 else 'one of them'}{raised}",
    )


def _can(problem: Problem, time_limit_s: float) -> bool:
    return optimum(problem, (), time_limit_s) is not None


def _least(problem: Problem, kind: str, limits: dict[str, float], time_limit_s: float) -> Solution | None:
    """The solution with the least of one cost under ``limits``, or None if they cannot be kept."""
    return optimum(replace(problem, limits=limits, minimise=kind), (), time_limit_s)


def _budgets(problem: Problem, kinds: Iterable[str]) -> str:
    return " and ".join(
        f"{kind} <= {problem.limits[kind]:.6g}{_as_asked(problem, kind, problem.limits[kind])}" for kind in kinds
    )


def _as_asked(problem: Problem, kind: str, value: float) -> str:
    """The option that a value of a cost amounts to, where that is another number."""
    budget = problem.budgets.get(kind)
    if budget is None or not budget.is_rate:
        return ""
    return f" ({budget.asked[0]} {-_round_up(-budget.as_asked(value)):.10g})"


def _reachable(
    problem: Problem, least: Mapping[str, Solution | None], kinds: Iterable[str], joint: str = ", "
) -> str:
    parts = []
    for kind in kinds:
        if (solution := least[kind]) is not None:
            unproven = "" if solution.status == "optimal" else " (perhaps less: the solver ran out of time)"
            value = _round_up(solution.objective)
            parts.append(f"{kind} {value:.10g}{_as_asked(problem, kind, value)}{unproven}")
    return joint.join(parts)


def _round_up(value: float, n_digits: int = 4) -> float:
    """Round towards plus infinity at ``n_digits`` significant digits, so that the printed limit can be kept."""
    if value == 0:
        return 0.0
    exponent = floor(log10(abs(value))) - n_digits + 1
    return ceil(value / 10.0**exponent - 1e-9) * 10.0**exponent
