"""The search stage: budgets and tables into a plan, chosen by races on samples that did not propose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution import stability
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.contribute import Enough, contribute, observed, scores
from hwsmpq.pipeline.costs import costs_of
from hwsmpq.pipeline.measure import profile
from hwsmpq.pipeline.nested import NestedBatches
from hwsmpq.pipeline.run import Run
from hwsmpq.search.frontier import frontier
from hwsmpq.search.k_best import k_best
from hwsmpq.search.milp import solve
from hwsmpq.search.moves import neighbours
from hwsmpq.search.pool import Proposal, merge, pool
from hwsmpq.search.problem import Problem, Solution
from hwsmpq.search.race import Choice, Race, Standing
from hwsmpq.search.surrogate import fit_surrogate
from hwsmpq.types import Budget, Candidate, Contributions, Cost, CostTable, Plan, Stability

MIN_MODEL_ERROR = 0.01
"""Share of the reference latency that the cost model is at least trusted to miss by."""
N_NEIGHBOURS = 24
"""Swaps and shifts of the leader that are tried together."""
PAIRS_PER_GROUP = 2
"""Pairs of the surrogate that the solver is given, for every group."""
N_RESAMPLES = 50


def search(run: Run, budgets: Sequence[Budget], n_misses: int = 0) -> Plan:
    """Solve for the budgets.

    Args:
        n_misses: built engines that missed the latency budget so far; each adds one error of the cost model as a
            margin, since a plan that is predicted to just keep a limit misses it half of the time.

    With ``max_drop`` and no latency budget, latency (BitOps where there is none) is minimised; otherwise value is
    maximised. The additive mode of the paper takes the best solution of the contributions; by default the best
    solutions of several tables are raced on the search part, and the winner improved by swaps.

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
    settings, table = run.settings, profile(run)
    costs = costs_of(run.network, run.ladder, table)
    contributions = contribute(run, _enough(run, costs, limits))
    inputs = {
        "contributions": run.sha256(Contributions),
        "cost_table": run.sha256(CostTable) if table else "none",
        "budgets": sorted([kind, limit] for kind, limit in limits.items()),
        "race": [settings.n_candidates, settings.search_evaluations, settings.search_seconds, settings.additive],
        "n_misses": [n_misses],
    }
    return run.stage(Plan, inputs, lambda: _Search(run, tuple(budgets), table, contributions, n_misses).plan())


def _enough(run: Run, costs: dict[str, Cost], limits: Mapping[str, float]) -> Enough | None:
    """The draws suffice when the wanted share of resamples gives the same plan."""
    least = run.settings.stability
    solved = {kind: limit for kind, limit in limits.items() if kind != "max_drop"}
    if least is None or not solved:
        return None

    def suffice(draws: NDArray[np.float64]) -> bool:
        problem = Problem(Cost(draws.mean(0)), costs, solved)
        return _resampled(problem, draws, run.settings.seed).share >= least

    return Enough(suffice, [least, sorted(solved.items())])


@dataclass(frozen=True)
class _Found:
    """A choice, where it came from, and the samples it was measured on."""

    proposal: Proposal
    n_samples: int


class _Search:
    """One search: the problem, its measurements and the choice."""

    def __init__(
        self, run: Run, budgets: tuple[Budget, ...], table: CostTable | None, contributions: Contributions,
        n_misses: int,
    ) -> None:
        self.run, self.budgets, self.contributions = run, budgets, contributions
        self.max_drop = next((b.limit for b in budgets if b.kind == "max_drop"), None)
        limits = {str(b.kind): b.limit for b in budgets if b.kind != "max_drop"}
        value = Cost(_matrix(run, contributions), constant=contributions.floor_value)
        self.problem = Problem(value, costs_of(run.network, run.ladder, table), limits)
        if table is not None and n_misses:
            self.problem = _with_margin(self.problem, n_misses * _model_error_ms(table))
        self.cheapest = None
        if self.max_drop is not None and "latency_ms" not in limits:
            self.cheapest = "latency_ms" if table else "bitops"
        self.batches = NestedBatches(run)
        self.n_evaluations = 0.0

    def plan(self) -> Plan:
        values = {self.contributions.estimator: self.problem.value}
        if not self.run.settings.additive:
            cheap = scores(self.run, self.contributions).tables
            values |= {one.estimator: Cost(_matrix(self.run, one)) for one in cheap}
        found = self._cheapest(values) if self.cheapest else self._most_valuable(values)
        candidates = [self._candidate(one) for one in found]
        chosen = self._choose(candidates)
        solution = found[candidates.index(chosen)].proposal.solution
        return Plan(
            assignment=chosen.assignment,
            budgets=self.budgets,
            objective="latency" if self.cheapest else "value",
            status=solution.status,
            gap=solution.gap,
            predicted_value=chosen.predicted_value,
            predicted_drop_points=chosen.drop_points,
            predicted_latency_ms=chosen.latency_ms,
            bitops=chosen.bitops,
            size_mb=chosen.size_mb,
            candidates=tuple(candidates),
            ladder=self.run.ladder.names,
            model_sha256=self.run.network.model_sha256,
            seed=self.run.settings.seed,
            stability=None if self.cheapest else _stability(self.run, self.problem, self.contributions),
            n_evaluations=self.n_evaluations,
        )

    def _most_valuable(self, values: dict[str, Cost]) -> list[_Found]:
        settings = self.run.settings
        whole = sum(self.batches.sizes)
        if settings.additive:
            solutions = k_best(self.problem, 1)
            return [_Found(p, whole) for p in merge([(self.contributions.estimator, s) for s in solutions])]
        levels, observed_values = observed(self.run, self.contributions)
        model = self._surrogate(levels, observed_values)
        if model is not None:
            values = {**values, "surrogate": model}
        proposals = pool(self.problem, values, settings.n_candidates)
        race = Race(
            self.batches.values, self.batches.sizes, settings.search_evaluations, settings.search_seconds
        )
        standings = race.best([p.solution.choice for p in proposals])

        def propose(leader: Standing, proposed: list[Choice]) -> list[Choice]:
            # What the race measured lies near the budget, where walks seldom are: the model learns from it.
            known = race.measured
            n_first = self.batches.sizes[0]
            guide = self._surrogate(
                np.vstack([levels, [s.choice for s in known]]),
                np.concatenate([observed_values, [s.values[:n_first].mean() for s in known]]),
            )
            problem = replace(self.problem, value=guide or self.problem.value)
            return neighbours(problem, leader.choice, N_NEIGHBOURS, [*(s.choice for s in known), *proposed])

        winner = race.improve(standings[0], propose)
        self.n_evaluations = race.n_evaluations
        known = {tuple(p.solution.choice.tolist()): p for p in proposals}
        others = [s for s in race.measured if not np.array_equal(s.choice, winner.choice)]
        ranked = [winner, *sorted(others, key=lambda s: (-len(s.values), -s.mean))]
        return [_Found(known.get(tuple(s.choice.tolist())) or self._moved(s.choice), len(s.values)) for s in ranked]

    def _surrogate(self, levels: NDArray[np.int64], values: NDArray[np.float64]) -> Cost | None:
        # A walk changes one group from row to row; where more change, another begins.
        walks = np.cumsum(np.r_[True, (np.diff(levels, axis=0) != 0).sum(1) > 1][: len(levels)])
        table = self.problem.value.unary
        return fit_surrogate(levels, values, walks, table, PAIRS_PER_GROUP * len(table))

    def _cheapest(self, values: dict[str, Cost]) -> list[_Found]:
        """Frontiers of every table, those dropped early that surely lose too much; the rest on all batches."""
        assert self.cheapest is not None and self.max_drop is not None
        found = [
            (name, solution)
            for name, value in values.items()
            for solution in frontier(replace(self.problem, value=value), self.cheapest)
        ]
        reference = np.full(len(self.run.network.groups), len(self.run.ladder.names) - 1)
        if self.problem.keeps_limits(reference):
            found.append(("uniform", self._solution(reference)))
        alive, result = merge(found), []
        for n_samples in np.cumsum(self.batches.sizes):
            n = int(n_samples)
            result = [one for one in result if one.proposal not in alive] + [_Found(p, n) for p in alive]
            choices = np.array([p.solution.choice for p in alive])
            self.batches.values(choices, int(np.searchsorted(np.cumsum(self.batches.sizes), n)))
            judged = [(p, *self._drop(p.solution.choice, n)) for p in alive]
            alive = [p for p, drop, error in judged if drop - 2 * error <= self.max_drop]
            if not alive:
                break
        return result

    def _drop(self, choice: Choice, n_samples: int) -> tuple[float, float]:
        """Points of the metric lost on the first ``n_samples``, with their paired standard error."""
        lost = self.batches.reference(n_samples)[1] - self.batches.up_to(choice, n_samples)[1]
        return 100 * float(lost.mean()), 100 * float(lost.std(ddof=1)) / float(np.sqrt(n_samples))

    def _solution(self, choice: Choice) -> Solution:
        costs = {kind: cost(choice) for kind, cost in self.problem.costs.items()}
        return Solution(choice, self.problem.value(choice), "feasible", 0.0, costs)

    def _moved(self, choice: Choice) -> Proposal:
        return Proposal(self._solution(choice), ("swap",))

    def _candidate(self, found: _Found) -> Candidate:
        solution, n = found.proposal.solution, found.n_samples
        values, _ = self.batches.up_to(solution.choice, n)
        reference, _ = self.batches.reference(n)
        drop, drop_error = self._drop(solution.choice, n)
        run = self.run
        return Candidate(
            assignment={
                g: run.ladder.names[level] for g, level in zip(run.network.group_names, solution.choice, strict=True)
            },
            predicted_value=self.problem.value(solution.choice),
            value=float(values.mean()),
            stderr=float((values - reference).std(ddof=1) / np.sqrt(n)),
            drop_points=drop,
            drop_stderr_points=drop_error,
            latency_ms=solution.costs.get("latency_ms"),
            bitops=solution.costs["bitops"],
            size_mb=solution.costs["size_mb"],
            sources=found.proposal.sources,
            n_samples=n,
        )

    def _choose(self, candidates: list[Candidate]) -> Candidate:
        """The cheapest candidate, or the first (the winner of the race, then the others by value), that keeps the
        largest drop.

        Only what was measured on the largest batch counts. A drop counts with one standard error on top: the search
        part is small, and the promise is about unseen data.
        """
        largest = max(c.n_samples for c in candidates)
        finalists = [c for c in candidates if c.n_samples == largest]
        kept = [
            c for c in finalists if self.max_drop is None or c.drop_points + c.drop_stderr_points <= self.max_drop
        ]
        if not kept:
            least = min(candidates, key=lambda c: c.drop_points + c.drop_stderr_points)
            raise HwsmpqError(
                f"no candidate keeps max_drop {self.max_drop:g} points on the search part",
                f"the least reached is {least.drop_points:.2f} +- {least.drop_stderr_points:.2f} points",
                "raise --max-drop or the other budgets, or add a precision to the ladder",
            )
        if self.cheapest == "latency_ms":
            return min(kept, key=lambda c: c.latency_ms or 0.0)
        if self.cheapest == "bitops":
            return min(kept, key=lambda c: c.bitops)
        return kept[0]


def _stability(run: Run, problem: Problem, contributions: Contributions) -> Stability | None:
    """How often resampled contributions give the same additive plan; None where there are no draws to resample."""
    draws = np.array(contributions.draws)
    if len(draws) < 2:
        return None
    found = _resampled(problem, draws, contributions.seed)
    certainty = dict(zip(run.network.group_names, map(float, found.certainty), strict=True))
    return Stability(found.share, certainty, N_RESAMPLES)


def _resampled(problem: Problem, draws: NDArray[np.float64], seed: int) -> stability.Stability:
    return stability.bootstrap(draws, lambda phi: solve(replace(problem, value=Cost(phi))).choice, N_RESAMPLES, seed)


def _matrix(run: Run, contributions: Contributions) -> NDArray[np.float64]:
    """Phi (n_groups, n_precisions) in the order of network and ladder."""
    phi, names = contributions.phi, run.ladder.names
    return np.array([[phi[group][name] for name in names] for group in run.network.group_names])


def _model_error_ms(table: CostTable) -> float:
    return max(table.fit_error_ms, MIN_MODEL_ERROR * table.uniform_ms[table.ladder[-1]].median_ms)


def _with_margin(problem: Problem, margin_ms: float) -> Problem:
    """The latency limit less the margin, but never below what the other limits allow to reach."""
    limit = problem.limits["latency_ms"]
    others = {kind: value for kind, value in problem.limits.items() if kind != "latency_ms"}
    fastest = solve(replace(problem, limits=others, minimise="latency_ms")).costs["latency_ms"]
    return replace(problem, limits={**problem.limits, "latency_ms": max(limit - margin_ms, min(limit, fastest))})
