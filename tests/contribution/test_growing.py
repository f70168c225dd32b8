"""Contributions that grow: what they end with, what they leave out, and what their errors are."""

from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.blocks import N_BLOCKS
from hwsmpq.contribution.both_ends import both_ends
from hwsmpq.contribution.growing import ADDS_UP, BOTH_ENDS, again, growing
from hwsmpq.contribution.stop import Stop
from hwsmpq.errors import HwsmpqError

from .games import TableGame, additive_game, pairwise_game

N_SAMPLES = 64


class SampledGame(TableGame):
    """A game of some values with noise on every sample, which differs by group and level and adds up."""

    def __init__(self, game: TableGame, noise: float, n_batches: int = 4, seed: int = 0) -> None:
        super().__init__(game.n_players, game.n_levels, game.value, game.base)
        self.n_batches, self.asked = n_batches, [[] for _ in range(n_batches)]
        shape = (n_batches, game.n_players, game.n_levels, N_SAMPLES)
        self._noise = noise * np.random.default_rng(seed).normal(size=shape)

    def __call__(self, levels):
        return self.samples(levels, 0).mean(1)

    def samples(self, levels, batch):
        rows = [tuple(map(int, row)) for row in levels]
        self.asked[batch] += rows
        noise = self._noise[batch, np.arange(self.n_players), np.asarray(levels)].sum(1)
        return np.array([self.value(row) for row in rows])[:, None] + noise


class Plans:
    """An aim that knows the best plans, whatever is measured, until there are as many draws as suffice."""

    def __init__(self, plans, contains=None, n_draws=10**9) -> None:
        self._plans, self._contains, self._n_draws = np.array(plans), contains, n_draws

    def plans(self, draws):
        return self._plans[:1] if len(draws) >= self._n_draws else self._plans

    def may_contain(self, draws):
        return np.ones(draws.shape[1:], dtype=bool) if self._contains is None else self._contains


def test_where_effects_add_up_nothing_but_the_top_is_measured():
    game, terms = additive_game(5, 3)
    table = growing(SampledGame(game, 0.01), Stop(n_draws=2), 0)
    assert table.estimator == ADDS_UP and table.n_evaluations == 2 + 5 * 2 + 4
    assert (np.abs(table.phi - terms) <= 5 * table.stderr + 1e-12).all() and table.drawn == "samples"


def test_where_they_do_not_the_other_end_is_measured_too():
    game = pairwise_game(5)
    sampled = SampledGame(game, 0.0)
    table = growing(sampled, Stop(n_draws=2), 0)
    assert table.estimator == BOTH_ENDS
    np.testing.assert_allclose(table.phi, both_ends(game).phi, atol=1e-12)
    assert table.n_evaluations == len(sampled.asked[0]) == 2 + 2 * 5 + 4


def test_interactions_below_the_noise_of_the_samples_count_for_nothing():
    game = pairwise_game(5)
    assert growing(SampledGame(game, 100.0), Stop(n_draws=2), 0).estimator == ADDS_UP


def test_mixtures_are_those_of_the_aim():
    game, plan = SampledGame(pairwise_game(5), 0.0), (1, 0, 1, 0, 1)
    table = growing(game, Stop(n_draws=2, aim=Plans([plan, plan])), 0)
    assert plan in game.asked[0] and table.n_evaluations == 2 + 2 * 5 + 1


def test_only_levels_that_plans_differ_in_grow():
    game = SampledGame(pairwise_game(5), 0.1)
    table = growing(game, Stop(n_draws=10, aim=Plans([(1, 0, 1, 0, 1), (1, 1, 1, 0, 1)])), 0)
    assert len(table.draws) == 4 * N_BLOCKS and all(len(rows) == 4 for rows in game.asked[1:])
    grown = np.isfinite(table.draws[N_BLOCKS:]).any(axis=0)
    assert grown[1].all() and not np.delete(grown, 1, axis=0).any()
    assert table.n_evaluations == sum(map(len, game.asked))
    np.testing.assert_allclose(table.draws[:, 1].mean(axis=0), table.phi[1], atol=1e-12)
    np.testing.assert_allclose(table.draws[:N_BLOCKS, 0].mean(axis=0), table.phi[0], atol=1e-12)


def test_growth_ends_with_the_doubts():
    game = SampledGame(pairwise_game(5), 0.1)
    aim = Plans([(1, 0, 1, 0, 1), (1, 1, 1, 0, 1)], n_draws=2 * N_BLOCKS)
    assert len(growing(game, Stop(n_draws=10, aim=aim), 0).draws) == 2 * N_BLOCKS


@pytest.mark.parametrize("stop", [{"n_evaluations": 20}, {"n_draws": 2}, {"n_draws": 9, "stable": lambda draws: True}])
def test_growth_ends_with_the_evaluations_or_where_draws_suffice(stop):
    plans = [(0,) * 5, (1,) * 5]
    table = growing(SampledGame(pairwise_game(5), 0.1), Stop(**stop, aim=Plans(plans)), 0)
    assert len(table.draws) == N_BLOCKS


def test_what_no_plan_can_contain_is_never_measured_at_the_base():
    contains = np.ones((5, 2), dtype=bool)
    contains[3, 1] = False
    game = SampledGame(pairwise_game(5), 0.1)
    table = growing(game, Stop(n_draws=2, aim=Plans([(1, 0, 1, 0, 1), (1, 1, 1, 0, 1)], contains)), 0)
    assert np.argwhere(~np.isfinite(table.phi)).tolist() == [[3, 1]] and not np.isfinite(table.stderr[3, 1])
    assert (0, 0, 0, 1, 0) not in game.asked[0] and (0, 0, 1, 0, 0) in game.asked[0]


def test_errors_are_those_of_the_samples():
    errors, claimed = [], []
    for seed in range(200):
        table = growing(SampledGame(pairwise_game(4), 0.2, n_batches=1, seed=seed), Stop(n_draws=2), 0)
        errors.append(table.phi - both_ends(pairwise_game(4)).phi)
        claimed.append(table.stderr**2)
    spread = np.sqrt(np.mean(np.square(errors), axis=0))[:, 1]
    np.testing.assert_allclose(np.sqrt(np.mean(claimed, axis=0))[:, 1] / spread, 1, atol=0.2)


def test_what_was_measured_is_requested_again():
    game = SampledGame(pairwise_game(5), 0.0)
    growing(game, Stop(n_draws=2, aim=Plans([(1, 0, 1, 0, 1)])), 0)
    known, game.asked = set(game.asked[0]), [[]]
    again(game, np.ones((5, 2), dtype=bool))
    assert set(game.asked[0]) == known - {(1, 0, 1, 0, 1)} and len(game.asked[0]) == 2 + 2 * 5
    game.asked = [[]]
    again(game, None)
    assert len(game.asked[0]) == 2 + 5


def test_value_that_is_not_finite_is_refused():
    game = SampledGame(TableGame(3, 2, lambda row: np.nan if sum(row) == 2 else 0.0), 0.0)
    with pytest.raises(HwsmpqError, match="value of an assignment is"):
        growing(game, Stop(n_draws=2), 0)
