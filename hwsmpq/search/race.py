"""Choices measured on nested batches that grow as candidates shrink, and compared by paired differences.

The batch that scored the contributions cannot settle which of several good choices is best: a search that trusts it
improves on that batch and gets worse on others. So candidates must survive samples that did not propose them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hwsmpq.search.problem import Choice, identity

Measure = Callable[[NDArray[np.int64], int], NDArray[np.floating]]
"""(choices (n, n_groups), batch) -> per-sample values (n, n_samples) on the samples that this batch adds."""

Z_WORSE = 2.0
"""Standard errors behind the leader at which a candidate is dropped."""
MAX_CHANCE = 0.05
"""Chance that a neighbour which is no better replaces the leader, of all that are tried together."""
KEPT = 3
"""Each batch is measured for at most one in this many of the candidates before it."""
LEAST_KEPT = 4
N_TOGETHER = 4
"""Choices that are measured together against a standing, which shares work."""


@dataclass(frozen=True, eq=False)
class Standing:
    """A choice and its per-sample values (n_samples,) on the largest batch it was measured on."""

    choice: Choice
    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.values.mean())


class Race:
    """Measures choices batch by batch within an allowance.

    Args:
        measure: gives the values on the samples that a batch adds to the batches before it.
        batch_sizes: samples that every batch adds.
        max_evaluations: allowance, in evaluations of the first batch (others count by their samples).
        max_seconds: allowance of wall time; None for none.
    """

    def __init__(
        self, measure: Measure, batch_sizes: Sequence[int], max_evaluations: float, max_seconds: float | None = None
    ) -> None:
        self._measure, self._sizes = measure, tuple(batch_sizes)
        self._max_evaluations = max_evaluations
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._values: dict[tuple[int, ...], list[NDArray[np.floating]]] = {}
        self.n_evaluations = 0.0
        """Evaluations spent, in evaluations of the first batch."""

    @property
    def measured(self) -> list[Standing]:
        """Every choice that was measured, in order of its first measurement."""
        return [self._standing(np.array(key), len(parts)) for key, parts in self._values.items()]

    def best(self, candidates: Sequence[Choice]) -> list[Standing]:
        """Race candidates against each other; those that reached the last batch affordable, best first.

        The first batch is measured whatever the allowance: without it nothing is known.
        """
        standings = self._on_batch(candidates, 0)
        for batch in range(1, len(self._sizes)):
            leader = standings[0]
            alive = [s for s in standings if s is leader or z_score(s, leader) > -Z_WORSE]
            n = min(len(alive), max(LEAST_KEPT, -(-len(standings) // KEPT)), self._affordable(batch))
            if n == 0:
                break
            standings = self._on_batch([s.choice for s in alive[:n]], batch)
        return standings

    def match(
        self, leader: Standing, choices: Sequence[Choice], serves: Callable[[Choice], bool] = lambda choice: True
    ) -> None:
        """Measure choices in their order, a few at a time and each until it is surely worse than the leader, on as many
        batches as that was. It ends with the first that is not, and ``serves``."""
        n_batches = len(self._values[identity(leader.choice)])
        for start in range(0, len(choices), N_TOGETHER):
            alive = list(choices[start : start + N_TOGETHER])
            for batch in range(n_batches):
                alive = alive[: self._affordable(batch)]
                if not alive:
                    break
                against = self._standing(leader.choice, batch + 1)
                alive = [s.choice for s in self._on_batch(alive, batch) if z_score(s, against) > -Z_WORSE]
            if any(serves(choice) for choice in alive):
                return

    def improve(
        self, leader: Standing, propose: Callable[[Standing, list[Choice]], list[Choice]]
    ) -> Standing:
        """Replace the leader by proposals that beat it by paired evidence, until none does or the allowance is spent.

        Args:
            propose: (leader, choices proposed so far) -> further choices.
        """
        proposed: list[Choice] = []
        last = len(self._sizes) - 1
        while len(leader.values) == sum(self._sizes):
            challengers = propose(leader, proposed)[: self._affordable(0)]
            proposed += challengers
            z_needed = NormalDist().inv_cdf((1 - MAX_CHANCE) ** (1 / max(1, len(challengers))))  # Sidak (1967)
            for batch in range(last + 1):
                if not challengers:
                    return leader
                standings = self._on_batch(challengers, batch)
                ahead = [s for s in standings if z_score(s, self._standing(leader.choice, batch + 1)) > 0]
                if batch < last:
                    n = min(-(-len(challengers) // KEPT), self._affordable(batch + 1))
                    challengers = [s.choice for s in ahead[:n]]
            better = [s for s in ahead if z_score(s, leader) >= z_needed]
            if not better:
                return leader
            leader = better[0]
        return leader

    def _affordable(self, batch: int) -> int:
        """How many choices can still be measured on a batch."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return 0
        return max(0, int((self._max_evaluations - self.n_evaluations) * self._sizes[0] / self._sizes[batch]))

    def _on_batch(self, choices: Sequence[Choice], batch: int) -> list[Standing]:
        """Standings on all batches up to ``batch``, best first; ties go to the earlier choice."""
        keys = [identity(choice) for choice in choices]
        new = [key for key in dict.fromkeys(keys) if len(self._values.get(key, ())) == batch]
        if new:
            for key, row in zip(new, self._measure(np.array(new), batch), strict=True):
                self._values.setdefault(key, []).append(row)
            self.n_evaluations += len(new) * self._sizes[batch] / self._sizes[0]
        standings = [self._standing(np.array(key), batch + 1) for key in dict.fromkeys(keys)]
        return sorted(standings, key=lambda s: -s.mean)

    def _standing(self, choice: Choice, n_batches: int) -> Standing:
        parts = self._values[identity(choice)][:n_batches]
        return Standing(choice.astype(np.int64), np.concatenate(parts).astype(np.float64))


def z_score(one: Standing, other: Standing) -> float:
    """Paired difference of two standings on the same samples over its standard error; positive where ``one`` is
    better, 0 where they do not differ at all."""
    difference = one.values - other.values
    mean, spread = float(difference.mean()), float(difference.std(ddof=1))
    if spread == 0:
        return 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    return mean / spread * float(np.sqrt(len(difference)))
