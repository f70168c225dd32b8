from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.both_ends import both_ends
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.one_at_a_time import one_at_a_time

from .games import TableGame, additive_game, pairwise_game, random_game


@pytest.mark.parametrize("base", [0, 1])
def test_equals_its_definition(base):
    game = random_game(4, 3, base=base)
    table = both_ends(game)
    for group in range(4):
        for level in range(3):
            effects = [
                game.value(tuple(level if g == group else crowd for g in range(4)))
                - game.value(tuple(base if g == group else crowd for g in range(4)))
                for crowd in (base, 2)
            ]
            assert table.phi[group, level] == pytest.approx(np.mean(effects))
    assert not table.phi[:, base].any() and not table.stderr.any() and table.draws.shape == (0, 4, 3)
    assert (table.floor_value, table.top_value) == (game.value((base,) * 4), game.value((2,) * 4))


@pytest.mark.parametrize("base", [0, 1])
def test_additive_game(base):
    game, terms = additive_game(5, 3, base=base)
    np.testing.assert_allclose(both_ends(game).phi, terms, atol=1e-12)


def test_exact_where_only_pairs_interact():
    game = pairwise_game(8)
    np.testing.assert_allclose(both_ends(game).phi, exact(game).phi, atol=1e-12)
    assert np.abs(one_at_a_time(game).phi - exact(game).phi).max() > 0.1


def test_exact_where_pairs_of_levels_interact():
    """Any table for every pair of groups, with levels below and above the base."""
    n, n_levels = 4, 4
    pairs = np.random.default_rng(0).normal(size=(n, n, n_levels, n_levels))
    game = TableGame(
        n, n_levels, lambda row: float(sum(pairs[i, j, row[i], row[j]] for i in range(n) for j in range(i))), base=1
    )
    np.testing.assert_allclose(both_ends(game).phi, exact(game).phi, atol=1e-12)


def test_asks_for_each_value_once_in_one_request():
    game = random_game(4, 3)
    table = both_ends(game)
    assert table.n_evaluations == len(game.requests) == 2 * 4 * 2 + 2
    assert len(set(game.requests)) == len(game.requests) and game.n_calls == 1 and table.n_permutations == 0
