from __future__ import annotations

from hwsmpq.contribution.permutation import permutation

from .conformance import EstimatorConformance


class TestPermutation(EstimatorConformance):
    estimate = staticmethod(permutation)
    walks_per_draw = 1
