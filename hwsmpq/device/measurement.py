"""What one thing measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """Repeated timings of one thing: median with a spread (half the 10..90 percentile range)."""

    median_ms: float
    spread_ms: float
    n_repeats: int
