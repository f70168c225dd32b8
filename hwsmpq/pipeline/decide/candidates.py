"""From tables to candidates that were truly measured: by a race for value, or by a screening for cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwsmpq.pipeline.decide.costs import assignment_of
from hwsmpq.pipeline.decide.speed import Speed
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.losses import cheapest_at_losses
from hwsmpq.search.milp import solve
from hwsmpq.search.moves import neighbours
from hwsmpq.search.paired import Drop, paired_stderr
from hwsmpq.search.pool import Proposal, merge, pool, uniform_choices, unsolved
from hwsmpq.search.preferred import surely_worse
from hwsmpq.search.problem import Choice, Problem, Solution, identity
from hwsmpq.search.race import Race, Standing
from hwsmpq.search.surrogate import fit_surrogate
from hwsmpq.types import Bound, Budget, Candidate, Cost, Settings

N_NEIGHBOURS = 24
"""Swaps and shifts of the leader that are tried together."""
PAIRS_PER_GROUP = 2
"""Pairs of the surrogate that the solver is given, for every group."""
N_TOGETHER = 4
"""Candidates that are screened for cost together."""
Z_HOPELESS = 2.0
"""Standard errors beyond the largest drop at which a candidate is measured no further."""


@dataclass(frozen=True)
class LargestDrop:
    """A largest drop, held against samples of the search part.

    A drop counts with one standard error on top: the search part is small, and the promise is about unseen data. Where
    a confidence is asked for, the bound of the drop counts.
    """

    budget: Budget
    by_bound: bool = False

    def keeps(self, drop: Drop) -> bool:
        return self.budget.met(drop.bound if self.by_bound else drop.points + drop.stderr)

    def is_hopeless(self, drop: Drop) -> bool:
        """Whether more samples will hardly show that the drop is kept."""
        return not self.budget.met(drop.points - Z_HOPELESS * drop.stderr)

    def on(self, batches: NestedBatches) -> Demand:
        """The same of choices."""

        def passes(choice: Choice, n_samples: int, is_whole: bool) -> bool:
            drop = batches.drop(choice, n_samples)
            return self.keeps(drop) if is_whole else not self.is_hopeless(drop)

        return passes


Demand = Callable[[Choice, int, bool], bool]
"""Whether a choice passes on the first samples of the search part: (choice, number of these, whether these are all of
them). Before it is all of them, what may still pass does."""


def worth_as_much(than: Choice, batches: NestedBatches) -> Demand:
    """That another choice is not surely worth more."""

    def passes(choice: Choice, n_samples: int, is_whole: bool) -> bool:
        one, other = (Standing(c, batches.up_to(c, n_samples)[0]) for c in (choice, than))
        return not surely_worse(one, other)

    return passes


@dataclass(frozen=True, eq=False)
class Measured:
    """A proposal, and how many samples of the search part it was measured on."""

    proposal: Proposal
    n_samples: int


def race_for_value(
    problem: Problem, values: Mapping[str, Cost], known: Sequence[tuple[str, Solution]],
    observed: tuple[NDArray[np.int64], NDArray[np.float64]], batches: NestedBatches, settings: Settings,
    max_seconds: float | None = None, speed: Speed | None = None, largest: LargestDrop | None = None,
) -> tuple[list[Measured], float]:
    """Race the best solutions of all tables and of a surrogate, hold what is faster against the winner, and improve
    this by its neighbours.

    Args:
        problem: the budgets, with the contributions as its value.
        values: tables by name.
        known: solutions that race beside theirs, and what proposed them.
        observed: assignments and their values on the first batch, which the surrogate is fitted on.
        max_seconds: that the race may take.
        speed: what says what is faster; nothing is where there is none.
        largest: drop that what is faster has to keep to be of use.

    Returns:
        All candidates, the winner first, then by samples and value; and the evaluations spent, in first batches.
    """
    model = surrogate(problem, *observed)
    proposals = pool(
        problem, values if model is None else {**values, "surrogate": model}, settings.n_candidates, known
    )
    race = Race(batches.values, batches.sizes, settings.search_evaluations, max_seconds)
    standings = race.best([p.solution.choice for p in proposals])

    def propose(leader: Standing, proposed: list[Choice]) -> list[Choice]:
        # What the race measured lies near the budget, where walks seldom are: the model learns from it.
        measured = race.measured
        guide = surrogate(
            problem,
            np.vstack([observed[0], [s.choice for s in measured]]),
            np.concatenate([observed[1], [s.values[: batches.sizes[0]].mean() for s in measured]]),
        )
        guided = problem if guide is None else replace(problem, value=guide)
        return neighbours(guided, leader.choice, N_NEIGHBOURS, [*(s.choice for s in measured), *proposed])

    if speed:
        end = len(standings[0].values)
        faster = speed.faster(problem, standings[0].choice, [p.solution.choice for p in proposals])
        race.match(standings[0], faster, lambda choice: largest is None or largest.keeps(batches.drop(choice, end)))
        proposals = merge([
            *((name, p.solution) for p in proposals for name in p.sources),
            *(("faster", unsolved(problem, choice)) for choice in faster),
        ])
    winner = race.improve(standings[0], propose)
    others = [s for s in race.measured if not np.array_equal(s.choice, winner.choice)]
    ranked = [winner, *sorted(others, key=lambda s: (-len(s.values), -s.mean))]
    by_choice = {identity(p.solution.choice): p for p in proposals}
    candidates = [
        Measured(by_choice.get(identity(s.choice)) or Proposal(unsolved(problem, s.choice), ("swap",)), len(s.values))
        for s in ranked
    ]
    return candidates, race.n_evaluations


def cheapest_of_all(problem: Problem, cheapest: str, resolution: float = 0.0) -> Solution:
    """The cheapest assignment within the limits; one precision everywhere, where that costs no more than ``resolution``
    besides."""
    solution = solve(replace(problem, minimise=cheapest))
    uniform = [unsolved(problem, choice) for choice in uniform_choices(problem) if problem.keeps_limits(choice)]
    simplest = min(uniform, key=lambda one: one.costs[cheapest], default=solution)
    if simplest.costs[cheapest] > solution.costs[cheapest] + resolution:
        return solution
    return solution if np.array_equal(simplest.choice, solution.choice) else simplest


def first_that_passes(
    solutions: Sequence[Solution], demands: Sequence[Demand], batches: NestedBatches
) -> tuple[list[Measured], float] | None:
    """The first of some solutions that passes all demands, and the evaluations spent, in first batches; None where none
    does. No contributions are needed for it, nor any other assignment behind it."""
    n_evaluations = 0.0
    for proposal in (Proposal(solution, ("cheapest",)) for solution in solutions):
        n_samples, n_spent, kept = _screen([proposal], demands, batches)
        n_evaluations += n_spent
        if kept:
            return [Measured(proposal, n_samples[proposal])], n_evaluations
    return None


def screen_for_cost(
    problem: Problem, values: Mapping[str, Cost], known: Sequence[tuple[str, Solution]], cheapest: str,
    largest: LargestDrop, batches: NestedBatches,
) -> tuple[list[Measured], float]:
    """The cheapest solutions at several predicted losses under every table, and known ones, measured on growing
    batches, the cheapest first and until one keeps the largest drop.

    Returns:
        The measured candidates, and the evaluations spent, in first batches.
    """
    found = [
        (name, solution)
        for name, value in values.items()
        for solution in cheapest_at_losses(replace(problem, value=value), cheapest)
    ]
    uniform = [problem.permitted.nearest(level) for level in range(problem.choices.shape[1])]
    found += [("uniform", unsolved(problem, choice)) for choice in uniform if problem.keeps_limits(choice)]
    proposals = sorted(merge([*found, *known]), key=lambda p: p.solution.costs[cheapest])
    n_samples: dict[Proposal, int] = {}
    n_evaluations = 0.0
    for start in range(0, len(proposals), N_TOGETHER):
        screened, n_spent, kept = _screen(proposals[start : start + N_TOGETHER], [largest.on(batches)], batches)
        n_samples |= screened
        n_evaluations += n_spent
        if kept:
            break
    return [Measured(proposal, n) for proposal, n in n_samples.items()], n_evaluations


def _screen(
    proposals: Sequence[Proposal], demands: Sequence[Demand], batches: NestedBatches
) -> tuple[dict[Proposal, int], float, bool]:
    """Measure proposals together, which shares work, batch by batch; what surely does not pass is measured no further.

    Returns:
        Samples that each was measured on, the evaluations spent, and whether one passes all demands.
    """
    n_samples: dict[Proposal, int] = {}
    n_evaluations, alive, whole = 0.0, list(proposals), sum(batches.sizes)
    for batch, end in enumerate(np.cumsum(batches.sizes).tolist()):
        if not alive:
            break
        batches.values(np.array([p.solution.choice for p in alive]), batch)
        n_samples |= dict.fromkeys(alive, end)
        n_evaluations += len(alive) * batches.sizes[batch] / batches.sizes[0]
        alive = [p for p in alive if all(passes(p.solution.choice, end, end == whole) for passes in demands)]
    return n_samples, n_evaluations, bool(alive)


def surrogate(problem: Problem, levels: NDArray[np.int64], values: NDArray[np.float64]) -> Cost | None:
    """The second-order model of evaluated choices (n, n_groups) and their values (n,), in order of request; None where
    it predicts no better than the value of the problem."""
    if not len(levels):  # an estimator that keeps no draws leaves nothing to learn from
        return None
    # A walk changes one group from row to row; where more change, another begins.
    walks = np.cumsum(np.r_[True, (np.diff(levels, axis=0) != 0).sum(1) > 1][: len(levels)])
    table = problem.value.unary
    return fit_surrogate(levels.astype(np.int64), values, walks, table, PAIRS_PER_GROUP * len(table))


def as_candidate(prepared: Prepared, value: Cost | None, batches: NestedBatches, one: Measured) -> Candidate:
    """What was measured of a proposal, what ``value`` predicts of it, and what it costs."""
    run = prepared.run
    solution, n = one.proposal.solution, one.n_samples
    values, reference_values = batches.up_to(solution.choice, n)[0], batches.reference(n)[0]
    drop = batches.drop(solution.choice, n)
    return Candidate(
        assignment=assignment_of(prepared.network, run.ladder, solution.choice),
        predicted_value=None if value is None else value(solution.choice),
        value=float(values.mean()),
        stderr=paired_stderr(values - reference_values),
        drop_points=drop.points,
        drop_stderr_points=drop.stderr,
        drop_bound=Bound(drop.bound, run.settings.drop_confidence),
        latency_ms=solution.costs.get("latency_ms"),
        bitops=solution.costs["bitops"],
        size_mb=solution.costs["size_mb"],
        sources=one.proposal.sources,
        n_samples=n,
    )
