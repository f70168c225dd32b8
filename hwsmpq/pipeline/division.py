"""A budget of time, divided over the stages that can take more or less; and how long these will take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hwsmpq.contribution.estimators import ESTIMATORS
from hwsmpq.pipeline.outlook import Outlook
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import Contributions, CostTable, Division, Plan, Scores, Settings

N_PROBED = 16
"""Samples that an evaluation is timed on."""
WALKED = 0.55
"""Share of an evaluation that one costs which differs from the one before it in one group."""
GROWING, TAKEN = "growing", {"both-ends": 2, "one-at-a-time": 1}
"""Evaluations of every group at every level, where these do not hang on the draws."""
GRADIENTS = 12.0
"""Evaluations that the gradients of a cheap score cost."""
TO_CONTRIBUTIONS = 0.55
"""Share of the time for evaluations that goes to contributions and cheap scores, at most; the rest is the race's."""
TO_MIXTURES, TO_TIMING = 0.15, 0.05
"""Shares of the budget that building mixtures, and timing a set of engines, may take."""
MOST_PAIRS, LEAST_SAMPLES, LEAST_MIXTURES, LEAST_EVALUATIONS, MOST_EVALUATIONS = 4, 16, 2, 24, 4
"""Antithetic pairs; samples; mixtures; evaluations of a race, at least, and at most as a multiple of the usual."""


@dataclass(frozen=True)
class Pace:
    """What was measured: seconds of one sample of one evaluation, on all processes together, and of one build; and what
    they are multiplied by."""

    sample_s: float
    build_s: float
    n_groups: int
    n_levels: int
    n_report: int
    times_engines: bool

    def contributions(self, settings: Settings) -> float:
        """Seconds of the contributions."""
        walks = 2 * settings.n_pairs if settings.estimator in ESTIMATORS else 2
        walks = TAKEN.get(settings.estimator, walks)
        if settings.estimator == GROWING:  # both ends, and some of what it may grow to
            walks = settings.n_pairs
        return walks * self.n_groups * (self.n_levels - 1) * WALKED * self._evaluation(settings)

    def scores(self, settings: Settings) -> float:
        """Seconds of the cheap scores."""
        return (self.n_groups * (self.n_levels - 1) * WALKED + GRADIENTS) * self._evaluation(settings)

    def race(self, settings: Settings) -> float:
        """Seconds of a race that spends all that it may."""
        return (settings.search_evaluations or 0) * self._evaluation(settings)

    def profile(self, settings: Settings) -> tuple[float, float]:
        """Seconds of building and timing what the cost model is fitted to: uniform engines, and mixtures."""
        if not self.times_engines:
            return 0.0, 0.0
        timing = settings.timing_seconds
        return self.n_levels * self.build_s + timing, settings.n_mixtures * self.build_s + timing

    def proof(self, settings: Settings) -> tuple[float, float]:
        """Seconds of building one engine, and of verifying it."""
        timing = settings.timing_seconds if self.times_engines else 0.0
        return self.build_s, timing + 2 * self.n_report * self.sample_s

    def _evaluation(self, settings: Settings) -> float:
        return (settings.n_score_samples or 0) * self.sample_s


def divide(pace: Pace, left_s: float, asked: Settings) -> Settings:
    """The settings with as much of contributions, mixtures and race as ``left_s`` seconds leave room for. What the user
    asked for otherwise than is usual stays.

    Contributions take the richest of their ways that fits into their share: room to grow, then fewer samples, which
    lose most (ResNet-20, w3a3 to w8a8: plans from 64 samples were worse than from 256). What they leave is the race's.
    """
    given = replace(asked.resolved(), timing_seconds=min(asked.timing_seconds, max(1.0, TO_TIMING * left_s)))
    if pace.times_engines and asked.n_mixtures == Settings.n_mixtures:
        n = int(TO_MIXTURES * left_s / max(pace.build_s, 1e-3))
        given = replace(given, n_mixtures=min(asked.n_mixtures, max(LEAST_MIXTURES, n)))
    room = left_s - sum(pace.profile(given)) - sum(pace.proof(given))
    chosen, spent = given, 0.0
    for chosen in _ways(given, asked.n_score_samples is None):
        spent = pace.contributions(chosen) + pace.scores(chosen)
        if spent <= TO_CONTRIBUTIONS * room:
            break
    if asked.search_evaluations is not None:
        return chosen
    usual = replace(chosen, search_evaluations=None).resolved().search_evaluations or 0
    one = max(pace.race(replace(chosen, search_evaluations=1)), 1e-9)
    n = int(min(MOST_EVALUATIONS * usual, max(LEAST_EVALUATIONS, (room - spent) / one)))
    return replace(chosen, search_evaluations=n)


def _ways(settings: Settings, may_take_fewer: bool) -> Iterator[Settings]:
    """Settings of contributions, the richest first."""
    n = settings.n_score_samples or 0
    if settings.n_pairs == Settings.n_pairs:
        yield replace(settings, n_pairs=MOST_PAIRS)
    yield settings
    while may_take_fewer and (n := n // 2) >= LEAST_SAMPLES:
        yield replace(settings, n_score_samples=n)


@holding
def divided(run: Run) -> Run:
    """The run with the settings that its budget of time leaves room for; the run itself where it has none.

    What was chosen is kept, so that an interrupted run goes on with it.
    """
    if run.within_minutes is not None:
        return run.within_minutes
    if run.settings.minutes is None:
        return run
    prepared = prepare(run)

    def make() -> Division:
        pace = _pace(prepared, evaluates=True)
        chosen = divide(pace, run.seconds_left, run.asked)
        assert chosen.n_score_samples is not None and chosen.search_evaluations is not None
        return Division(
            pace.sample_s, chosen.estimator, chosen.n_score_samples, chosen.n_pairs, chosen.n_mixtures,
            chosen.search_evaluations, chosen.timing_seconds,
        )

    division = run.stage(Division, make)
    return run.with_settings(replace(run.settings, **{k: v for k, v in vars(division).items() if k != "sample_s"}))


def is_sure_to_evaluate(run: Run, holds_drop: bool) -> bool:
    """Whether contributions and a race are made whatever is found first: where a drop is held or latency is known, the
    cheapest plan of all may be enough."""
    return not holds_drop and not run.measures_latency


def foresee(run: Run, whole: bool, evaluates: bool = True) -> None:
    """Tell how long the search will take, where there is one to be made; what every stage takes corrects it.

    Args:
        whole: whether its engine is built and verified.
        evaluates: whether contributions and a race are sure to be made, and not only if nothing simpler serves. If so,
            an evaluation is timed.
    """
    run = divided(run)
    if run.artifacts.has(Plan):
        return
    prepared, settings = prepare(run), run.settings
    pace = _pace(prepared, evaluates)
    build, verify = pace.proof(settings)
    uniform, mixtures = pace.profile(settings)
    expected: dict[str, float] = {
        "uniform_costs": 0.0 if run.artifacts.has(CostTable) else uniform,
        "build": build if whole else 0.0,
        "verify": verify if whole else 0.0,
    }
    if evaluates:
        expected |= {
            "profile": 0.0 if run.artifacts.has(CostTable) else mixtures,
            "contribute": 0.0 if run.artifacts.has(Contributions) else pace.contributions(settings),
            "scores": 0.0 if run.artifacts.has(Scores) or settings.additive else pace.scores(settings),
            "search": 0.0 if settings.additive else pace.race(settings),
        }
    run.outlook = run.outlook or Outlook(run.clock)
    if run.outlook.expect({stage: seconds for stage, seconds in expected.items() if seconds > 0}):
        run.tell_outlook()


def _pace(prepared: Prepared, evaluates: bool) -> Pace:
    """What was measured, once a run; without evaluations where none is timed."""
    run, network = prepared.run, prepared.network
    survey_s = next((one.wall_s for one in run.clock.times if one.stage == "survey"), 0.0)
    n_levels = len(run.ladder.names)
    if evaluates and run.sample_s is None:
        run.sample_s = _sample_s(prepared)
    return Pace(
        run.sample_s or 0.0, survey_s / n_levels, len(network.group_names), n_levels, len(run.parts[1]),
        run.measures_latency,
    )


def _sample_s(prepared: Prepared) -> float:
    """Seconds of one sample of one evaluation, on all processes together."""
    run, network = prepared.run, prepared.network
    uniform = [network.uniform(name) for name in (run.ladder.names[0], run.ladder.names[-1])]
    inputs = tuple(x[:N_PROBED] for x in run.task.calibration)
    seconds = 0.0
    for _ in range(2):  # the first quantizes weights
        began = time.monotonic()
        run.runner.scores(uniform, inputs, lambda outputs, rows: outputs[:, :1].flatten(1))
        seconds = time.monotonic() - began
    return seconds / len(uniform) / len(inputs[0]) / run.n_workers
