"""The front: for every cost the most accurate assignment that is known, and some of them as built engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwsmpq.device.measurement import Measurement
from hwsmpq.types.certificate import AccuracyOutcome, Audit
from hwsmpq.types.plan import Candidate
from hwsmpq.types.precision import Assignment


@dataclass(frozen=True)
class BuiltEngine:
    """An assignment as an engine: its latency, what its layers run in, and its metric on the report part.

    ``latency`` was measured in turns with the uniform engines, and is stated as it would have been in the session that
    measured the cost table.
    """

    assignment: Assignment
    latency: Measurement
    accuracy: AccuracyOutcome
    audit: Audit

    @property
    def drop_points(self) -> float:
        """Points of the metric that it loses against the reference."""
        return 100 * (self.accuracy.reference - self.accuracy.engine)


@dataclass(frozen=True)
class Front:
    """Assignments of which each is more accurate than all that cost no more, in order of cost and of value.

    Values and drops of ``points`` are those of the whole search part, on which they were chosen from ``n_compared``
    assignments; ``reference_value`` is that of the unquantized network there. ``engines`` are points of the front, and
    the uniform engines that they were timed with, on the report part.
    """

    target: str
    model_sha256: str
    ladder: tuple[str, ...]
    seed: int
    cost: Literal["latency_ms", "bitops"]
    value: str
    reference_value: float
    n_compared: int
    points: tuple[Candidate, ...]
    engines: tuple[BuiltEngine, ...] = ()

    def cost_of(self, point: Candidate) -> float:
        """What a point costs, in ms or BitOps."""
        if self.cost == "bitops":
            return point.bitops
        assert point.latency_ms is not None
        return point.latency_ms

    def engine_of(self, assignment: Assignment) -> BuiltEngine | None:
        """The engine of an assignment, where it was built."""
        return next((engine for engine in self.engines if engine.assignment == assignment), None)
