"""What is solved, and what a solution is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError
from hwsmpq.search.allowed import Allowed, Mask
from hwsmpq.types import Budget, Cost, with_slack

Choice = NDArray[np.int64]
"""A column index for every group, (n_groups,)."""


def identity(choice: Choice) -> tuple[int, ...]:
    """What equal choices (n_groups,) share, to look them up by."""
    return tuple(choice.tolist())


@dataclass(frozen=True, eq=False)
class Problem:
    """Largest ``value`` with ``costs[k] <= limits[k]`` for every limit; or, where ``minimise`` names a cost, the
    least of that cost under the limits.

    Costs without a limit are only reported. A largest predicted drop is a cost like any other. ``allowed``
    says which choices there are; all by default. ``missed`` are choices (see :func:`identity`) that break a limit by
    what was measured of them, whatever the costs say. ``budgets`` are what limits were asked for as, for messages.

    Raises:
        HwsmpqError: a limit or ``minimise`` names no cost, or a table has entries that are not finite.
        ValueError: tables of different shapes.
    """

    value: Cost
    costs: Mapping[str, Cost]
    limits: Mapping[str, float]
    minimise: str | None = None
    allowed: Allowed | None = None
    missed: frozenset[tuple[int, ...]] = frozenset()
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in (*self.limits, *filter(None, [self.minimise])):
            if kind not in self.costs:
                raise HwsmpqError(
                    f"no {kind} cost to search with", "the cost table of this target does not have it",
                    f"drop the {kind} budget, or choose a target that measures it",
                )
        n, n_levels = self.value.unary.shape
        if self.allowed is not None and self.allowed.offered.shape != (n, n_levels):
            raise ValueError(f"allowed choices do not fit {n} groups at {n_levels} precisions")
        for name, cost in {"value": self.value, **self.costs}.items():
            tables = [table for _, _, table in cost.pairs]
            if cost.unary.shape != (n, n_levels) or any(table.shape != (n_levels, n_levels) for table in tables):
                raise ValueError(f"{name}: tables do not fit {n} groups at {n_levels} precisions")
            if not all(np.isfinite(part).all() for part in (cost.unary, np.array(cost.constant), *tables)):
                raise HwsmpqError(
                    f"the {name} table has entries that are not finite", "a measurement is missing or failed",
                    "run the stage that writes it again",
                )

    @cached_property
    def permitted(self) -> Allowed:
        """Which choices there are."""
        return self.allowed or Allowed(np.ones(self.value.unary.shape, dtype=bool))

    @property
    def choices(self) -> Mask:
        """Levels that each group may take, (n_groups, n_precisions)."""
        return self.permitted.mask

    @cached_property
    def joined(self) -> Problem:
        """The same with one group for every set of groups that take one level."""
        allowed = self.permitted
        missed = (np.array(choice) for choice in self.missed)
        return Problem(
            allowed.join_cost(self.value), {kind: allowed.join_cost(cost) for kind, cost in self.costs.items()},
            self.limits, self.minimise, allowed.joined(),
            frozenset(identity(allowed.join(choice)) for choice in missed if allowed.permits(choice)),
        )

    @property
    def objective(self) -> Cost:
        """The table whose sum is optimised."""
        return self.value if self.minimise is None else self.costs[self.minimise]

    def keeps_limits(self, choice: NDArray[np.int64]) -> bool:
        """Whether a choice (n_groups,) is permitted and keeps every limit."""
        if identity(choice) in self.missed or not self.permitted.permits(choice):
            return False
        return all(self.costs[kind](choice) <= with_slack(limit) for kind, limit in self.limits.items())


@dataclass(frozen=True, eq=False)
class Solution:
    """A choice (n_groups,) of column indices, its value (or minimised cost), and all of its costs.

    ``gap`` is the relative distance from the proven bound; 0 up to the solver's tolerance when ``optimal``.
    """

    choice: NDArray[np.int64]
    objective: float
    status: Literal["optimal", "feasible"]
    gap: float
    costs: dict[str, float]
