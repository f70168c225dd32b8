from __future__ import annotations

from math import comb

import numpy as np
import pytest

from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.regression import regression
from hwsmpq.contribution.stop import Stop
from hwsmpq.errors import HwsmpqError

from .games import TableGame, additive_game, pairwise_game, random_game


def least_squares(game: TableGame, coalitions: list[tuple[int, ...]], weights: list[float]) -> np.ndarray:
    """Kernel least squares with efficiency as a constraint, by its optimality conditions."""
    n = game.n_players
    floor, top = game.value((0,) * n), game.value((1,) * n)
    rows, target = np.array(coalitions, dtype=float), np.array([game.value(c) - floor for c in coalitions])
    gram = rows.T @ (np.array(weights)[:, None] * rows)
    system = np.block([[gram, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    right = np.append(rows.T @ (weights * target), top - floor)
    return np.linalg.solve(system, right)[:n]


@pytest.mark.parametrize("n_players", [1, 2, 3, 4, 5, 6])
def test_all_coalitions_give_the_exact_values(n_players):
    game = random_game(n_players, 2, seed=n_players)
    table = regression(game, Stop(n_draws=1000), seed=0)
    assert table.n_evaluations == len(game.requests) == len(set(game.requests)) == 2**n_players
    np.testing.assert_allclose(table.phi, exact(game).phi, atol=1e-10)
    assert not table.stderr.any() and table.draws.shape == (0, n_players, 2)


@pytest.mark.parametrize("n_players", [1, 2, 3])
@pytest.mark.parametrize(
    "stop", [Stop(n_evaluations=100), Stop(error=1e-9), Stop(seconds=100.0), Stop(stable=lambda draws: False)]
)
def test_any_stop_ends_once_every_coalition_was_drawn(n_players, stop):
    game = random_game(n_players, 2, seed=n_players)
    np.testing.assert_allclose(regression(game, stop, seed=0).phi, exact(game).phi, atol=1e-10)


@pytest.mark.parametrize("n_draws", [7, 12])
def test_equals_the_constrained_least_squares_of_its_coalitions(n_draws):
    game = random_game(6, 2, seed=1)
    table = regression(game, Stop(n_draws=n_draws), seed=2)
    sampled = game.requests[2:]
    sizes = [sum(row) for row in sampled]
    weights = [1 / (size * (6 - size)) / sizes.count(size) for size in sizes]
    np.testing.assert_allclose(table.phi[:, 1], least_squares(game, sampled, weights), atol=1e-10)


def test_coalitions_come_in_complement_pairs_one_a_size_without_repetition():
    game = random_game(7, 2)
    table = regression(game, Stop(n_draws=5), seed=0)
    sampled = game.requests[2:]
    assert len(set(sampled)) == len(sampled) == 5 * 6 == table.n_evaluations - 2
    assert all(tuple(1 - x for x in row) == other for row, other in zip(sampled[::2], sampled[1::2], strict=True))
    assert [sum(row) for row in sampled[::2]] == [1, 2, 3] * 5


def test_coalitions_of_a_size_are_drawn_evenly():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(600):
        game = random_game(4, 2)
        regression(game, Stop(n_draws=2), seed=seed)
        for row in game.requests[2:]:
            counts[row] = counts.get(row, 0) + 1
    for size in (1, 2, 3):
        of_size = [n for row, n in counts.items() if sum(row) == size]
        pairs = 3 if size == 2 else 4
        expected = 600 * 2 / pairs
        assert len(of_size) == comb(4, size)
        assert np.abs(np.array(of_size) - expected).max() < 4.5 * np.sqrt(expected)


@pytest.mark.parametrize("n_players", [5, 6])
def test_additive_and_pairwise_games_are_exact_once_the_rows_suffice(n_players):
    for game in (additive_game(n_players, 2)[0], pairwise_game(n_players)):
        table = regression(game, Stop(n_draws=4), seed=0)
        np.testing.assert_allclose(table.phi, exact(game).phi, atol=1e-9)


def test_efficiency_holds_in_every_draw():
    table = regression(random_game(6, 2), Stop(n_draws=3), seed=0)
    np.testing.assert_allclose(table.draws[:, :, 1].sum(axis=1), table.top_value - table.floor_value, atol=1e-9)
    assert not table.phi[:, 0].any()


def test_draws_are_jackknife_pseudo_values_around_the_estimate():
    game = random_game(8, 2)
    table = regression(game, Stop(n_draws=5), seed=0)
    assert table.draws.shape == (5, 8, 2)
    np.testing.assert_allclose(table.draws.mean(axis=0), table.phi, atol=1e-10)
    sampled, left_out = game.requests[2:], []
    for index in range(5):
        kept = [row for i, row in enumerate(sampled) if i // 8 != index]
        sizes = [sum(row) for row in kept]
        weights = [1 / (size * (8 - size)) / sizes.count(size) for size in sizes]
        left_out.append(least_squares(game, kept, weights))
    variance = 4 / 5 * np.sum((np.array(left_out) - np.mean(left_out, axis=0)) ** 2, axis=0)
    np.testing.assert_allclose(table.stderr[:, 1] ** 2, variance, atol=1e-10)


def test_standard_errors_are_about_right_and_on_the_safe_side():
    game = random_game(11, 2, seed=4)
    truth = exact(game).phi[:, 1]
    tables = [regression(game, Stop(n_draws=8), seed=seed) for seed in range(150)]
    error = np.mean([(t.phi[:, 1] - truth) ** 2 for t in tables])
    claimed = np.mean([t.stderr[:, 1] ** 2 for t in tables])
    assert 1.0 < claimed / error < 2.5


def test_longer_and_adaptive_runs_repeat_the_requests_of_a_shorter_one():
    short, long, adaptive = (random_game(7, 2) for _ in range(3))
    regression(short, Stop(n_draws=2), seed=0)
    table = regression(long, Stop(n_draws=6), seed=0)
    found = regression(adaptive, Stop(stable=lambda draws: len(draws) >= 6), seed=0)
    assert long.requests[: len(short.requests)] == short.requests
    assert adaptive.requests == long.requests and adaptive.n_calls > long.n_calls == 2
    np.testing.assert_allclose(found.draws, table.draws, atol=1e-12)


@pytest.mark.parametrize(("n_left", "last_sizes"), [(1, []), (2, [1]), (7, [1, 2, 3])])
def test_ceiling_is_used_up_by_a_smaller_draw(n_left, last_sizes):
    game = random_game(8, 2)
    table = regression(game, Stop(n_evaluations=2 + 4 * 8 + n_left), seed=0)
    assert table.n_evaluations == len(game.requests) == 34 + 2 * len(last_sizes)
    assert [sum(row) for row in game.requests[2::2]] == [1, 2, 3, 4] * 4 + last_sizes
    assert len(table.draws) == 4 + (1 if last_sizes else 0)
    assert len(regression(random_game(8, 2), Stop(n_evaluations=40, n_draws=4), seed=0).draws) == 4


def test_more_than_two_levels_are_refused():
    game = random_game(4, 3)
    with pytest.raises(HwsmpqError, match="cannot take 3 levels"):
        regression(game, Stop(n_draws=2), seed=0)
    assert not game.requests
