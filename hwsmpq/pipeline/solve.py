"""The search stage: budgets and tables into a plan, the best of the solver's K solutions truly evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import latency_cost
from hwsmpq.pipeline.measure import contribute, evaluation_game, profile
from hwsmpq.pipeline.run import Run
from hwsmpq.search.k_best import k_best
from hwsmpq.search.milp import solve
from hwsmpq.search.problem import Problem, Solution
from hwsmpq.types import REFERENCE, Assignment, Budget, Candidate, Contributions, Cost, CostTable, Plan, Precision

MIN_MODEL_ERROR = 0.01
"""Share of the reference latency that the cost model is at least trusted to miss by."""
DROP_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.0)
"""Shares of the whole predicted loss of value that the latency objective allows, one candidate each."""


def search(run: Run, budgets: Sequence[Budget], n_misses: int = 0) -> Plan:
    """Solve for the budgets.

    Args:
        n_misses: built engines that missed the latency budget so far; each adds one error of the cost model as a
            margin, since a plan that is predicted to just keep a limit misses it half of the time.

    With ``max_drop`` and no latency budget, latency (BitOps where there is none) is minimised; otherwise value is
    maximised. Either way the candidates are evaluated on the whole search part before one is chosen.

    Raises:
        HwsmpqError: no budget, a latency budget without a cost table, or budgets that cannot be met (names them).
    """
    if not budgets:
        raise HwsmpqError(
            "no budget to search for", "without one the most accurate plan is the reference itself",
            "give --latency-ms, --speedup, --bitops, --size-mb or --max-drop",
        )
    limits = {budget.kind: budget.limit for budget in budgets}
    if "latency_ms" in limits and not run.target.has_latency:
        raise HwsmpqError(
            f"target {run.target.name} makes no latency claim", "a latency budget needs measured costs",
            "drop the latency budget or choose another --target",
        )
    table, contributions = profile(run), contribute(run)
    inputs = {
        "contributions": run.sha256(Contributions),
        "cost_table": run.sha256(CostTable) if table else "none",
        "budgets": sorted([kind, limit] for kind, limit in limits.items()),
        "n_candidates": [run.settings.n_candidates],
        "n_misses": [n_misses],
    }
    return run.stage(Plan, inputs, lambda: _search(run, tuple(budgets), table, contributions, n_misses))


def costs_of(run: Run, table: CostTable | None) -> dict[str, Cost]:
    """What the solver adds up, by budget kind."""
    network, ladder = run.network, run.ladder
    bitops = np.array([[float(network.bitops(g, p)) for p in ladder.precisions] for g in network.group_names])
    size = np.array([[network.size_bytes(g, p) / 1e6 for p in ladder.precisions] for g in network.group_names])
    costs = {
        "bitops": Cost(bitops),
        "size_mb": Cost(size, constant=4 * network.n_other_params / 1e6),
    }
    if table is not None:
        costs["latency_ms"] = latency_cost(table, network, ladder)
    return costs


def counted_costs(run: Run, assignment: Assignment) -> tuple[float, float]:
    """BitOps and size in MB of any assignment, also one outside the ladder."""
    network, precisions = run.network, {g: Precision.parse(name) for g, name in assignment.items()}
    bitops = sum(network.bitops(g, p) for g, p in precisions.items())
    size = sum(network.size_bytes(g, p) for g, p in precisions.items()) + 4 * network.n_other_params
    return float(bitops), size / 1e6


def _search(
    run: Run, budgets: tuple[Budget, ...], table: CostTable | None, contributions: Contributions, n_misses: int
) -> Plan:
    limits = {str(b.kind): b.limit for b in budgets if b.kind != "max_drop"}
    max_drop = next((b.limit for b in budgets if b.kind == "max_drop"), None)
    value = Cost(_matrix(run, contributions.phi), constant=contributions.floor_value)
    costs = costs_of(run, table)
    if table is not None and n_misses:
        limits["latency_ms"] = _with_margin(Problem(value, costs, limits), n_misses * _model_error_ms(table))
    if max_drop is not None and "latency_ms" not in limits:
        cheapest = "latency_ms" if table else "bitops"
        solutions = _frontier(value, costs, limits, cheapest)
    else:
        cheapest = None
        solutions = k_best(Problem(value, costs, limits), run.settings.n_candidates)
    candidates = _evaluate(run, solutions, value)
    chosen = _choose(candidates, max_drop, cheapest)
    solution = solutions[candidates.index(chosen)]
    return Plan(
        assignment=chosen.assignment,
        budgets=budgets,
        objective="latency" if cheapest else "value",
        status=solution.status,
        gap=solution.gap,
        predicted_value=chosen.predicted_value,
        predicted_drop_points=chosen.drop_points,
        predicted_latency_ms=chosen.latency_ms,
        bitops=chosen.bitops,
        size_mb=chosen.size_mb,
        candidates=tuple(candidates),
        ladder=run.ladder.names,
        model_sha256=run.network.model_sha256,
        seed=run.settings.seed,
    )


def _model_error_ms(table: CostTable) -> float:
    return max(table.fit_error_ms, MIN_MODEL_ERROR * table.uniform_ms[table.ladder[-1]].median_ms)


def _with_margin(problem: Problem, margin_ms: float) -> float:
    """The latency limit less the margin, but never below what the other limits allow to reach."""
    limit = problem.limits["latency_ms"]
    others = {kind: value for kind, value in problem.limits.items() if kind != "latency_ms"}
    fastest = solve(replace(problem, limits=others, minimise="latency_ms")).costs["latency_ms"]
    return max(limit - margin_ms, min(limit, fastest))


def _matrix(run: Run, table: dict[str, dict[str, float]]) -> NDArray[np.float64]:
    return np.array([[table[g][name] for name in run.ladder.names] for g in run.network.group_names])


def _frontier(value: Cost, costs: dict[str, Cost], limits: dict[str, float], cheapest: str) -> list[Solution]:
    """The cheapest solution at each of several largest predicted losses of value, from the loosest to none."""
    best = Cost(value.unary.max(1, keepdims=True) - value.unary)
    whole = float(best.unary.max(1).sum())
    problem = Problem(value, {**costs, "value_loss": best}, limits, minimise=cheapest)
    found: list[Solution] = []
    for share in DROP_SHARES:
        # A group whose top precision measured as harmful makes "no loss" unreachable by rounding only.
        bounded = replace(problem, limits={**limits, "value_loss": share * whole + 1e-9})
        try:
            solution = k_best(bounded, 1)[0]
        except HwsmpqError:
            if not found:
                raise
            break
        if not any(np.array_equal(solution.choice, other.choice) for other in found):
            found.append(solution)
    reference = np.full(len(value.unary), value.unary.shape[1] - 1)
    if problem.keeps_limits(reference) and not any(np.array_equal(reference, s.choice) for s in found):
        at_top = {kind: cost(reference) for kind, cost in costs.items()}
        found.append(Solution(reference, at_top[cheapest], "feasible", 0.0, at_top))
    return found


def _evaluate(run: Run, solutions: list[Solution], value: Cost) -> list[Candidate]:
    """Measure every solution on the whole search part, paired with the reference."""
    samples = run.parts[0]
    game = evaluation_game(run, samples, lambda done, n: run.progress("search: evaluate candidates", done, n))
    # The reference may lie above the ladder, so it is not a row of the game.
    reference = np.asarray(list(game.evaluate([run.network.uniform(REFERENCE)])))
    scores = np.vstack([reference, game.samples(np.array([s.choice for s in solutions]))])
    values, metrics = np.split(scores.astype(np.float64), 2, axis=1)
    n = len(samples)
    return [
        Candidate(
            assignment=_assignment(run, solution.choice),
            predicted_value=value(solution.choice),
            value=float(values[i].mean()),
            stderr=float((values[i] - values[0]).std(ddof=1) / np.sqrt(n)),
            drop_points=float(100 * (metrics[0] - metrics[i]).mean()),
            drop_stderr_points=float(100 * (metrics[0] - metrics[i]).std(ddof=1) / np.sqrt(n)),
            latency_ms=solution.costs.get("latency_ms"),
            bitops=solution.costs["bitops"],
            size_mb=solution.costs["size_mb"],
        )
        for i, solution in enumerate(solutions, 1)
    ]


def _assignment(run: Run, choice: NDArray[np.int64]) -> Assignment:
    return {g: run.ladder.names[level] for g, level in zip(run.network.group_names, choice, strict=True)}


def _choose(candidates: list[Candidate], max_drop: float | None, cheapest: str | None) -> Candidate:
    """The cheapest candidate, or the one of highest measured value, that keeps the largest drop.

    A drop counts with one standard error on top: the search part is small, and the promise is about unseen data.
    """
    kept = [c for c in candidates if max_drop is None or c.drop_points + c.drop_stderr_points <= max_drop]
    if not kept:
        least = min(candidates, key=lambda c: c.drop_points + c.drop_stderr_points)
        raise HwsmpqError(
            f"no candidate keeps max_drop {max_drop:g} points on the search part",
            f"the least reached is {least.drop_points:.2f} +- {least.drop_stderr_points:.2f} points",
            "raise --max-drop or the other budgets, or add a precision to the ladder",
        )
    if cheapest == "latency_ms":
        return min(kept, key=lambda c: c.latency_ms or 0.0)
    if cheapest == "bitops":
        return min(kept, key=lambda c: c.bitops)
    return max(kept, key=lambda c: c.value)
