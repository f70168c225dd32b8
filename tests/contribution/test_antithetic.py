from __future__ import annotations

import numpy as np

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.permutation import permutation
from hwsmpq.contribution.stop import Stop

from .conformance import EstimatorConformance
from .games import pairwise_game


class TestAntithetic(EstimatorConformance):
    estimator = staticmethod(antithetic)
    walks_per_draw = 2

    def test_pairwise_two_level_game_is_exact_in_every_pair(self):
        game = pairwise_game(6)
        table = self.estimate(game, 2, seed=0)
        np.testing.assert_allclose(table.phi, exact(game).phi, atol=1e-12)
        np.testing.assert_allclose(table.stderr, 0, atol=1e-12)
        assert permutation(game, Stop(n_draws=4), seed=0).stderr.max() > 0.1

    def test_second_walk_of_a_pair_is_the_reverse_of_the_first(self):
        game = pairwise_game(5)
        self.estimate(game, 2, seed=0)
        first, second = game.requests[1:6], game.requests[6:10]
        complement = [tuple(1 - level for level in row) for row in reversed(first[:-1])]
        assert complement == second
