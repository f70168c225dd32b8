"""What the stages of a search may take of a budget of time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Division:
    """Settings that a budget of time leaves room for, in place of those asked for; ``sample_s`` is what they follow
    from, the seconds of one sample of one evaluation, on all processes together."""

    sample_s: float
    estimator: str
    n_score_samples: int
    n_pairs: int
    n_mixtures: int
    search_evaluations: int
    timing_seconds: float
