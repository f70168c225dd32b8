"""Latency as what decides between choices of equal value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwsmpq.hardware.cost_model import CostModel
from hwsmpq.pipeline.decide.costs import assignment_of, choices_of
from hwsmpq.search.losses import cheapest_at_losses
from hwsmpq.search.paired import paired_stderr
from hwsmpq.search.pool import uniform_choices
from hwsmpq.search.preferred import preferred
from hwsmpq.search.problem import Choice, Problem, identity
from hwsmpq.search.race import Standing
from hwsmpq.types import Forgone, Ladder, Network

KIND = "latency_ms"


@dataclass(frozen=True, eq=False)
class Speed:
    """What choices take on the target of a cost model, and how surely."""

    network: Network
    ladder: Ladder
    model: CostModel

    @cached_property
    def measured_ms(self) -> dict[tuple[int, ...], float]:
        """What was measured last, by identity of choice."""
        assignments, times = zip(*self.model.measured_ms(), strict=True)
        choices = choices_of(self.network, self.ladder, assignments)
        return {identity(choice): ms for choice, ms in zip(choices, times, strict=True) if choice is not None}

    def surely_ms(self, choice: Choice) -> float:
        """What was measured, or else predicted with the model's error on top: a promise buys no less than an engine."""
        known = self.measured_ms.get(identity(choice))
        predicted = self.model.predict(assignment_of(self.network, self.ladder, choice))
        return predicted + self.model.error_ms if known is None else known

    def faster(self, problem: Problem, than: Choice, known: Iterable[Choice]) -> list[Choice]:
        """Choices within the limits that are faster than one, the fastest first: of those known, one precision
        everywhere, and the fastest at several predicted losses of value. Where no mixture has shown what switches cost,
        mixtures only seem fast, and are left out."""
        found = [*uniform_choices(problem), *known]
        if self.model.n_checks:
            found += [solution.choice for solution in cheapest_at_losses(problem, KIND)]
        most = self.surely_ms(than) - self.model.resolution_ms
        times = {identity(choice): self.surely_ms(choice) for choice in found
                 if problem.keeps_limits(choice) and self._is_known(choice)}
        return [np.array(key) for key in sorted(times, key=lambda key: times[key]) if times[key] < most]

    def preferred(self, standings: Sequence[Standing], fastest_first: bool) -> int:
        """The place of the choice to take; see :func:`hwsmpq.search.preferred.preferred`. Time tells apart what differs
        by more than the model resolves; the fewer precisions and switches, the simpler."""
        kept = [i for i, s in enumerate(standings) if i == 0 or fastest_first or self._is_known(s.choice)]
        assignments = [assignment_of(self.network, self.ladder, standings[i].choice) for i in kept]
        return kept[preferred(
            [standings[i] for i in kept], np.array([self.surely_ms(standings[i].choice) for i in kept]),
            self.model.resolution_ms,
            [(len(set(one.values())), len(self.network.switches(one))) for one in assignments], fastest_first,
        )]

    def forgone(self, first: Standing, taken: Standing) -> Forgone | None:
        """What the first promised beside the one that was taken for its speed; None where it promised nothing more."""
        more = first.values - taken.values
        if more.mean() <= 0:
            return None
        predicted = self.model.predict(assignment_of(self.network, self.ladder, first.choice))
        return Forgone(predicted, float(more.mean()), paired_stderr(more))

    def _is_known(self, choice: Choice) -> bool:
        return self.model.n_checks > 0 or identity(choice) in self.measured_ms
