"""The floor check: dead levels are named before the budget is spent, and contributions start above them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QDQ_SETTINGS
from tiny_task import images, network, task

from hwsmpq.contribution.memo import Memo
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.evaluate import floor
from hwsmpq.pipeline.evaluate.contribute import contribute, observed
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.stages import MEMO_FILE
from hwsmpq.types import Settings

# Two bits leave the tiny network half of its distance from chance.
DEMANDED = 0.6
DEAD_FLOOR = replace(QDQ_SETTINGS, ladder=("w2a2", "int8", "fp32"), n_score_samples=48, estimator="antithetic")


@pytest.fixture(autouse=True)
def demanding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "LEAST_SHARE", DEMANDED)


def open_run(folder: Path, settings: Settings, heard: list[str], subject: Task | None = None) -> Run:
    return Run(folder, settings, subject or task(), notify=heard.append)


def test_dead_floor_is_named_and_contributions_start_above_it(tmp_path: Path) -> None:
    heard: list[str] = []
    run = open_run(tmp_path, DEAD_FLOOR, heard)
    found = contribute(run)
    assert found.base == "int8"
    assert len(heard) == 1 and "w2a2" in heard[0] and "int8" in heard[0] and "chance" in heard[0]
    assert all(row["int8"] == 0 for row in found.phi.values())
    assert all(row["w2a2"] < 0 for row in found.phi.values())
    gained = sum(row["fp32"] for row in found.phi.values())
    assert gained == pytest.approx(found.top_value - found.floor_value, abs=1e-6)


def test_no_background_is_dead(tmp_path: Path) -> None:
    """Besides the check itself no assignment has more than one group below the base."""
    run = open_run(tmp_path, DEAD_FLOOR, [])
    levels, _ = observed(prepare(run), contribute(run))
    assert (levels == 0).sum(1).max() == 1 and (levels == 0).sum() > 0


def test_a_robust_group_may_still_go_below_the_base(tmp_path: Path) -> None:
    """A budget that uniform int8 misses can only be kept with a group at the dead level."""
    run = open_run(tmp_path, DEAD_FLOOR, [])
    int8 = sum(run.network.bitops(g, run.ladder["int8"]) for g in run.network.group_names)
    plan = search(run, resolve_budgets(run, bitops=str(0.8 * int8)))
    assert "w2a2" in plan.assignment.values() and plan.bitops <= 0.8 * int8


@pytest.mark.parametrize("estimator", ["growing", "antithetic", "fisher"])
def test_where_the_top_alone_is_alive_groups_are_measured_and_chosen_one_by_one(tmp_path: Path, estimator: str) -> None:
    heard: list[str] = []
    run = open_run(tmp_path, replace(DEAD_FLOOR, ladder=("w2a2", "fp32"), estimator=estimator), heard)
    found = contribute(run)
    assert found.base == "fp32" and "start from fp32" in heard[0]
    assert all(row["fp32"] == 0 and np.isfinite(row["w2a2"]) for row in found.phi.values())
    assert found.floor_value == found.top_value
    fp32 = sum(run.network.bitops(g, run.ladder["fp32"]) for g in run.network.group_names)
    plan = search(run, resolve_budgets(run, bitops=str(0.6 * fp32)))
    assert set(plan.assignment.values()) == {"w2a2", "fp32"} and plan.bitops <= 0.6 * fp32


def test_living_floor_is_kept_without_a_word(tmp_path: Path) -> None:
    heard: list[str] = []
    assert contribute(open_run(tmp_path, replace(QDQ_SETTINGS, ladder=("int8", "fp32")), heard)).base == "int8"
    assert heard == []


def test_the_user_may_name_the_base(tmp_path: Path) -> None:
    heard: list[str] = []
    assert contribute(open_run(tmp_path, replace(DEAD_FLOOR, base="w2a2"), heard)).base == "w2a2"
    assert heard == []


def test_ladder_that_is_dead_throughout_is_refused_before_it_costs_much(tmp_path: Path) -> None:
    settings = replace(DEAD_FLOOR, ladder=("w2a2", "w2a3"))
    with pytest.raises(HwsmpqError, match="every precision of the ladder destroys"):
        contribute(open_run(tmp_path, settings, []))
    assert Memo(tmp_path / MEMO_FILE).count() == 2


def test_metric_that_cannot_tell_the_reference_from_chance_calls_nothing_dead(tmp_path: Path) -> None:
    inputs = images(96, seed=1)
    labels = torch.zeros(96, dtype=torch.long)  # one class: shuffling the labels changes nothing
    subject = Task(network(), images(16, seed=2), (inputs, labels))
    heard: list[str] = []
    assert contribute(open_run(tmp_path, DEAD_FLOOR, heard, subject)).base == "w2a2"
    assert heard == []


def test_contributions_below_the_base_are_effects_on_living_backgrounds(tmp_path: Path) -> None:
    """Each from its definition: average over the walks of the value with that group at w2a2 less its background."""
    run = open_run(tmp_path, DEAD_FLOOR, [])
    found = contribute(run)
    levels, values = observed(prepare(run), found)
    by_row = {tuple(row): value for row, value in zip(levels.tolist(), values, strict=True)}
    group = 1
    effects = []
    for row in levels[(levels[:, group] == 0)]:
        background = row.copy()
        background[group] = 1
        effects.append(by_row[tuple(row.tolist())] - by_row[tuple(background.tolist())])
    name = run.network.group_names[group]
    assert len(effects) == found.n_permutations
    assert found.phi[name]["w2a2"] == pytest.approx(float(np.mean(effects)), abs=1e-6)
