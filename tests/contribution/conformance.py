"""What every estimator over permutations must keep: subclass and name the estimator to run all of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

from hwsmpq.contribution.estimator import Estimator
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.contribution.stop import Stop
from hwsmpq.contribution.table import Table
from hwsmpq.errors import HwsmpqError

from .games import TableGame, additive_game, random_game


class EstimatorConformance:
    estimator: ClassVar[Estimator]
    """Wrapped in staticmethod."""
    walks_per_draw: ClassVar[int]

    def estimate(self, game: Any, n_draws: int, seed: int, **options: Any) -> Table:
        return self.estimator(game, Stop(n_draws=n_draws), seed, **options)

    @pytest.mark.parametrize("base", [0, 1])
    def test_additive_game_is_exact_in_every_draw(self, base):
        game, terms = additive_game(5, 3, base=base)
        table = self.estimate(game, 2, seed=0)
        np.testing.assert_allclose(table.phi, terms, atol=1e-12)
        np.testing.assert_allclose(table.stderr, 0, atol=1e-12)

    def test_efficiency_holds_without_convergence(self):
        for seed in range(5):
            table = self.estimate(random_game(4, 3), 2, seed=seed)
            assert table.phi[:, -1].sum() == pytest.approx(table.top_value - table.floor_value, abs=1e-12)

    @pytest.mark.parametrize("base", [0, 1])
    def test_base_column_is_zero_and_end_values_are_those_of_the_game(self, base):
        game = random_game(4, 3, base=base)
        table = self.estimate(game, 3, seed=1)
        assert not table.phi[:, base].any() and not table.stderr[:, base].any()
        assert (table.floor_value, table.top_value) == (game.value((base,) * 4), game.value((2,) * 4))
        assert table.phi[:, -1].sum() == pytest.approx(table.top_value - table.floor_value, abs=1e-12)

    def test_draws_have_the_table_as_their_mean_and_its_errors_as_their_spread(self):
        table = self.estimate(random_game(4, 3, base=1), 5, seed=1)
        assert table.draws.shape == (5, 4, 3)
        np.testing.assert_allclose(table.draws.mean(axis=0), table.phi, atol=1e-12)
        np.testing.assert_allclose(np.sqrt(table.draws.var(axis=0, ddof=1) / 5), table.stderr, atol=1e-12)

    def test_one_draw_equals_walks_made_by_hand(self):
        game = random_game(4, 4, seed=2, base=1)
        table = self.estimate(game, 2, seed=3)
        rows = iter(game.requests[1:])
        by_hand = np.zeros((2 * self.walks_per_draw, 4, 4))
        for index in range(len(by_hand)):
            state = (1,) * 4
            for position in range(4):
                known_end = [(3,) * 4] if index > 0 and position == 3 else []
                seen = [*(next(rows) for _ in range(3 - len(known_end))), *known_end]
                (group,) = {g for row in seen for g in range(4) if row[g] != state[g]}
                assert [row[group] for row in seen] == [0, 2, 3]
                for row in seen:
                    by_hand[index, group, row[group]] = game.value(row) - game.value(state)
                state = seen[-1]
        assert next(rows, None) is None
        draws = by_hand.reshape(2, self.walks_per_draw, 4, 4).mean(axis=1)
        np.testing.assert_allclose(table.draws, draws, atol=1e-12)

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

    @pytest.mark.parametrize("base", [0, 1])
    def test_unbiased(self, base):
        game = random_game(4, 3, seed=3, base=base)
        table = self.estimate(game, 4000, seed=0)
        error, seen = table.phi - exact(game).phi, [level for level in range(3) if level != base]
        assert not error[:, base].any() and (table.stderr[:, seen] > 0).all()
        assert np.abs(error[:, seen] / table.stderr[:, seen]).max() < 4.5

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
        assert table.n_evaluations == len(game.requests) == 2 + walks * (4 * 2 - 1)

    def test_number_of_draws_is_requested_at_once(self):
        game = random_game(4, 3)
        self.estimate(game, 7, seed=0)
        assert game.n_calls == 1

    def test_adaptive_run_repeats_the_requests_of_a_fixed_one(self):
        fixed, adaptive = random_game(4, 3), random_game(4, 3)
        table = self.estimate(fixed, 6, seed=0)
        found = self.estimator(adaptive, Stop(stable=lambda draws: len(draws) >= 6), seed=0)
        assert adaptive.requests == fixed.requests and adaptive.n_calls > 1
        np.testing.assert_array_equal(found.draws, table.draws)
        assert found.n_evaluations == len(adaptive.requests)

    @pytest.mark.parametrize("extra", [0, 1, 6])
    def test_evaluations_are_a_ceiling(self, extra):
        game = random_game(4, 3)
        per_draw = self.walks_per_draw * 7
        table = self.estimator(game, Stop(n_evaluations=2 + 5 * per_draw + extra), seed=0)
        assert len(table.draws) == 5 and len(game.requests) == 2 + 5 * per_draw and game.n_calls == 1
        assert len(self.estimator(game, Stop(n_evaluations=1), seed=0).draws) == 2

    @pytest.mark.parametrize(
        "stop", [Stop(n_draws=3), Stop(n_evaluations=9), Stop(error=0.1), Stop(stable=lambda draws: False)]
    )
    def test_single_group_at_two_levels_is_known_from_the_ends(self, stop):
        game = random_game(1, 2)
        table = self.estimator(game, stop, seed=0)
        assert table.phi[0].tolist() == pytest.approx([0, game.value((1,)) - game.value((0,))])
        assert table.n_evaluations == len(game.requests) == 2

    def test_stops_at_the_error(self):
        game = random_game(4, 3)
        table = self.estimator(game, Stop(error=0.2, n_draws=10_000), seed=0)
        assert 2 < len(table.draws) < 10_000
        assert np.sqrt(np.mean(table.stderr**2)) <= 0.2 * np.sqrt(np.mean(table.phi**2))
        before = table.draws[:-2]
        error = np.sqrt(np.mean(before.var(axis=0, ddof=1) / len(before)) / np.mean(before.mean(axis=0) ** 2))
        assert len(before) < 2 or error > 0.2

    def test_stops_after_the_seconds_with_two_draws_at_least(self):
        assert len(self.estimator(random_game(4, 3), Stop(seconds=1e-9), seed=0).draws) == 2

    def test_longer_run_repeats_the_requests_of_a_shorter_one(self):
        short, long = random_game(5, 3), random_game(5, 3)
        self.estimate(short, 2, seed=0)
        self.estimate(long, 4, seed=0)
        assert long.requests[: len(short.requests)] == short.requests

    def test_every_walk_rises_group_by_group_with_its_top_last(self):
        game = random_game(4, 3)
        self.estimate(game, 2, seed=0)
        walk = game.requests[1:9]
        assert game.requests[0] == (0,) * 4
        assert [sorted(row) for row in walk] == [
            [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 1, 2], [0, 0, 2, 2], [0, 1, 2, 2], [0, 2, 2, 2], [1, 2, 2, 2], [2] * 4,
        ]
        assert all(sum(a != b for a, b in zip(x, y, strict=True)) == 1 for x, y in pairwise(walk))

    def test_walk_sees_the_levels_below_the_base_first(self):
        game = random_game(2, 4, base=2)
        self.estimate(game, 2, seed=0)
        assert [sorted(row) for row in game.requests[:7]] == [
            [2, 2], [0, 2], [1, 2], [2, 3], [0, 3], [1, 3], [3, 3]
        ]

    def test_progress_reports_every_round(self):
        seen: list[tuple[int, int | None]] = []

        def progress(done: int, total: int | None) -> None:
            seen.append((done, total))

        self.estimate(random_game(3, 2), 3, seed=0, progress=progress)
        self.estimator(random_game(3, 2), Stop(stable=lambda draws: len(draws) >= 5), 0, progress)
        assert seen == [(3, 3), (2, None), (4, None), (6, None)]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_value_that_is_not_finite_is_refused(self, bad):
        game = TableGame(3, 2, lambda row: bad if sum(row) == 2 else 0.0)
        with pytest.raises(HwsmpqError, match="value of an assignment is"):
            self.estimate(game, 2, seed=0)

    def test_resumed_run_equals_an_uninterrupted_one(self, tmp_path):
        table = np.random.default_rng(0).normal(size=(3, 3, 3, 3, 7))

        def executor(die_after):
            def execute(tasks):
                for index, task in enumerate(tasks):
                    rows = [tuple("abc".index(p) for p in assignment.values()) for assignment in task]
                    if die_after is not None and len(measured) + len(rows) > die_after:
                        raise KeyboardInterrupt
                    for row in rows:
                        measured[row] = measured.get(row, 0) + 1
                    yield index, np.array([table[row] for row in rows])

            return execute

        def game(path, die_after=None):
            return MemoizedGame(executor(die_after), Memo(path), "context", dict.fromkeys("ghij", "abc"))

        measured: dict[tuple[int, ...], int] = {}
        whole = self.estimate(game(tmp_path / "whole.sqlite"), 3, seed=0)
        n_distinct = len(measured)

        measured.clear()
        with pytest.raises(KeyboardInterrupt):
            self.estimate(game(tmp_path / "cut.sqlite", die_after=n_distinct - 1), 3, seed=0)
        n_stored = Memo(tmp_path / "cut.sqlite").count()
        assert 0 < n_stored == len(measured) < n_distinct
        resumed_game = game(tmp_path / "cut.sqlite")
        resumed = self.estimate(resumed_game, 3, seed=0)

        np.testing.assert_array_equal(resumed.phi, whole.phi)
        np.testing.assert_array_equal(resumed.stderr, whole.stderr)
        assert set(measured.values()) == {1} and len(measured) == n_distinct
        assert resumed_game.n_evaluations == n_distinct - n_stored
