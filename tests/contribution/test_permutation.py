from __future__ import annotations

from hwsmpq.contribution.permutation import permutation

from .conformance import EstimatorConformance


class TestPermutation(EstimatorConformance):
    estimator = staticmethod(permutation)
    walks_per_draw = 1
