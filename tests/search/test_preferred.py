"""What is taken of choices whose true values, noise and times are known."""

from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.search.preferred import preferred
from hwsmpq.search.race import Race, Standing

N = 400


def standings(values: list[float], noise: float, seed: int = 0) -> list[Standing]:
    """Paired differences have a standard error of ``noise``; what all samples share is a thousand times that."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=N) * 1e3 * noise * np.sqrt(N)
    own = rng.normal(size=(len(values), N)) * noise * np.sqrt(N / 2)
    return [Standing(np.array([i]), value + shared + own[i]) for i, value in enumerate(values)]


def taken(
    values: list[float], costs: list[float], simple: list[int] | None = None, seed: int = 0, **given: bool
) -> int:
    complexity = [(n,) for n in simple or [0] * len(costs)]
    return preferred(standings(values, 0.01, seed), np.array(costs), 0.1, complexity, **given)


def test_the_fastest_of_what_is_worth_the_same_and_nothing_that_is_worth_less() -> None:
    """The second is as good as the first and faster; the third is faster yet, and loses ten standard errors."""
    found = [taken([0.0, 0.0, -0.1], [3.0, 2.0, 1.0], seed=seed) for seed in range(200)]
    assert 2 not in found
    # One in fifty pairs of equals differs by two standard errors in one direction.
    assert found.count(1) >= 190


def test_a_faster_one_that_is_worth_more_is_no_worse() -> None:
    assert taken([0.0, 0.1], [2.0, 1.0]) == 1


def test_a_slower_one_has_to_be_worth_more_surely() -> None:
    found = [taken([0.05, 0.0], [2.0, 1.0], seed=seed) for seed in range(200)]
    assert found.count(0) >= 198, "five standard errors buy time"
    found = [taken([0.005, 0.0], [2.0, 1.0], seed=seed) for seed in range(200)]
    assert found.count(1) >= 170, "half of one does not: 187 are expected"


def test_of_what_takes_the_same_time_the_simplest_and_the_first() -> None:
    assert taken([0.0] * 3, [1.05, 1.0, 1.5], [2, 3, 1]) == 0
    assert taken([0.0] * 3, [1.05, 1.0, 1.2], [3, 3, 1]) == 0


def test_where_time_is_sought_value_decides_between_what_takes_the_same() -> None:
    assert taken([0.1, 0.0, 0.5], [1.05, 1.0, 1.5], cost_first=True) == 0
    assert taken([0.1, 0.0], [1.2, 1.0], cost_first=True) == 1


@pytest.mark.parametrize("allowance", [1e9, 8])
def test_what_is_faster_is_measured_until_one_is_no_worse(allowance: float) -> None:
    """Choice k is k times as slow as it is worth less below 7; from there on all are worth the same."""
    sizes, asked = (100, 300), list[tuple[int, int]]()

    def measure(choices: np.ndarray, batch: int) -> np.ndarray:
        asked.extend((int(choice[0]), batch) for choice in choices)
        noise = np.random.default_rng(batch).normal(size=(8, sizes[batch])) * 0.01
        return np.array([noise[min(7, choice[0])] - max(0, 7 - choice[0]) for choice in choices])

    race = Race(measure, sizes, allowance)
    leader = race.best([np.array([11])])[0]
    race.match(leader, [np.array([k]) for k in range(11)])
    whole = {int(s.choice[0]) for s in race.measured if len(s.values) == 400} - {11}
    assert race.n_evaluations <= allowance
    if allowance > 8:
        assert whole == {7} and {k for k, _ in asked} == {*range(8), 11}
        race.match(leader, [np.array([k]) for k in range(11)], lambda choice: choice[0] == 9)
        assert {int(s.choice[0]) for s in race.measured if len(s.values) == 400} == {7, 8, 9, 10, 11}
