"""What is solved, and the plan that is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsmpq.types.budget import Bound, Budget
from hwsmpq.types.constraints import Held
from hwsmpq.types.measured import Drawn
from hwsmpq.types.precision import Assignment


@dataclass(frozen=True, eq=False)
class Cost:
    """A cost the solver adds up: constant + sum_g unary[g, x_g] + sum over pairs (i, j) of table[x_i, x_j].

    ``unary`` is float64 (n_groups, n_precisions); each pair table is (n_precisions, n_precisions).
    Rows follow ``Network.group_names``, columns follow ``Ladder.names``.
    """

    unary: NDArray[np.float64]
    pairs: tuple[tuple[int, int, NDArray[np.float64]], ...] = ()
    constant: float = 0.0

    def __call__(self, choice: NDArray[np.int64]) -> float:
        """Cost of one assignment given as a column index per group."""
        total = self.constant + float(self.unary[np.arange(len(choice)), choice].sum())
        return total + sum(float(table[choice[i], choice[j]]) for i, j, table in self.pairs)


@dataclass(frozen=True)
class Stability:
    """How much of a plan hangs on the sampling of the contributions.

    ``share`` is how often as many fresh draws would give the same plan from the contributions alone, of ``n_resamples``
    that were simulated by the spread of the draws; ``certainty`` how often they give a group the same precision.
    ``drawn`` is what a draw of theirs is.
    """

    share: float
    certainty: dict[str, float]
    n_resamples: int
    drawn: Drawn | None = None


@dataclass(frozen=True)
class Candidate:
    """One assignment of the pool that was truly evaluated, on ``n_samples`` of the search part.

    ``sources`` names the tables (or moves) that proposed it. Standard errors are those of the paired differences from
    the reference, ``drop_bound`` is what the drop lies below on unseen samples. ``predicted_value`` is that of the
    contributions; None where none were estimated.
    """

    assignment: Assignment
    predicted_value: float | None
    value: float
    stderr: float
    drop_points: float
    drop_stderr_points: float
    latency_ms: float | None
    bitops: float
    size_mb: float
    sources: tuple[str, ...] = ()
    n_samples: int = 0
    drop_bound: Bound | None = None


@dataclass(frozen=True)
class Forgone:
    """What a slower candidate promised beside the plan: its predicted latency, and how much more of the value, with the
    standard error of the paired difference on the search part, which does not tell it from nothing."""

    latency_ms: float
    value: float
    stderr: float


@dataclass(frozen=True)
class Plan:
    """A solved assignment with predictions, the solver's status and gap, and the pool it was chosen from.

    ``n_evaluations`` is what the race spent, in evaluations of the score batch. ``drop_bound`` is what the drop lies
    below on unseen samples, by those of the search part. ``held`` is what the user held it to, besides the budgets.
    ``n_search_samples`` and ``n_report_samples`` are those of the two parts (0 where an earlier version did not say).
    Memory is predicted where the cost table has measured it. ``forgone`` is what was not worth its time, if anything.
    """

    assignment: Assignment
    budgets: tuple[Budget, ...]
    objective: Literal["value", "latency"]
    status: Literal["optimal", "feasible"]
    gap: float
    predicted_value: float | None
    predicted_drop_points: float
    predicted_latency_ms: float | None
    bitops: float
    size_mb: float
    candidates: tuple[Candidate, ...]
    ladder: tuple[str, ...]
    model_sha256: str
    seed: int
    stability: Stability | None = None
    n_evaluations: float = 0.0
    drop_bound: Bound | None = None
    held: tuple[Held, ...] = ()
    n_search_samples: int = 0
    n_report_samples: int = 0
    predicted_peak_mb: float | None = None
    forgone: Forgone | None = None

    @property
    def speedup(self) -> float | None:
        """What was asked for as one, if anything was."""
        return next((budget.speedup for budget in self.budgets if budget.speedup is not None), None)
