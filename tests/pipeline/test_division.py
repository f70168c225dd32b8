"""A budget of time: how it is divided, what is foreseen, and that a run ends by it with a plan."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS
from tiny_task import task

from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline import division
from hwsmpq.pipeline.clock import Clock
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.division import Pace, divide, divided, foresee
from hwsmpq.pipeline.outlook import WHOLE, Outlook
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.search import preferred as preferring
from hwsmpq.types import Budget, Contributions, Division, Plan, Settings, StageTime

PACE = Pace(sample_s=0.01, build_s=2.0, n_groups=50, n_levels=3, n_report=300, times_engines=True)


def whole(settings: Settings, pace: Pace = PACE) -> float:
    parts = (*pace.profile(settings), pace.contributions(settings), pace.scores(settings), pace.race(settings))
    return sum(parts) + sum(pace.proof(settings))


@pytest.mark.parametrize("minutes", [5, 10, 20, 60, 240])
def test_what_is_chosen_fits_into_the_budget(minutes: float) -> None:
    chosen = divide(PACE, 60 * minutes, Settings(minutes=minutes))
    assert whole(chosen) <= 60 * minutes


def test_more_time_buys_more() -> None:
    chosen = [divide(PACE, 60.0 * minutes, Settings()) for minutes in (2, 5, 10, 20, 60, 240)]
    spent = [PACE.contributions(one) for one in chosen]
    assert spent == sorted(spent) and chosen[0].n_score_samples < 256 and chosen[-1].n_pairs == division.MOST_PAIRS
    races = [PACE.race(one) for one in chosen]
    assert races[0] < races[-1]
    assert [one.n_mixtures for one in chosen] == sorted(one.n_mixtures for one in chosen)


def test_what_the_user_asked_for_stays() -> None:
    asked = Settings(n_score_samples=200, search_evaluations=77, n_pairs=3, n_mixtures=5)
    for left_s in (10.0, 1e6):
        chosen = divide(PACE, left_s, asked)
        assert (chosen.n_score_samples, chosen.search_evaluations, chosen.n_pairs, chosen.n_mixtures) == (200, 77, 3, 5)
    assert divide(PACE, 10.0, Settings(estimator="sobol")).estimator == "sobol"


def test_no_budget_no_division(tmp_path: Path) -> None:
    run = Run(tmp_path, QDQ_SETTINGS, task())
    assert divided(run) is run and run.seconds_left == float("inf")


def test_minutes_must_be_positive() -> None:
    with pytest.raises(HwsmpqError, match="minutes is 0"):
        Settings(minutes=0)


def test_an_interrupted_run_goes_on_with_its_division(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(QDQ_SETTINGS, minutes=5.0, n_score_samples=None)
    first = divided(Run(tmp_path, settings, task()))
    known = first.read(Division)
    assert first.settings.n_score_samples == known.n_score_samples and divided(first) is first
    monkeypatch.setattr(division, "_pace", lambda *args, **kwargs: pytest.fail("measured again"))
    again = divided(Run(tmp_path, settings, task()))
    assert again.settings == first.settings
    assert again.score_batch.sha256() == first.score_batch.sha256()
    assert again.inputs(Contributions, until=None) == first.inputs(Contributions, until=None)
    assert Run(tmp_path).settings.n_score_samples != 0 and Run(tmp_path).asked == again.asked


def test_a_run_that_has_no_time_left_ends_with_a_plan(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    settings = replace(QDQ_SETTINGS, minutes=0.001, n_score_samples=None, n_pairs=Settings.n_pairs)
    run = Run(tmp_path, settings, task(), status=lambda stage, text: told.append((stage, text)))
    limit = sum(run.network.bitops(group, run.ladder["int8"]) for group in run.network.group_names)
    certificate = refine(run, (Budget("bitops", limit / 2),))
    assert run.read(Plan).bitops <= limit / 2 and certificate.budgets[0].met
    assert any(stage == WHOLE and "about" in text for stage, text in told)


@pytest.mark.parametrize(("settings", "budget"), [
    (QDQ_SETTINGS, {"max_drop": 100.0}), (OPENVINO_SETTINGS, {"speedup": 0.2}),
])
def test_what_may_not_be_needed_is_not_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, budget: dict[str, float]
) -> None:
    """Where the cheapest plan is enough, nothing is said of contributions, and no evaluation is timed."""
    monkeypatch.setattr(division, "_sample_s", lambda prepared: pytest.fail("timed"))
    monkeypatch.setattr(preferring, "Z_SURE", 1e9)
    told: list[tuple[str, str]] = []
    run = Run(tmp_path, settings, task(), status=lambda stage, text: told.append((stage, text)))
    refine(run, resolve_budgets(run, **budget, whole=True))
    said = [text for stage, text in told if stage == WHOLE]
    assert said and not any("contributions" in text or "race" in text for text in said)


def test_an_evaluation_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    measure = division._sample_s
    monkeypatch.setattr(division, "_sample_s", lambda prepared: calls.append(1) or measure(prepared))
    run = Run(tmp_path, replace(QDQ_SETTINGS, minutes=5.0, n_score_samples=None), task())
    foresee(divided(run), whole=True)
    foresee(run, whole=True)
    assert len(calls) == 1


class At(Clock):
    """A clock that shows what it is set to."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    @property
    def times(self) -> tuple[StageTime, ...]:
        return tuple(StageTime(stage, wall, wall) for stage, wall in self.seconds.items())


def test_what_is_left_follows_what_was_taken() -> None:
    clock = At()
    clock.seconds = {"contribute": 1000.0}  # of an earlier process
    outlook = Outlook(clock)
    assert outlook.expect({"uniform_costs": 60.0, "search": 120.0}) and outlook.expect({"contribute": 180.0})
    assert not outlook.expect({"search": 1e9})
    assert outlook.said() == "about 6 minutes: profile 1, contributions 3, race 2"
    clock.seconds = {"contribute": 1090.0, "uniform_costs": 0.0}
    assert outlook.left == {"uniform_costs": 60.0, "contribute": 90.0, "search": 120.0}
    clock.seconds = {"contribute": 1180.0, "uniform_costs": 300.0}
    assert outlook.finish("contribute") and outlook.finish("uniform_costs") and not outlook.finish("uniform_costs")
    assert outlook.left == {"search": 240.0}  # twice as slow as thought
    assert outlook.said() == "about 4 minutes: race 4"
    clock.seconds = {"contribute": 1180.0, "uniform_costs": 300.0, "search": 200.0}
    assert outlook.said() == "about 40 seconds: race 40"
    assert not outlook.finish("build")
    clock.seconds["search"] = 239.0
    assert outlook.said() == "about 1 second: race 1"


def test_time_counts_from_the_opening(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(QDQ_SETTINGS, minutes=1.0), task())
    first = run.seconds_left
    time.sleep(0.05)
    assert 0 < run.seconds_left <= first - 0.05 < 60
