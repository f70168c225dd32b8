"""What a uniform sweep of weight and activation bits shows, and the ladder that follows from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SweepPoint:
    """A uniform network: ``value`` on the score batch, and the points of the metric that it loses there, with their
    paired standard error. It is ``alive`` where it keeps a fair share of the metric above chance."""

    value: float
    drop_points: float
    drop_stderr_points: float
    alive: bool


@dataclass(frozen=True)
class Sweep:
    """Uniform networks by precision, one side of which has 8 bits, and the proposed ``ladder``, floor first."""

    target: str
    model_sha256: str
    value: str
    reference_value: float
    n_samples: int
    points: dict[str, SweepPoint]
    ladder: tuple[str, ...]
