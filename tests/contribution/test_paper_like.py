from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.paper_like import PaperLike
from hwsmpq.contribution.permutation import permutation
from hwsmpq.contribution.stop import Stop
from hwsmpq.contribution.walk import random_orders
from hwsmpq.errors import HwsmpqError

from .games import TableGame, additive_game, random_game


class Batches(TableGame):
    """A game that is another one on every batch; the first two have additive contributions."""

    def __init__(self):
        first = additive_game(3, 3)[0]
        super().__init__(3, 3, first.value)
        self.redrawn: list[int] = []

    def redraw(self, index):
        self.redrawn.append(index)
        return additive_game(3, 3, seed=index + 1)[0]


def orders(n_players: int, seed: int, n: int) -> list[list[int]]:
    stream = random_orders(n_players, seed)
    return [next(stream)[0].tolist() for _ in range(n)]


def walk_by_hand(game: TableGame, order: list[int], tolerance: float) -> tuple[np.ndarray, int]:
    """A truncated walk, and the number of values that it needs beside both ends."""
    top = game.n_levels - 1
    end = game.value((top,) * game.n_players)
    state, sample, rows = [game.base] * game.n_players, np.zeros((game.n_players, game.n_levels)), set()
    for player in order:
        background = game.value(tuple(state))
        if abs(end - background) < tolerance:
            break
        for level in range(game.n_levels):
            state[player] = level
            sample[player, level] = game.value(tuple(state)) - background
            if level != game.base:
                rows.add(tuple(state))
    return sample, len(rows - {(top,) * game.n_players})


def test_without_options_it_is_the_plain_estimator():
    game, again = random_game(4, 3, base=1), random_game(4, 3, base=1)
    plain, found = permutation(game, Stop(n_draws=5), 3), PaperLike()(again, Stop(n_draws=5), 3)
    np.testing.assert_array_equal(found.draws, plain.draws)
    assert found.estimator == plain.estimator and found.n_evaluations == plain.n_evaluations == len(again.requests)
    assert (found.floor_value, found.top_value) == (plain.floor_value, plain.top_value)


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("tolerance", [0.3, 1.0])
def test_truncated_walks_equal_those_made_by_hand(base, tolerance):
    game = random_game(5, 3, seed=4, base=base)
    table = PaperLike(tolerance=tolerance)(game, Stop(n_draws=20), 7)
    by_hand = [walk_by_hand(game, order, tolerance) for order in orders(5, 7, 20)]
    np.testing.assert_allclose(table.draws, [sample for sample, _ in by_hand], atol=1e-12)
    assert table.n_evaluations == len(game.requests) == 2 + sum(n for _, n in by_hand)
    assert 0 < sum(n for _, n in by_hand) < 20 * 9
    assert not table.phi[:, base].any()
    assert table.estimator == f"permutations, truncated within {tolerance:g}"


def test_truncation_is_biased():
    game = random_game(4, 2, seed=1)
    found = PaperLike(tolerance=1.0)(game, Stop(n_draws=3000), 0)
    assert (np.abs(found.phi - exact(game).phi)[:, 1] > 6 * found.stderr[:, 1]).any()


def test_ceiling_holds_what_truncated_walks_leave():
    game = random_game(5, 3, seed=4)
    table = PaperLike(tolerance=0.5)(game, Stop(n_evaluations=100), 7)
    assert 100 - 9 <= len(game.requests) == table.n_evaluations <= 100
    assert len(table.draws) > (100 - 2) // 9


def test_walks_that_are_all_truncated_end():
    game = TableGame(3, 2, lambda row: 0.0)
    for stop in (Stop(n_draws=4), Stop(n_evaluations=50), Stop(stable=lambda draws: False)):
        table = PaperLike(tolerance=0.1)(game, stop, 0)
        assert not table.phi.any() and len(table.draws) >= 2


def test_every_permutation_has_its_own_batch():
    game = Batches()
    table = PaperLike(fresh_batch=True)(game, Stop(n_draws=4), 0)
    batches = [additive_game(3, 3, seed=index + 1) for index in range(4)]
    assert game.redrawn == [0, 1, 2, 3] and not game.requests
    np.testing.assert_allclose(table.draws, [terms for _, terms in batches], atol=1e-12)
    assert table.n_evaluations == 4 * (2 + 5)
    assert table.floor_value == pytest.approx(np.mean([g.value((0,) * 3) for g, _ in batches]))
    assert table.phi[:, -1].sum() == pytest.approx(table.top_value - table.floor_value)


def test_game_that_cannot_be_redrawn_is_refused():
    with pytest.raises(HwsmpqError, match="fresh batch"):
        PaperLike(fresh_batch=True)(random_game(3, 2), Stop(n_draws=2), 0)


def test_mean_minus_deviation():
    plain = permutation(random_game(4, 3), Stop(n_draws=6), 0)
    found = PaperLike(minus_deviation=True)(random_game(4, 3), Stop(n_draws=6), 0)
    np.testing.assert_allclose(found.phi, plain.phi - np.std(plain.draws, axis=0, ddof=1), atol=1e-12)
    np.testing.assert_allclose(found.draws.mean(axis=0), found.phi, atol=1e-12)
    assert "mean minus deviation" in found.estimator and not found.phi[:, 0].any()


def test_momentum_is_a_moving_average_that_begins_without_bias():
    plain = permutation(random_game(4, 3), Stop(n_draws=6), 0)
    found = PaperLike(momentum=0.8)(random_game(4, 3), Stop(n_draws=6), 0)
    average, weight = np.zeros_like(plain.phi), 0.0
    for draw in plain.draws:
        average, weight = 0.8 * average + 0.2 * draw, 0.8 * weight + 0.2
    np.testing.assert_allclose(found.phi, average / weight, atol=1e-12)
    assert found.estimator == "permutations, momentum 0.8"
