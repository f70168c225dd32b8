"""What the page shows, as plain frozen rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from hwsmpq.report.verdict import Verdict
from hwsmpq.types import (
    Agreement,
    Assignment,
    Drawn,
    EngineResult,
    Interactions,
    Ladder,
    LayerAudit,
    Network,
    Stability,
)

CostKind = Literal["latency_ms", "bitops", "size_mb"]
CostSource = Literal["measured", "predicted", "counted"]
PointKind = Literal["reference", "uniform", "built", "compared", "chosen", "candidate"]
"""All but candidates were measured on the report part, where the run measures latency."""
TimingKind = Literal["uniform", "mixture", "round", "front"]


@dataclass(frozen=True)
class BudgetRow:
    label: str
    limit: str
    predicted: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Point:
    """One assignment: ``x`` in the unit of the cost, ``y`` in points of the metric against the reference."""

    kind: PointKind
    label: str
    x: float
    y: float
    x_source: CostSource
    x_spread: float | None = None
    y_stderr: float | None = None
    assignment: Assignment | None = None


@dataclass(frozen=True)
class Tradeoff:
    cost: CostKind
    points: tuple[Point, ...]
    x_limit: float | None
    y_limit: float | None


@dataclass(frozen=True)
class Timing:
    """Predicted against measured latency of one built engine."""

    kind: TimingKind
    label: str
    predicted_ms: float
    measured_ms: float
    spread_ms: float | None
    assignment: Assignment

    @property
    def relative_error(self) -> float:
        return (self.predicted_ms - self.measured_ms) / self.measured_ms


@dataclass(frozen=True)
class TimingSummary:
    kind: TimingKind
    n_engines: int
    median_error: float
    worst_error: float


@dataclass(frozen=True)
class RoundRow:
    number: int
    predicted_ms: float | None
    measured_ms: float | None
    met: bool


@dataclass(frozen=True)
class Fallback:
    """A precision that the target has not for a group, and what it runs instead."""

    group: str
    asked: str
    runs: str


@dataclass(frozen=True)
class GroupRow:
    """One group: its chosen precision, precision -> (phi, standard error) beside the base, and how often fresh
    contributions would give it the same precision."""

    name: str
    layers: tuple[str, ...]
    n_macs: int
    precision: str | None
    phi: dict[str, tuple[float, float | None]]
    certainty: float | None = None


@dataclass(frozen=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True)
class Source:
    """An artifact the page was made from."""

    file: str
    sha256: str
    created_utc: str
    version: str


def in_order(precisions: Iterable[str]) -> tuple[str, ...]:
    """Cheapest first, as in a ladder."""
    distinct = sorted(set(precisions))
    return Ladder.parse(",".join(distinct)).names if len(distinct) > 1 else tuple(distinct)


@dataclass(frozen=True)
class View:
    """All that one page shows of one run. Names are cleaned, except those of ``network``, ``interactions`` and
    assignments."""

    name: str
    verdict: Verdict
    claim: str
    notices: tuple[str, ...]
    ladder: tuple[str, ...]
    facts: tuple[Fact, ...]
    budgets: tuple[BudgetRow, ...]
    tradeoff: Tradeoff | None
    groups: tuple[GroupRow, ...]
    value: str | None
    drawn: Drawn | None
    base: str | None
    is_cheapest: bool
    """Whether the plan is the cheapest of all, which needs no contributions."""
    timings: tuple[Timing, ...]
    timing_summaries: tuple[TimingSummary, ...]
    rounds: tuple[RoundRow, ...]
    audit: tuple[LayerAudit, ...]
    fallbacks: tuple[Fallback, ...]
    agreement: dict[str, Agreement]
    n_as_requested: int
    n_unseen: int
    n_audited: int
    engines: tuple[EngineResult, ...]
    machine: tuple[Fact, ...]
    settings: tuple[Fact, ...]
    times: tuple[Fact, ...]
    hashes: tuple[Fact, ...]
    sources: tuple[Source, ...]
    network: Network
    group_ms: dict[str, dict[str, float]]
    """What every group takes of an engine's latency, by precision; empty where nothing was timed."""
    interactions: Interactions | None
    stability: Stability | None
    command: str | None

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The ladder and whatever else an assignment holds, cheapest first."""
        rows = (*(self.tradeoff.points if self.tradeoff else ()), *self.timings)
        held = {p for row in rows if row.assignment is not None for p in row.assignment.values()}
        return in_order({*self.ladder, *held})

    @property
    def phi_decimals(self) -> int:
        """Decimals that show three digits of the largest contribution, and four at least."""
        return max(4, 2 - math.floor(math.log10(max(map(abs, self.phi_range)))))

    @property
    def phi_range(self) -> tuple[float, float]:
        """Ends of all contributions with their standard errors, and 0."""
        ends = [m + sign * (e or 0.0) for g in self.groups for m, e in g.phi.values() for sign in (-1, 1)]
        return min([0.0, *ends]), max([1e-30, *ends])
