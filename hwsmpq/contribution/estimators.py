"""Every estimator by the name that settings and reports use."""

from __future__ import annotations

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.both_ends import both_ends
from hwsmpq.contribution.estimator import Estimator
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.growing import growing
from hwsmpq.contribution.one_at_a_time import one_at_a_time
from hwsmpq.contribution.paper_like import PaperLike
from hwsmpq.contribution.permutation import permutation
from hwsmpq.contribution.regression import regression
from hwsmpq.contribution.sobol import sobol

ESTIMATORS: dict[str, Estimator] = {
    "growing": growing,
    "exact": exact,
    "permutation": permutation,
    "paper-like": PaperLike(fresh_batch=True, minus_deviation=True),
    "antithetic": antithetic,
    "sobol": sobol,
    "regression": regression,
    "both-ends": both_ends,
    "one-at-a-time": one_at_a_time,
}
