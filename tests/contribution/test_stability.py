from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hwsmpq.contribution.stability import bootstrap


def best_level(phi):
    return phi.argmax(axis=1)


def test_equals_all_resamples_of_few_draws():
    draws = np.random.default_rng(3).normal(size=(3, 2, 2))
    chosen = np.array([best_level(draws[list(r)].mean(axis=0)) for r in product(range(3), repeat=3)])
    same = chosen == best_level(draws.mean(axis=0))
    found = bootstrap(draws, best_level, 4000, seed=0)
    assert 0.1 < same.all(axis=1).mean() < 0.9
    assert found.share == pytest.approx(same.all(axis=1).mean(), abs=0.04)
    np.testing.assert_allclose(found.certainty, same.mean(axis=0), atol=0.04)
    np.testing.assert_array_equal(found.choice, best_level(draws.mean(axis=0)))


def test_draws_that_agree_are_certain():
    draws = np.repeat(np.random.default_rng(0).normal(size=(1, 4, 3)), 5, axis=0)
    found = bootstrap(draws, best_level, 20, seed=0)
    assert found.share == 1 and (found.certainty == 1).all()


def test_only_the_uncertain_group_is_uncertain():
    draws = np.zeros((10, 3, 2))
    draws[:, :, 1] = 1.0
    draws[:, 1, 1] = np.random.default_rng(0).normal(scale=5, size=10)
    found = bootstrap(draws, best_level, 200, seed=0)
    assert found.certainty[0] == found.certainty[2] == 1 > found.certainty[1] == found.share


def test_same_seed_same_result():
    draws = np.random.default_rng(1).normal(size=(4, 6, 3))
    first, again = (bootstrap(draws, best_level, 30, seed=5) for _ in range(2))
    assert first.share == again.share
    np.testing.assert_array_equal(first.certainty, again.certainty)
