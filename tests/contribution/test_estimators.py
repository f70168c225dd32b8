from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.estimators import ESTIMATORS, estimator_for
from hwsmpq.contribution.stop import Stop

from .games import additive_game, random_game


def redrawable_game():
    """An additive game that is the same on every batch."""
    game, terms = additive_game(5, 2)
    game.redraw = lambda index: game
    return game, terms


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_every_name_recovers_an_additive_game(name):
    game, terms = redrawable_game()
    table = ESTIMATORS[name](game, Stop(n_draws=6), 0)
    np.testing.assert_allclose(table.phi, terms, atol=1e-9)
    assert table.n_evaluations == len(game.requests)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_groups_that_rest_at_the_top_are_measured_alone_there(name):
    game = random_game(4, 3, base=2)
    table = estimator_for(name, game)(game, Stop(n_draws=6), 0)
    alone = [[tuple(level if g == group else 2 for g in range(4)) for level in range(3)] for group in range(4)]
    effects = np.array([[game.value(row) for row in rows] for rows in alone]) - game.value((2,) * 4)
    np.testing.assert_allclose(table.phi, effects, atol=1e-12)
    assert all(sum(level != 2 for level in row) <= 1 for row in game.requests)


def test_other_games_are_played_as_named():
    assert all(estimator_for(name, random_game(4, 3, base=1)) is one for name, one in ESTIMATORS.items())


def test_names_tell_tables_apart():
    tables = [estimate(redrawable_game()[0], Stop(n_draws=2), 0) for estimate in ESTIMATORS.values()]
    assert len({table.estimator for table in tables}) == len(ESTIMATORS)


def test_every_table_says_what_its_errors_are_over():
    drawn = {name: estimate(redrawable_game()[0], Stop(n_draws=2), 0) for name, estimate in ESTIMATORS.items()}
    assert {name: table.drawn for name, table in drawn.items()} == {
        "exact": None, "permutation": "permutations", "paper-like": "permutations and batches",
        "antithetic": "permutations", "sobol": "permutations", "regression": "coalitions", "both-ends": None,
        "one-at-a-time": None, "growing": None,
    }
    assert all((table.drawn is None) == (len(table.draws) == 0) for table in drawn.values())
