"""Every estimator by the name that settings and reports use."""

from __future__ import annotations

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.both_ends import both_ends
from hwsmpq.contribution.estimator import Estimator
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.game import Game
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


def estimator_for(name: str, game: Game) -> Estimator:
    """The one of that name. Where groups rest at the top there is one crowd only, and all that can be measured is what
    every group does in it alone."""
    return one_at_a_time if game.base == game.n_levels - 1 > 0 else ESTIMATORS[name]
