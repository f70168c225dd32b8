"""The front that is found against its definition, on values whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hwsmpq.search import front as fronts
from hwsmpq.search.front import behind, front_of
from hwsmpq.search.race import Standing

SIZES = (20, 60, 120)


class Measured:
    """Values of choices (n, 1) on batches; remembers who was measured on which batch."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values
        self.asked: list[list[int]] = [[] for _ in SIZES]

    def __call__(self, choices: NDArray[np.int64], batch: int) -> NDArray[np.float64]:
        self.asked[batch] += choices[:, 0].tolist()
        start = sum(SIZES[:batch])
        return self.values[choices[:, 0], start : start + SIZES[batch]]


def cast(n: int, seed: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(costs (n,), values (n, n_samples)): more cost gives more value on average, samples have much in common."""
    rng = np.random.default_rng(seed)
    costs = rng.uniform(1, 2, n)
    means = costs - 0.5 * rng.random(n)
    return costs, means[:, None] + rng.normal(0, 3, sum(SIZES)) + rng.normal(0, noise, (n, sum(SIZES)))


def non_dominated(costs: NDArray[np.float64], means: NDArray[np.float64]) -> set[int]:
    """The definition: no other costs no more and is worth no less, unless both are the same."""
    n = range(len(costs))
    return {
        i for i in n
        if not any(
            costs[j] <= costs[i] and means[j] >= means[i] and (costs[j], -means[j], j) < (costs[i], -means[i], i)
            for j in n
        )
    }


@pytest.mark.parametrize("seed", range(5))
def test_without_the_noise_rule_it_is_the_set_of_the_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "Z_BEHIND", np.inf)
    costs, values = cast(60, seed, noise=1.0)
    found = front_of(np.arange(60)[:, None], costs, Measured(values), 3, 60, np.zeros(60, dtype=bool))
    assert set(found) == non_dominated(costs, values.mean(1))
    assert np.all(np.diff(costs[found]) > 0) and np.all(np.diff(values.mean(1)[found]) > 0)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_surely_behind_is_measured_no_further(seed: int) -> None:
    costs, values = cast(60, seed, noise=0.3)
    measure = Measured(values)
    found = front_of(np.arange(60)[:, None], costs, measure, 3, 60, np.zeros(60, dtype=bool))
    dropped = set(range(60)) - set(measure.asked[1])
    assert len(dropped) > 10 and len(measure.asked[2]) <= len(measure.asked[1])
    for i in dropped:
        cheaper = [j for j in range(60) if costs[j] <= costs[i] and j != i]
        ahead = values[cheaper, : SIZES[0]] - values[i, : SIZES[0]]
        assert max(ahead.mean(1) / ahead.std(1, ddof=1) * np.sqrt(SIZES[0])) >= fronts.Z_BEHIND
    # With so little noise nothing of the front is lost, and the true means are found again.
    assert set(found) == non_dominated(costs, values.mean(1))


def test_the_least_behind_go_on_and_what_is_settled_always_does() -> None:
    costs, values = cast(40, seed=0, noise=2.0)
    settled = np.zeros(40, dtype=bool)
    settled[[3, 17]] = True
    measure = Measured(values)
    front_of(np.arange(40)[:, None], costs, measure, 3, 6, settled)
    standings = [Standing(np.array([i]), values[i, : SIZES[0]]) for i in range(40)]
    least = set(np.argsort(behind(costs, standings), kind="stable")[:6].tolist())
    assert set(measure.asked[1]) == least | {3, 17}
    assert {3, 17} <= set(measure.asked[2]) and len(measure.asked[2]) <= 8
    assert len(measure.asked[0]) == 40


def test_equal_costs_and_equal_values_leave_one() -> None:
    values = np.array([[0.0, 1.0], [1.0, 2.0], [1.0, 2.0], [3.0, 0.0], [2.0, 3.0]])
    standings = [Standing(np.array([i]), row) for i, row in enumerate(values)]
    costs = np.array([1.0, 1.0 + 1e-15, 1.0, 2.0, 3.0])
    found = behind(costs, standings)
    assert found[1] == -np.inf  # the best of the cheapest, whatever the rounding of their costs; the earlier one
    assert found[0] > 0 and found[2] == 0
    assert found[3] == 0  # as good as a cheaper one on average
    assert found[4] < 0
