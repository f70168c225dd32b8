from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.sobol import sobol
from hwsmpq.contribution.stop import Stop

from .conformance import EstimatorConformance
from .games import pairwise_game, random_game


class TestSobol(EstimatorConformance):
    estimator = staticmethod(sobol)
    walks_per_draw = 2

    def test_pairwise_two_level_game_is_exact_in_every_pair(self):
        game = pairwise_game(6)
        np.testing.assert_allclose(self.estimate(game, 2, seed=0).phi, exact(game).phi, atol=1e-12)

    @pytest.mark.parametrize("n_draws", [3, 8])
    def test_any_number_of_draws_without_a_warning(self, n_draws, recwarn):
        self.estimate(random_game(4, 2), n_draws, seed=0)
        assert not recwarn.list

    def test_squared_standard_errors_are_unbiased_for_the_fewest_draws(self):
        # The first points of the sequence are not independent, least so in few dimensions.
        game = random_game(4, 2, seed=4)
        tables = [self.estimate(game, 2, seed=seed) for seed in range(1500)]
        spread = np.var([t.phi for t in tables], axis=0)[:, 1]
        claimed = np.mean([t.stderr**2 for t in tables], axis=0)[:, 1]
        assert ((claimed > 0.4 * spread) & (claimed < 1.5 * spread)).all()

    def test_errs_less_than_independent_pairs(self):
        game = random_game(4, 2, seed=4)
        truth = exact(game).phi

        def squared_error(estimator):
            return np.mean([np.sum((estimator(game, Stop(n_draws=64), s).phi - truth) ** 2) for s in range(40)])

        assert squared_error(sobol) < 0.75 * squared_error(antithetic)
