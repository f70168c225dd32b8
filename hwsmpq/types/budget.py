"""Budgets, and when one is met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hwsmpq.errors import HwsmpqError

BudgetKind = Literal["latency_ms", "bitops", "size_mb", "peak_mb", "max_drop"]

TOLERANCE = 1e-9
"""A limit counts as kept up to this fraction of it: rounding of sums stays below."""
WHOLE_METRIC = 100.0
"""Points. The scale of a largest drop, which may be 0."""
USUAL_CONFIDENCE = 0.95
"""Of the bound that a drop is stated with."""


def with_slack(limit: float, scale: float = 0.0) -> float:
    """The largest value that counts as keeping a limit.

    Args:
        scale: of what is limited, where the limit itself may be 0.
    """
    return limit + TOLERANCE * max(abs(limit), scale)


@dataclass(frozen=True)
class Budget:
    """A limit the chosen assignment must keep. ``max_drop`` is in points (hundredths) of the metric.

    ``speedup`` is set where a limit of latency was given as one; the reference then takes ``speedup * limit`` ms.
    ``throughput`` is set where it was given as inferences a second.
    """

    kind: BudgetKind
    limit: float
    speedup: float | None = None
    throughput: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit) or self.limit < 0 or (self.limit == 0 and self.kind != "max_drop"):
            raise HwsmpqError(f"{self.kind} budget of {self.limit}", "a budget is a positive number", "correct it")

    @property
    def asked(self) -> tuple[str, float]:
        """The option that it was given with, and the number there."""
        if self.speedup is not None:
            return "--speedup", self.speedup
        if self.throughput is not None:
            return "--throughput", self.throughput
        return f"--{self.kind.replace('_', '-')}", self.limit

    @property
    def is_rate(self) -> bool:
        """Whether what was asked for is larger where the latency is smaller."""
        return self.speedup is not None or self.throughput is not None

    def as_asked(self, value: float) -> float:
        """A value of this kind as the number that the option takes."""
        return self.asked[1] * self.limit / value if self.is_rate else value

    def met(self, value: float | None) -> bool:
        """Whether a value keeps the limit; what could not be measured does not."""
        return value is not None and value <= with_slack(self.limit, WHOLE_METRIC if self.kind == "max_drop" else 0.0)


@dataclass(frozen=True)
class Bound:
    """What a drop on unseen samples lies below, in points, with a confidence (one-sided)."""

    points: float
    confidence: float = USUAL_CONFIDENCE
