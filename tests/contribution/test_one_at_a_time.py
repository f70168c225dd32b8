from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.one_at_a_time import one_at_a_time
from hwsmpq.contribution.stop import Stop

from .games import additive_game, random_game


@pytest.mark.parametrize("base", [0, 1, 2, 3])
def test_equals_its_definition(base):
    game = random_game(4, 4, base=base)
    table = one_at_a_time(game, Stop(n_draws=2), seed=0)
    for group in range(4):
        for level in range(4):
            rows = [tuple(x if g == group else 3 for g in range(4)) for x in (level, base)]
            assert table.phi[group, level] == pytest.approx(game.value(rows[0]) - game.value(rows[1]))
    assert not table.phi[:, base].any() and not table.stderr.any() and table.draws.shape == (0, 4, 4)
    assert (table.floor_value, table.top_value) == (game.value((base,) * 4), game.value((3,) * 4))


@pytest.mark.parametrize("base", [0, 1])
def test_additive_game(base):
    game, terms = additive_game(5, 3, base=base)
    np.testing.assert_allclose(one_at_a_time(game).phi, terms, atol=1e-12)


def test_asks_for_each_value_once_group_by_group():
    game = random_game(4, 3)
    table = one_at_a_time(game)
    assert table.n_evaluations == len(game.requests) == len(set(game.requests)) == 4 * 2 + 2
    assert game.n_calls == 1 and table.n_permutations == 0
    changed = [[g for g in range(4) if row[g] != 2] for row in game.requests[2:]]
    assert changed == [[g] for g in range(4) for _ in range(2)]
