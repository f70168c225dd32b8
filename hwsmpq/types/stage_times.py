"""Where the time of a run went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageTime:
    """Seconds that a stage took, less those of stages within it: by the clock, and of this process on all cores."""

    stage: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class StageTimes:
    """What every stage took, over all processes that worked in a run folder, in the order in which they began."""

    stages: tuple[StageTime, ...]
