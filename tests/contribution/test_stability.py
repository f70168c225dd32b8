"""Certainty is what fresh draws show: calibration on small games, and closed forms."""

from __future__ import annotations

from itertools import pairwise, product
from statistics import NormalDist

import numpy as np
import pytest

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.stability import stability
from hwsmpq.contribution.stop import Stop

N_GROUPS, N_LEVELS = 6, 3
GROUPS = np.arange(N_GROUPS)
CHOICES = np.array(list(product(range(N_LEVELS), repeat=N_GROUPS)))


class Interacting:
    """Losses of six groups with random terms of pairs and triples, and a budget."""

    n_players, n_levels, base = N_GROUPS, N_LEVELS, 0

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        strength = rng.choice([0.05, 0.1, 0.2, 0.4])
        self.loss = np.sort(rng.lognormal(size=(N_GROUPS, N_LEVELS)), axis=1)[:, ::-1] * np.array([1.0, 1.0, 0.0])
        self.pairs = 0.5 * strength * np.triu(rng.normal(size=(N_GROUPS, N_GROUPS)), 1)
        self.triples = 0.2 * strength * rng.normal(size=(N_GROUPS, N_GROUPS, N_GROUPS))
        cost = np.cumsum(rng.exponential(size=(N_GROUPS, N_LEVELS)), axis=1)[GROUPS, CHOICES].sum(1)
        self.allowed = CHOICES[cost <= np.quantile(cost, rng.uniform(0.2, 0.7))]

    def __call__(self, levels):
        loss = self.loss[GROUPS, levels]
        root = np.sqrt(loss)
        triples = np.einsum("na,nb,nc,abc->n", root, root, root, self.triples)
        return -loss.sum(1) + ((loss @ self.pairs) * loss).sum(1) + triples

    def solve(self, phi):
        return self.allowed[phi[GROUPS, self.allowed].sum(1).argmax()]


def test_what_is_claimed_of_two_draws_is_seen_in_fresh_ones():
    """200 games: of the groups (and plans) that are claimed to stay the same with some chance, that share does."""
    claimed, seen, plans = [], [], []
    for seed in range(200):
        game = Interacting(seed)
        pairs = antithetic(game, Stop(n_draws=24), seed).draws.reshape(12, 2, N_GROUPS, N_LEVELS)
        choice = game.solve(pairs[0].mean(axis=0))
        fresh = np.array([game.solve(pair.mean(axis=0)) == choice for pair in pairs[1:]])
        share, by_group = stability(pairs[0], game.solve, 100, seed)
        claimed.append(by_group)
        seen.append(fresh.mean(axis=0))
        plans.append((share, fresh.all(axis=1).mean()))
    claimed, seen = np.concatenate(claimed), np.concatenate(seen)
    assert np.mean(claimed) == pytest.approx(np.mean(seen), abs=0.02)
    share, same = np.transpose(plans)
    assert share.mean() == pytest.approx(same.mean(), abs=0.04)
    edges = [0.0, 0.7, 0.85, 0.95, 1.01]
    for what, of_plans in (((claimed, seen), False), ((share, same), True)):
        for low, high in pairwise(edges):
            within = (what[0] >= low) & (what[0] < high)
            assert within.sum() >= 15
            tolerance = 0.1 if of_plans else 0.05
            assert what[0][within].mean() == pytest.approx(what[1][within].mean(), abs=tolerance), (low, of_plans)


def best_level(phi):
    return phi.argmax(axis=1)


def test_many_draws_of_one_group_agree_as_normal_means_do():
    rng = np.random.default_rng(0)
    gap = rng.normal(size=200)
    gap += 0.05 - gap.mean()
    draws = np.stack([np.zeros_like(gap), gap], axis=1)[:, None]
    share, by_group = stability(draws, best_level, 4000, seed=0)
    expected = NormalDist().cdf(0.05 / (gap.std(ddof=1) * np.sqrt(2 / len(gap))))
    assert share == by_group[0] == pytest.approx(expected, abs=0.03)


def test_draws_that_agree_are_certain():
    draws = np.repeat(np.random.default_rng(0).normal(size=(1, 4, 3)), 5, axis=0)
    share, by_group = stability(draws, best_level, 20, seed=0)
    assert share == 1 and (by_group == 1).all()


def test_many_draws_tell_which_group_is_uncertain():
    draws = np.zeros((100, 3, 2))
    draws[:, :, 1] = 1.0
    draws[:, 1, 1] = np.random.default_rng(0).normal(scale=5, size=100)
    share, by_group = stability(draws, best_level, 200, seed=0)
    assert by_group[0] == by_group[2] == 1 > by_group[1] == share


def test_same_seed_same_result():
    draws = np.random.default_rng(1).normal(size=(4, 6, 3))
    first, again = (stability(draws, best_level, 30, seed=5) for _ in range(2))
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
