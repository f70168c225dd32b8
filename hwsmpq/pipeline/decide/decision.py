"""One decision: budgets and costs into a plan, chosen by races on samples that did not propose it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.hardware.cost_model import MIN_CHECKS, CostModel
from hwsmpq.pipeline.decide.aim import stability_of, value_tables, valued
from hwsmpq.pipeline.decide.candidates import (
    LargestDrop,
    Measured,
    as_candidate,
    cheapest_of_all,
    first_that_passes,
    race_for_value,
    screen_for_cost,
    worth_as_much,
)
from hwsmpq.pipeline.decide.choices import blaming_exclusion, held, problem_of
from hwsmpq.pipeline.decide.costs import assignment_of, choices_of
from hwsmpq.pipeline.decide.interactions import record_interactions
from hwsmpq.pipeline.decide.margins import with_margin, within_memory
from hwsmpq.pipeline.decide.speed import Speed
from hwsmpq.pipeline.evaluate.contribute import observed, table_of
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.milp import solve
from hwsmpq.search.paired import Drop
from hwsmpq.search.pool import merge, uniform_choices, unsolved
from hwsmpq.search.problem import Problem, Solution, identity
from hwsmpq.search.race import Standing
from hwsmpq.types import Assignment, Budget, Contributions, Cost, Forgone, Plan, with_slack

RACING = 0.8
"""Share of what is left of a budget of time after which a race measures nothing more: the engine is still to be built
and verified."""


@dataclass(frozen=True)
class Asked:
    """What a plan is sought for.

    Args:
        n_margins: errors of the cost model that plans are predicted below the latency budget; with infinitely many the
            fastest is taken of what keeps the other budgets.
        met: assignments that were measured to keep the budgets.
    """

    budgets: tuple[Budget, ...]
    n_margins: float = 0.0
    met: tuple[Assignment, ...] = ()

    @property
    def limits(self) -> dict[str, float]:
        return {str(budget.kind): budget.limit for budget in self.budgets}


class Decision:
    """One decision: the problem, its measurements and the choice.

    Args:
        model: of latency, where it is known.
        costs: of every choice.
        most_ms: latency limit that holds beside the budgets.

    Raises:
        HwsmpqError: no assignment can keep the budgets.
    """

    def __init__(
        self, prepared: Prepared, asked: Asked, model: CostModel | None, costs: dict[str, Cost],
        most_ms: float = math.inf,
    ) -> None:
        run, budgets = prepared.run, asked.budgets
        self.within = partial(Decision, prepared, asked, model, costs)
        self._prepared, self._run, self._budgets, self._model = prepared, run, budgets, model
        self.costs = costs
        by_bound = run.settings.confidence is not None
        self._largest = next((LargestDrop(b, by_bound) for b in budgets if b.kind == "max_drop"), None)
        limits = {kind: limit for kind, limit in asked.limits.items() if kind != "max_drop"}
        if "latency_ms" in limits:
            limits["latency_ms"] = min(limits["latency_ms"], most_ms)
        self._problem = replace(problem_of(prepared, costs, limits), budgets={b.kind: b for b in budgets})
        if self._problem.limits:
            try:
                solve(self._problem)
            except InfeasibleError as error:
                raise blaming_exclusion(prepared, limits, error) from error
        most = limits.get("latency_ms")
        if model is not None and most is not None:
            over = [assignment for assignment, ms in model.measured_ms() if ms > with_slack(most)]
            choices = choices_of(prepared.network, run.ladder, over)
            self._problem = replace(self._problem, missed=frozenset(identity(c) for c in choices if c is not None))
            margin = asked.n_margins * model.error_ms
            if run.settings.confidence is not None:
                margin += model.margin_ms(run.settings.confidence)
            self._problem = with_margin(self._problem, "latency_ms", margin)
        if "peak_mb" in limits:
            self._problem = within_memory(self._problem, prepared)
        known = [choice for choice in choices_of(prepared.network, run.ladder, asked.met) if choice is not None]
        self._met = [
            choice for choice in known
            if identity(choice) not in self._problem.missed and self._problem.permitted.permits(choice)
        ]
        self._is_last = math.isinf(asked.n_margins)
        self._speed = Speed(prepared.network, run.ladder, model) if model else None
        self._cheapest = None
        if self._largest is not None and most is None:
            self._cheapest = "latency_ms" if model else "bitops"

    @property
    def minimises_latency(self) -> bool:
        return self._cheapest == "latency_ms"

    @cached_property
    def _batches(self) -> NestedBatches:
        """Made only where something is evaluated: it hashes the whole search part."""
        return NestedBatches(self._prepared)

    @cached_property
    def _on_engines(self) -> NestedBatches:
        """The same for what :meth:`cheapest_of_all` compares, which is built or will be: never compared with what is
        simulated."""
        return NestedBatches(self._prepared.on_engines())

    @property
    def enough(self) -> str:
        """What is found of a plan that :meth:`cheapest_of_all` gives."""
        if self._cheapest:
            return "the cheapest plan of all keeps --max-drop on the search part"
        return "the search part does not show that anything is worth more than the fastest plan of all"

    @cached_property
    def in_doubt(self) -> Assignment | None:
        """The mixture that seems to be the cheapest of all by latency, as long as few have checked that and it was not
        measured itself. Switches only add to a cost: where one precision everywhere is the cheapest without them, it
        is so with them."""
        model = self._model
        if model is None or model.n_checks >= MIN_CHECKS or self._least != "latency_ms" or self._known_to_keep:
            return None
        choice = self._cheapest_solution.choice
        uniform = [one for one in uniform_choices(self._problem) if self._problem.keeps_limits(one)]
        if not uniform or any(np.array_equal(choice, one) for one in uniform):
            return None
        assignment = assignment_of(self._prepared.network, self._run.ladder, choice)
        return None if any(assignment == known for known, _ in model.measured_ms()) else assignment

    def cheapest_of_all(self) -> tuple[list[Measured], float] | None:
        """The cheapest assignment, if it keeps the largest drop where the least cost is sought, or else if it is worth
        as much as the ladder's top; and the evaluations. The last time it is one of those that were measured, if any
        was measured to keep the budgets. The mode of the paper has no use for it, unless a drop is held."""
        if self._least is None or (self.in_doubt and self._model and not self._model.n_checks):
            return None
        demands = [] if self._largest is None else [self._largest.on(self._on_engines)]
        if not self._cheapest:
            # No mixture loses less than the top: only by chance would one be surely worth more where the top is not.
            top = self._problem.permitted.nearest(len(self._run.ladder.names) - 1)
            demands.append(worth_as_much(top, self._on_engines))
        solutions = self._known_to_keep or [self._cheapest_solution]
        return first_that_passes(solutions, demands, self._on_engines)

    @property
    def _least(self) -> str | None:
        """The cost whose least is looked at first."""
        return self._cheapest or ("latency_ms" if self._speed and not self._run.settings.additive else None)

    @cached_property
    def _cheapest_solution(self) -> Solution:
        assert self._least is not None
        resolution = self._model.resolution_ms if self._model and self._least == "latency_ms" else 0.0
        return cheapest_of_all(self._problem, self._least, resolution)

    @cached_property
    def _known_to_keep(self) -> list[Solution]:
        """The last time, what was measured, if any of it was measured to keep the budgets."""
        return self._as_measured(self._least) if self._least and self._is_last and self._met else []

    def _as_measured(self, cheapest: str) -> list[Solution]:
        """What was measured to keep the budgets, and one precision everywhere: the cheapest first, by latencies as they
        were measured last."""
        uniform = [choice for choice in uniform_choices(self._problem) if self._problem.keeps_limits(choice)]
        known = {identity(choice): unsolved(self._problem, choice) for choice in (*self._met, *uniform)}
        ms = self._speed.measured_ms if self._speed and cheapest == "latency_ms" else {}
        costs = {key: ms.get(key, solution.costs[cheapest]) for key, solution in known.items()}
        return [known[key] for key in sorted(known, key=lambda key: costs[key])]

    def best(self, contributions: Contributions) -> Plan:
        """The plan that contributions lead to."""
        table = table_of(self._prepared, contributions)
        problem = valued(self._problem, table, contributions.floor_value)
        measured, n_evaluations = self._measured(problem, contributions)
        plan = self._plan(measured, n_evaluations, self._batches, problem.value)
        return plan if self._cheapest else replace(plan, stability=stability_of(self._prepared, problem, contributions))

    def simplest(self, measured: Sequence[Measured], n_evaluations: float) -> Plan:
        """The plan of what :meth:`cheapest_of_all` gave."""
        return self._plan(measured, n_evaluations, self._on_engines)

    def _plan(
        self, measured: Sequence[Measured], n_evaluations: float, batches: NestedBatches, value: Cost | None = None
    ) -> Plan:
        """The plan that is chosen of measured candidates.

        Args:
            batches: that they were measured on.
            value: what predicts their value; None where nothing does.
        """
        run = self._run
        candidates = [as_candidate(self._prepared, value, batches, one) for one in measured]
        place, forgone = self._choose(measured, batches)
        chosen, solution = candidates[place], measured[place].proposal.solution
        return Plan(
            assignment=chosen.assignment,
            budgets=self._budgets,
            objective="latency" if self._cheapest else "value",
            status=solution.status,
            gap=solution.gap,
            predicted_value=chosen.predicted_value,
            predicted_drop_points=chosen.drop_points,
            drop_bound=chosen.drop_bound,
            predicted_latency_ms=chosen.latency_ms,
            bitops=chosen.bitops,
            size_mb=chosen.size_mb,
            predicted_peak_mb=solution.costs.get("peak_mb"),
            candidates=tuple(candidates),
            ladder=run.ladder.names,
            model_sha256=run.network.model_sha256,
            seed=run.settings.seed,
            n_evaluations=n_evaluations,
            held=held(run.network, run.constraints),
            n_search_samples=len(run.parts[0]),
            n_report_samples=len(run.parts[1]),
            forgone=forgone,
        )

    def _measured(self, problem: Problem, contributions: Contributions) -> tuple[list[Measured], float]:
        """Candidates in order of preference, and the evaluations of the race."""
        run = self._run
        met = [("measured", unsolved(problem, c)) for c in self._met if problem.permitted.permits(c)]
        if run.settings.additive and not self._cheapest:
            proposals = merge([(contributions.estimator, solve(problem)), *met])
            best_first = sorted(proposals, key=lambda p: -problem.value(p.solution.choice))
            return [Measured(best_first[0], sum(self._batches.sizes))], 0.0
        additive = {contributions.estimator: problem.value}
        values = additive if run.settings.additive else value_tables(self._prepared, contributions)
        if self._cheapest:
            assert self._largest is not None
            return screen_for_cost(problem, values, met, self._cheapest, self._largest, self._batches)
        evaluated = observed(self._prepared, contributions)
        record_interactions(self._prepared, problem, contributions, *evaluated)
        seconds = None if run.settings.minutes is None else RACING * max(run.seconds_left, 0.0)
        return race_for_value(
            problem, values, met, evaluated, self._batches, run.settings, seconds, self._speed, self._largest
        )

    def _choose(self, measured: Sequence[Measured], batches: NestedBatches) -> tuple[int, Forgone | None]:
        """The place of the candidate to take, of those that keep the largest drop, and what a slower one promised.

        Where latency is known, it decides between candidates that are worth the same as far as samples tell, and value
        between those that are as fast. Elsewhere it is the first (the winner of the race, then the others by value), or
        the one of fewest BitOps. Only what was measured on the largest batch counts.
        """
        n_samples = max(one.n_samples for one in measured)
        choices = [one.proposal.solution.choice for one in measured]
        whole = [i for i, one in enumerate(measured) if one.n_samples == n_samples]
        drops = [batches.drop(choices[i], n_samples) for i in whole]
        kept = [i for i, drop in zip(whole, drops, strict=True) if self._largest is None or self._largest.keeps(drop)]
        if not kept:
            raise self._no_drop_kept(drops)
        if self._cheapest == "bitops":
            return min(kept, key=lambda i: measured[i].proposal.solution.costs["bitops"]), None
        if self._speed is None:
            return kept[0], None
        standings = [Standing(choices[i], batches.up_to(choices[i], n_samples)[0]) for i in kept]
        if self._cheapest:
            return kept[self._speed.preferred(standings, fastest_first=True)], None
        place = self._speed.preferred(standings, fastest_first=False)
        return kept[place], self._speed.forgone(standings[0], standings[place])

    def _no_drop_kept(self, drops: Sequence[Drop]) -> HwsmpqError:
        assert self._largest is not None
        what = f"no candidate keeps max_drop {self._largest.budget.limit:g} points on the search part"
        if not self._largest.by_bound:
            least = min(drops, key=lambda drop: drop.points + drop.stderr)
            return HwsmpqError(
                what, f"the least reached is {least.points:.2f} +- {least.stderr:.2f} points",
                "raise --max-drop or the other budgets, or add a precision to the ladder",
            )
        least = min(drops, key=lambda drop: drop.bound)
        return HwsmpqError(
            f"{what} with {self._run.settings.drop_confidence:.0%} confidence",
            f"the least reached is {least.points:.2f} points, at most {least.bound:.2f} with that confidence",
            "give more evaluation samples, raise --max-drop or the other budgets, or leave out --confidence",
        )
