"""The pairs that a run records: those of a function whose pairs are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Finished

from hwsmpq.pipeline.decide.costs import costs_of
from hwsmpq.pipeline.decide.interactions import record_interactions
from hwsmpq.pipeline.evaluate.contribute import contribute
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.search.problem import Problem
from hwsmpq.types import Cost, Interactions


def recorded(run: Run, together: float) -> Interactions:
    """Of an additive value, but for what the first and the third group lose together at the floor."""
    run.path(Interactions).unlink()
    n_groups, n_levels = len(run.network.groups), len(run.ladder.names)
    rng = np.random.default_rng(0)
    table = -np.outer(rng.uniform(0.5, 1.5, n_groups), np.linspace(1, 0, n_levels))
    levels = rng.integers(n_levels, size=(200, n_groups))
    values = table[np.arange(n_groups), levels].sum(1) + together * ((levels[:, 0] == 0) & (levels[:, 2] == 0))
    problem = Problem(Cost(table), costs_of(run.network, run.ladder, None), {"bitops": 1e12})
    return record_interactions(prepare(run), problem, contribute(run), levels, values)


@pytest.mark.parametrize("together", [-2.0, 2.0])
def test_the_strongest_pair_is_the_one_that_interacts(qdq_copy: Path, qdq_run: Finished, together: float) -> None:
    run = qdq_run.open(qdq_copy)
    first, second, value = recorded(run, together).pairs[0]
    names = run.network.group_names
    assert {first, second} == {names[0], names[2]}
    assert np.sign(value) == np.sign(together) and abs(value) < 2 * abs(together)


def test_an_additive_value_has_none(qdq_copy: Path, qdq_run: Finished) -> None:
    assert recorded(qdq_run.open(qdq_copy), 0.0).pairs == ()


def test_a_search_records_them_with_what_they_rest_on(qdq_run: Finished) -> None:
    run = qdq_run.open()
    found, contributions = run.read(Interactions), contribute(run)
    assert (found.low, found.high, found.value) == (contributions.start, "fp32", contributions.value)
    assert found.n_evaluations > 0
    sizes = [abs(value) for _, _, value in found.pairs]
    assert sizes == sorted(sizes, reverse=True)
