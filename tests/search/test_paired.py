"""Bounds of a drop: exact where that is defined, and at least as safe as they say everywhere else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hwsmpq.search.paired import drop

CONFIDENCE = 0.95


def outcomes(n_worse: int, n_better: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """0/1 metrics of reference and plan on n samples: some right samples become wrong, some wrong ones right."""
    reference, plan = np.ones(n), np.ones(n)
    plan[:n_worse] = 0
    reference[n_worse : n_worse + n_better] = 0
    return reference, plan


def bound(n_worse: int, n_better: int, n: int, confidence: float = CONFIDENCE) -> float:
    return drop(*outcomes(n_worse, n_better, n), confidence).bound


@pytest.mark.parametrize("confidence", [0.6, 0.95])
def test_where_no_sample_gains_the_bound_is_clopper_and_pearsons(confidence: float) -> None:
    for n_worse, n in itertools.product((0, 1, 3, 9), (10, 48, 1000)):
        exact = stats.binomtest(n_worse, n, alternative="less").proportion_ci(confidence, method="exact").high
        assert bound(n_worse, 0, n, confidence) == pytest.approx(100 * exact, abs=1e-6)
    assert bound(10, 0, 10) == 100


def test_no_change_bounds_a_drop_whatever_the_scale_of_the_metric() -> None:
    share = 1 - 0.05 ** (1 / 50)
    for values in (np.ones(50), np.zeros(50), np.linspace(0, 1, 50), np.array([0.0, -1.0] * 25)):
        assert drop(values, values, CONFIDENCE).bound == pytest.approx(100 * share, abs=1e-6)
    percent = np.array([0.0, 100.0] * 25)
    assert drop(percent, percent, CONFIDENCE).bound == pytest.approx(100 * 100 * share, abs=1e-4)


@pytest.mark.parametrize(("worse", "better"), [(0.02, 0.02), (0.05, 0.05), (0.1, 0.02), (0.02, 0.1), (0.3, 0.3)])
def test_bounds_hold_at_least_as_often_as_they_say(worse: float, better: float) -> None:
    """The chance of every outcome of 40 samples, added up where the bound lies above the true drop."""
    n, covered, whole = 40, 0.0, 0.0
    table = stats.multinomial(n, [worse, better, 1 - worse - better])
    for w, b in itertools.product(range(n + 1), repeat=2):
        chance = table.pmf([w, b, n - w - b]) if w + b <= n else 0.0
        if chance > 1e-5:
            whole += chance
            covered += chance * (bound(w, b, n) >= 100 * (worse - better) - 1e-9)
    assert covered / whole >= CONFIDENCE - 0.002 and whole > 0.995


def test_many_changes_are_as_near_as_the_normal_bound() -> None:
    for n_worse, n_better, n in ((300, 260, 20_000), (260, 300, 20_000), (900, 100, 4000)):
        found = drop(*outcomes(n_worse, n_better, n), CONFIDENCE)
        assert found.points == pytest.approx(100 * (n_worse - n_better) / n)
        normal = found.points + stats.norm.ppf(CONFIDENCE) * found.stderr
        assert abs(found.bound - normal) < 0.06 * stats.norm.ppf(CONFIDENCE) * found.stderr


def test_bounds_of_other_metrics_are_students() -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(size=30)
    lost = rng.normal(0.01, 0.02, 30)
    found = drop(reference, reference - lost, CONFIDENCE)
    exact = stats.ttest_1samp(lost, 0).confidence_interval(2 * CONFIDENCE - 1).high
    assert found.bound == pytest.approx(100 * exact)
    assert found.stderr == pytest.approx(100 * stats.sem(lost))
