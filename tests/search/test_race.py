"""Races on synthetic values whose true order is known."""

from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.search.race import Race, Standing, z_score

SIZES = (64, 192, 768)


class Values:
    """Choice (k,) is worth -k * step on average; noise is shared by all choices, and a little is its own."""

    def __init__(self, step: float, own_noise: float, seed: int = 0) -> None:
        self.step, self.own, self.seed = step, own_noise, seed
        self.requests: list[tuple[int, int]] = []

    def __call__(self, choices: np.ndarray, batch: int) -> np.ndarray:
        self.requests += [(int(choice[0]), batch) for choice in choices]
        shared = np.random.default_rng([self.seed, batch]).normal(size=SIZES[batch])
        own = [np.random.default_rng([self.seed, batch, int(c[0])]).normal(size=SIZES[batch]) for c in choices]
        return np.array([-self.step * c[0] + 5 * shared + self.own * o for c, o in zip(choices, own, strict=True)])


def choices(*levels: int) -> list[np.ndarray]:
    return [np.array([level]) for level in levels]


def test_z_score_by_hand() -> None:
    one, other = Standing(np.array([0]), np.array([1.0, 2.0, 4.0])), Standing(np.array([1]), np.array([0.0, 2.0, 1.0]))
    difference = np.array([1.0, 0.0, 3.0])
    assert z_score(one, other) == pytest.approx(difference.mean() / (difference.std(ddof=1) / np.sqrt(3)))
    assert z_score(one, one) == 0
    assert z_score(Standing(np.array([0]), np.ones(3)), Standing(np.array([1]), np.zeros(3))) == np.inf


def test_shared_noise_does_not_hide_the_best() -> None:
    """Shared noise is 5 times the step between neighbours' sum; only paired comparison finds the order."""
    wins = []
    for seed in range(20):
        race = Race(Values(0.3, 1.0, seed), SIZES, 1e9)
        wins.append(int(race.best(choices(7, 3, 0, 5, 1, 6, 2, 4))[0].choice[0]))
    assert wins.count(0) >= 18, wins


def test_batches_grow_as_candidates_shrink() -> None:
    values = Values(0.3, 1.0)
    Race(values, SIZES, 1e9).best(choices(*range(12)))
    per_batch = [len({c for c, batch in values.requests if batch == b}) for b in range(3)]
    assert per_batch[0] == 12 and 1 <= per_batch[2] <= per_batch[1] <= 4
    assert len(values.requests) == len(set(values.requests))


def test_equal_choices_all_reach_the_last_batch_up_to_the_least_kept() -> None:
    values = Values(0.0, 0.0)
    standings = Race(values, SIZES, 1e9).best(choices(0, 1, 2))
    assert [len(s.values) for s in standings] == [sum(SIZES)] * 3


@pytest.mark.parametrize("allowance", [10, 14, 25, 60])
def test_allowance_is_kept_beyond_the_first_batch(allowance: int) -> None:
    values = Values(0.01, 1.0)
    race = Race(values, SIZES, allowance)
    leader = race.best(choices(*range(10)))[0]
    race.improve(leader, lambda standing, seen: choices(*range(10 + len(seen), 34 + len(seen))))
    spent = sum(SIZES[batch] for _, batch in values.requests) / SIZES[0]
    assert race.n_evaluations == pytest.approx(spent)
    assert spent <= allowance


def test_time_that_is_up_ends_after_the_first_batch() -> None:
    values = Values(0.1, 1.0)
    standings = Race(values, SIZES, 1e9, max_seconds=0.0).best(choices(0, 1, 2))
    assert {batch for _, batch in values.requests} == {0} and len(standings) == 3


def test_improvement_needs_evidence() -> None:
    """Among proposals that are no better, chance alone replaces the leader rarely; a better one always does."""
    changed, found = 0, 0
    for seed in range(40):
        race = Race(Values(0.0, 1.0, seed), SIZES, 1e9)
        leader = race.best(choices(0))[0]
        moved = race.improve(leader, lambda standing, seen: [] if seen else choices(*range(1, 9)))
        changed += moved.choice[0] != 0
        race = Race(Values(0.3, 1.0, seed), SIZES, 1e9)
        leader = race.best(choices(4))[0]
        moved = race.improve(leader, lambda standing, seen: [] if seen else choices(1, 3, 5, 6, 7, 8))
        found += moved.choice[0] == 1
    assert changed <= 5, changed
    assert found >= 38, found


def test_of_a_whole_round_of_equal_neighbours_one_in_twenty_rounds_replaces_the_leader() -> None:
    """400 searches with 24 neighbours that are worth the same: 2.6 standard deviations above what 5 % gives."""
    changed = 0
    for seed in range(400):
        race = Race(Values(0.0, 1.0, seed), SIZES, 1e9)
        leader = race.best(choices(0))[0]
        changed += race.improve(leader, lambda _, seen: [] if seen else choices(*range(1, 25))).choice[0] != 0
    assert changed <= 31, changed


def test_improvement_goes_on_from_the_new_leader() -> None:
    race = Race(Values(1.0, 0.1), SIZES, 1e9)
    leader = race.best(choices(6))[0]
    asked: list[int] = []

    def propose(standing: Standing, seen: list[np.ndarray]) -> list[np.ndarray]:
        asked.append(int(standing.choice[0]))
        return choices(max(0, asked[-1] - 1), asked[-1] + 1)

    assert race.improve(leader, propose).choice[0] == 0
    assert asked == [6, 5, 4, 3, 2, 1, 0]
