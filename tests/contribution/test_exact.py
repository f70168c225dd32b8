from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.exact import exact
from hwsmpq.errors import HwsmpqError

from .games import TableGame, additive_game, all_orders, random_game


@pytest.mark.parametrize(
    ("n_players", "n_levels", "base"),
    [(1, 2, 0), (1, 4, 0), (2, 3, 0), (4, 2, 0), (5, 3, 0), (4, 4, 0), (1, 3, 1), (4, 3, 1), (4, 4, 1), (4, 4, 2)],
)
def test_equals_the_average_over_all_orders(n_players, n_levels, base):
    game = random_game(n_players, n_levels, seed=n_players, base=base)
    np.testing.assert_allclose(exact(game).phi, all_orders(game), atol=1e-12)


def test_axioms():
    base = random_game(4, 3)
    game = TableGame(4, 3, lambda row: base.value((*sorted(row[:2]), 0 if row[2] == 1 else row[2], row[3])))
    table = exact(game)
    assert table.phi[:, -1].sum() == pytest.approx(table.top_value - table.floor_value, abs=1e-12)
    np.testing.assert_allclose(table.phi[0], table.phi[1], atol=1e-12)
    assert table.phi[2, 1] == 0
    assert not table.stderr.any()


def test_additive_game():
    game, terms = additive_game(5, 4)
    np.testing.assert_allclose(exact(game).phi, terms, atol=1e-12)


def test_counts_what_it_requests():
    game = random_game(4, 3)
    assert exact(game).n_evaluations == len(game.requests) == len(set(game.requests)) == 48


def test_too_many_groups_are_refused_before_anything_is_evaluated():
    game = TableGame(40, 3, lambda row: 0.0)
    with pytest.raises(HwsmpqError, match="cannot enumerate 40 groups"):
        exact(game)
    assert not game.requests


@pytest.mark.parametrize("base", [-1, 2, 3])
def test_base_without_a_level_above_is_refused(base):
    with pytest.raises(HwsmpqError, match=f"rest at level {base}"):
        exact(random_game(3, 3, base=base))
