"""What every sampling estimator must keep: subclass and name the estimator to run all of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest

from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.contribution.table import Table
from hwsmpq.errors import HwsmpqError

from .games import TableGame, additive_game, random_game


class EstimatorConformance:
    estimate: ClassVar[Callable[..., Table]]
    """``estimate(game, n_draws, seed, progress)``, wrapped in staticmethod."""
    walks_per_draw: ClassVar[int]

    def test_additive_game_is_exact_in_every_draw(self):
        game, terms = additive_game(5, 3)
        table = self.estimate(game, 2, seed=0)
        np.testing.assert_allclose(table.phi, terms, atol=1e-12)
        np.testing.assert_allclose(table.stderr, 0, atol=1e-12)

    def test_efficiency_holds_without_convergence(self):
        for seed in range(5):
            table = self.estimate(random_game(4, 3), 2, seed=seed)
            assert table.phi[:, -1].sum() == pytest.approx(table.top_value - table.floor_value, abs=1e-12)

    def test_floor_column_is_zero_and_end_values_are_those_of_the_game(self):
        game = random_game(4, 3)
        table = self.estimate(game, 3, seed=1)
        assert not table.phi[:, 0].any() and not table.stderr[:, 0].any()
        assert (table.floor_value, table.top_value) == (game.value((0,) * 4), game.value((2,) * 4))

    def test_null_level_contributes_nothing(self):
        base = random_game(4, 3)
        game = TableGame(4, 3, lambda row: base.value((row[0], 0 if row[1] == 1 else row[1], *row[2:])))
        table = self.estimate(game, 4, seed=0)
        assert table.phi[1, 1] == 0 and table.stderr[1, 1] == 0
        assert table.phi[1, 2] != 0

    def test_interchangeable_groups_contribute_alike(self):
        base = random_game(4, 3)
        game = TableGame(4, 3, lambda row: base.value((*sorted(row[:2]), *row[2:])))
        table = self.estimate(game, 3000, seed=0)
        error = np.hypot(table.stderr[0, 1:], table.stderr[1, 1:])
        assert (error > 0).all()
        assert (np.abs(table.phi[0, 1:] - table.phi[1, 1:]) < 4.5 * error).all()

    def test_linear_in_the_value(self):
        first, second = random_game(4, 3, seed=1), random_game(4, 3, seed=2)
        mixed = TableGame(4, 3, lambda row: 2 * first.value(row) - 3 * second.value(row))
        expected = 2 * self.estimate(first, 3, seed=5).phi - 3 * self.estimate(second, 3, seed=5).phi
        np.testing.assert_allclose(self.estimate(mixed, 3, seed=5).phi, expected, atol=1e-12)

    def test_unbiased(self):
        game = random_game(4, 3, seed=3)
        table = self.estimate(game, 4000, seed=0)
        score = (table.phi - exact(game).phi)[:, 1:] / table.stderr[:, 1:]
        assert np.abs(score).max() < 4.5

    def test_standard_errors_are_calibrated(self):
        game = random_game(4, 2, seed=4)
        truth = exact(game).phi
        tables = [self.estimate(game, 20, seed=seed) for seed in range(200)]
        spread = np.std([t.phi for t in tables], axis=0)[:, 1:]
        claimed = np.sqrt(np.mean([t.stderr**2 for t in tables], axis=0))[:, 1:]
        np.testing.assert_allclose(claimed / spread, 1, atol=0.25)
        covered = np.mean([np.abs(t.phi - truth)[:, 1:] < 2.093 * t.stderr[:, 1:] for t in tables])
        assert 0.90 < covered < 0.985  # nominal 0.95: Student t with 19 degrees of freedom

    def test_squared_standard_errors_are_unbiased_for_the_fewest_draws(self):
        game = random_game(4, 2, seed=4)
        tables = [self.estimate(game, 2, seed=seed) for seed in range(1500)]
        spread = np.var([t.phi for t in tables], axis=0)[:, 1:]
        claimed = np.mean([t.stderr**2 for t in tables], axis=0)[:, 1:]
        np.testing.assert_allclose(claimed / spread, 1, atol=0.2)

    def test_same_seed_same_table_and_another_seed_another(self):
        game = random_game(5, 3)
        first, again, other = (self.estimate(game, 3, seed=seed) for seed in (7, 7, 8))
        np.testing.assert_array_equal(first.phi, again.phi)
        np.testing.assert_array_equal(first.stderr, again.stderr)
        assert (first.phi != other.phi).any()

    def test_counts(self):
        game = random_game(4, 3)
        table = self.estimate(game, 3, seed=0)
        walks = 3 * self.walks_per_draw
        assert table.n_permutations == walks
        assert table.n_evaluations == len(game.requests) == 1 + walks * 4 * 2

    def test_longer_run_repeats_the_requests_of_a_shorter_one(self):
        short, long = random_game(5, 3), random_game(5, 3)
        self.estimate(short, 2, seed=0)
        self.estimate(long, 4, seed=0)
        assert long.requests[: len(short.requests)] == short.requests

    def test_every_walk_rises_group_by_group_with_its_top_last(self):
        game = random_game(4, 3)
        self.estimate(game, 2, seed=0)
        walk = game.requests[1:9]
        assert [sorted(row) for row in walk] == [
            [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 1, 2], [0, 0, 2, 2], [0, 1, 2, 2], [0, 2, 2, 2], [1, 2, 2, 2], [2] * 4,
        ]
        assert all(sum(a != b for a, b in zip(x, y, strict=True)) == 1 for x, y in pairwise(walk))

    def test_progress_reports_every_walk(self):
        seen: list[tuple[int, int]] = []
        self.estimate(random_game(3, 2), 3, seed=0, progress=lambda done, total: seen.append((done, total)))
        walks = 3 * self.walks_per_draw
        assert seen == [(done, walks) for done in range(1, walks + 1)]

    def test_one_draw_is_refused(self):
        with pytest.raises(HwsmpqError, match="standard error"):
            self.estimate(random_game(3, 2), 1, seed=0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_value_that_is_not_finite_is_refused(self, bad):
        game = TableGame(3, 2, lambda row: bad if sum(row) == 2 else 0.0)
        with pytest.raises(HwsmpqError, match="value of an assignment is"):
            self.estimate(game, 2, seed=0)

    def test_resumed_run_equals_an_uninterrupted_one(self, tmp_path):
        table = np.random.default_rng(0).normal(size=(3, 3, 3, 3, 7))

        def evaluator(die_after):
            def evaluate(assignments):
                for index, assignment in enumerate(assignments):
                    if die_after is not None and sum(measured.values()) >= die_after:
                        raise KeyboardInterrupt
                    row = tuple("abc".index(p) for p in assignment.values())
                    measured[row] = measured.get(row, 0) + 1
                    assert index < 8
                    yield table[row]

            return evaluate

        def game(path, die_after=None):
            return MemoizedGame(evaluator(die_after), Memo(path), "context", ["g", "h", "i", "j"], ["a", "b", "c"])

        measured: dict[tuple[int, ...], int] = {}
        whole = self.estimate(game(tmp_path / "whole.sqlite"), 3, seed=0)
        n_distinct = len(measured)

        measured.clear()
        with pytest.raises(KeyboardInterrupt):
            self.estimate(game(tmp_path / "cut.sqlite", die_after=11), 3, seed=0)
        assert Memo(tmp_path / "cut.sqlite").count() == 11
        resumed_game = game(tmp_path / "cut.sqlite")
        resumed = self.estimate(resumed_game, 3, seed=0)

        np.testing.assert_array_equal(resumed.phi, whole.phi)
        np.testing.assert_array_equal(resumed.stderr, whole.stderr)
        assert set(measured.values()) == {1} and len(measured) == n_distinct
        assert resumed_game.n_evaluations == n_distinct - 11
