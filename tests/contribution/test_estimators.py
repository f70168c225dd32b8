from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.estimators import ESTIMATORS
from hwsmpq.contribution.stop import Stop

from .games import additive_game


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_name_recovers_an_additive_game(name):
    game, terms = additive_game(5, 2)
    table = ESTIMATORS[name](game, Stop(n_draws=6), 0)
    np.testing.assert_allclose(table.phi, terms, atol=1e-9)
    assert table.n_evaluations == len(game.requests)


def test_names_tell_tables_apart():
    tables = [estimate(additive_game(5, 2)[0], Stop(n_draws=2), 0) for estimate in ESTIMATORS.values()]
    assert len({table.estimator for table in tables}) == len(ESTIMATORS)
