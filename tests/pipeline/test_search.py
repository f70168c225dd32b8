"""The search stage: which plan the race chooses, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS, Finished
from tiny_task import images, network, task

from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.stability import stability
from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.hardware import profile as profiling
from hwsmpq.hardware.cost_model import MIN_CHECKS
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.candidates import N_TOGETHER, LargestDrop, screen_for_cost
from hwsmpq.pipeline.decide.costs import costs_of, counted_costs
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.evaluate import contribute as contributing
from hwsmpq.pipeline.evaluate.contribute import contribute, observed, scores
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import ENGINES_GAIN, Run
from hwsmpq.search.losses import cheapest_at_losses
from hwsmpq.search.milp import solve
from hwsmpq.search.paired import Drop
from hwsmpq.search.problem import Problem
from hwsmpq.stages import MEMO_FILE
from hwsmpq.types import Bound, Budget, Contributions, Cost, CostTable, Network, Plan, Scores, Settings


def open_run(folder: Path, settings: Settings = QDQ_SETTINGS, **changes: object) -> Run:
    return Run(folder, replace(settings, **changes), task())  # type: ignore[arg-type]


def additive_choice(run: Run, contributions: Contributions, limit: float) -> dict[str, str]:
    names, groups = run.ladder.names, run.network.group_names
    value = Cost(np.array([[contributions.phi[g][p] for p in names] for g in groups]))
    choice = solve(Problem(value, costs_of(run.network, run.ladder, None), {"bitops": limit})).choice
    return {g: names[level] for g, level in zip(groups, choice, strict=True)}


def test_additive_mode_is_the_solution_of_the_contributions_alone(tmp_path: Path) -> None:
    run = open_run(tmp_path, additive=True)
    budgets = resolve_budgets(run, bitops="int8")
    plan = search(run, budgets)
    assert plan.assignment == additive_choice(run, contribute(run), budgets[0].limit)
    assert len(plan.candidates) == 1 and plan.status == "optimal" and plan.n_evaluations == 0
    assert not (tmp_path / "scores.json").exists()


def test_a_budget_that_no_plan_keeps_is_refused_before_anything_is_measured_for_it(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    with pytest.raises(InfeasibleError, match="no assignment reaches bitops <= 1000"):
        search(run, resolve_budgets(run, bitops="1000"))
    assert not run.path(Contributions).exists() and not (tmp_path / "evaluations.sqlite").exists()


def test_every_table_has_its_plans_in_the_race(qdq_run: Finished) -> None:
    plan = qdq_run.open().read(Plan)
    sources = {source for candidate in plan.candidates for source in candidate.sources}
    tables = (qdq_run.open().read(Contributions), *qdq_run.open().read(Scores).tables)
    assert {"uniform", *(table.estimator for table in tables)} <= sources and len(tables) >= 2
    assignments = [tuple(sorted(c.assignment.items())) for c in plan.candidates]
    assert len(assignments) == len(set(assignments))
    chosen = next(c for c in plan.candidates if c.assignment == plan.assignment)
    assert chosen.n_samples == len(qdq_run.open().parts[0])


def test_the_race_keeps_its_allowance(tmp_path: Path) -> None:
    run = open_run(tmp_path, search_evaluations=30)
    few = search(run, resolve_budgets(run, bitops="int8"))
    n_pool = sum("swap" not in c.sources for c in few.candidates)
    assert few.n_evaluations <= max(30, n_pool)
    assert any(c.n_samples < 48 for c in few.candidates)


def test_nested_batches_are_the_search_part_in_order(tmp_path: Path) -> None:
    run = open_run(tmp_path, n_score_samples=8)
    contribute(run)
    batches = NestedBatches(prepare(run))
    assert batches.sizes == (8, 24, 16)
    choice = np.ones(4, dtype=np.int64)
    values, metrics = batches.up_to(choice, 48)
    assert len(values) == len(metrics) == 48
    with torch.no_grad():
        correct = network()(run.parts[0].inputs[0]).argmax(1) == run.parts[0].targets
    np.testing.assert_array_equal(batches.reference(48)[1], correct.numpy())
    parts = [batches.values(choice[None], batch)[0] for batch in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), values)


@pytest.mark.parametrize(("estimator", "n_mixtures"), [("antithetic", 0), ("growing", 4)])
def test_observations_are_what_the_contributions_were_estimated_from(
    tmp_path: Path, estimator: str, n_mixtures: int
) -> None:
    run = open_run(tmp_path, estimator=estimator)
    contributions = contribute(run)
    n_known = Memo(tmp_path / MEMO_FILE).count()
    levels, values = observed(prepare(run), contributions)
    assert len(levels) == len(values) == contributions.n_evaluations - n_mixtures
    assert Memo(tmp_path / MEMO_FILE).count() == n_known
    by_row = {tuple(row): value for row, value in zip(levels.tolist(), values, strict=True)}
    assert by_row[(0,) * 4] == pytest.approx(contributions.floor_value)
    assert by_row[(2,) * 4] == pytest.approx(contributions.top_value)


class Scripted:
    """Stands for nested batches: every choice loses what a table says, known the better the larger the batch."""

    sizes = (16, 48)

    def __init__(self, lost: np.ndarray) -> None:
        self._lost, self.measured = lost, set[tuple[int, ...]]()

    def values(self, choices: np.ndarray, batch: int) -> np.ndarray:
        self.measured |= set(map(tuple, choices.tolist()))
        return np.zeros((len(choices), self.sizes[batch]))

    def drop(self, choice: np.ndarray, n_samples: int) -> Drop:
        points, stderr = float(self._lost[np.arange(len(choice)), choice].sum()), 2 / np.sqrt(n_samples)
        return Drop(points, stderr, points + 3 * stderr)


def test_screening_measures_the_cheapest_first_and_misses_none() -> None:
    rng = np.random.default_rng(0)
    n, n_measured = 12, []
    lost = np.c_[rng.exponential(1.0, n), rng.exponential(0.2, n), np.zeros(n)]
    cost = Cost(np.c_[rng.uniform(1, 2, n), rng.uniform(2, 4, n), rng.uniform(4, 8, n)])
    values = {name: Cost(-lost + rng.normal(0, 0.1, lost.shape)) for name in ("a", "b")}
    problem = Problem(values["a"], {"latency_ms": cost}, {})
    found = [cheapest_at_losses(replace(problem, value=v), "latency_ms") for v in values.values()]
    everything = [solution.choice for solutions in found for solution in solutions]
    everything += [np.full(n, level) for level in range(3)]
    limits = [LargestDrop(Budget("max_drop", limit)) for limit in (0.4, 1.5, 4.0, 8.0, 30.0)]
    for largest in limits:
        batches = Scripted(lost)
        found, _ = screen_for_cost(problem, values, (), "latency_ms", largest, batches)  # type: ignore[arg-type]
        kept = [c for c in everything if largest.keeps(batches.drop(c, 64))]
        best = min(map(cost, [*kept, np.full(n, 2)]))
        whole = [m.proposal.solution.choice for m in found if m.n_samples == 64]
        assert min(cost(c) for c in whole if largest.keeps(batches.drop(c, 64))) == pytest.approx(best)
        cheaper = {tuple(c.tolist()) for c in everything if cost(c) < best}
        assert cheaper <= batches.measured and len(batches.measured) <= len(cheaper) + N_TOGETHER
        n_measured.append(len(batches.measured))
    assert n_measured == sorted(n_measured, reverse=True) and n_measured[-1] == N_TOGETHER < n_measured[0]


def test_with_confidence_the_bound_of_a_drop_decides() -> None:
    one_error, bound = (LargestDrop(Budget("max_drop", 1.0), by_bound) for by_bound in (False, True))
    drop = Drop(points=0.5, stderr=0.3, bound=1.2)
    assert one_error.keeps(drop) and not bound.keeps(drop) and not bound.is_hopeless(drop)
    assert bound.keeps(replace(drop, bound=1.0)) and bound.is_hopeless(replace(drop, points=1.7))


def test_too_few_samples_to_bound_a_drop_are_named(qdq_copy: Path, qdq_run: Finished) -> None:
    """48 samples of which none changed bound the drop to 6.05 points with 95 %."""
    run = Run(qdq_copy, replace(qdq_run.settings, confidence=0.95), task())
    with pytest.raises(HwsmpqError, match=r"(?s)max_drop 5 .*95% confidence.*at most 6\.05 .*more evaluation samples"):
        search(run, resolve_budgets(run, max_drop=5))
    plan = search(run, resolve_budgets(run, max_drop=6.1))
    assert plan.drop_bound == Bound(pytest.approx(100 * (1 - 0.05 ** (1 / 48))), 0.95)
    assert plan.predicted_drop_points == 0


def test_stability_of_the_plan_is_that_of_its_draws_within_the_budget(qdq_run: Finished) -> None:
    run = qdq_run.open()
    plan, contributions = run.read(Plan), run.read(Contributions)
    assert plan.stability is not None
    draws = np.array(contributions.draws, dtype=np.float64)
    names, groups = run.ladder.names, run.network.group_names
    mean = np.array([[contributions.phi[g][p] for p in names] for g in groups])
    np.testing.assert_allclose(draws.mean(0), mean, atol=1e-12)
    problem = Problem(Cost(mean), costs_of(run.network, run.ladder, None), {"bitops": qdq_run.budgets[0].limit})
    share, by_group = stability(
        draws, lambda phi: solve(replace(problem, value=Cost(phi))).choice, plan.stability.n_resamples,
        contributions.seed,
    )
    assert plan.stability.share == pytest.approx(share)
    assert list(plan.stability.certainty.values()) == pytest.approx(by_group.tolist())


def test_sampling_goes_on_until_the_plan_is_stable(tmp_path: Path) -> None:
    budgets = resolve_budgets(open_run(tmp_path / "a"), bitops="w4a4")
    easy = open_run(tmp_path / "a", n_pairs=8, stability=0.9, estimator="antithetic")
    search(easy, budgets)
    assert easy.read(Contributions).n_permutations == 4  # one plan only keeps the budget: two pairs suffice
    hard = open_run(tmp_path / "b", n_pairs=4, stability=1.0, estimator="antithetic")
    plan = search(hard, resolve_budgets(hard, bitops=str(budgets[0].limit * 4)))
    assert plan.stability is not None
    assert hard.read(Contributions).n_permutations == 8 or plan.stability.share == 1.0


def test_a_loss_without_gradient_only_costs_the_plans_of_fisher(tmp_path: Path) -> None:
    plain = task()
    rounded = Task(
        network(), images(16, seed=2), (plain.evaluation.inputs, plain.evaluation.targets),
        loss=lambda outputs, targets: (outputs.argmax(1) != targets).float(),
    )
    heard: list[str] = []
    run = Run(tmp_path, replace(QDQ_SETTINGS, value="loss"), rounded, notify=heard.append)
    plan = search(run, resolve_budgets(run, bitops="int8"))
    assert any("fisher" in message and "gradient" in message for message in heard)
    assert list(scores(run, contribute(run)).skipped) == ["fisher"]
    assert plan.bitops <= counted_costs(run.network, run.network.uniform("int8"))[0]


def test_every_estimator_and_sensitivity_gives_a_plan(qdq_copy: Path, tmp_path: Path) -> None:
    names = (*contributing.ESTIMATORS, *contributing.SENSITIVITIES)
    limit = None
    for name in names:
        if name == "regression":
            run = open_run(tmp_path / name, estimator=name, ladder=("int8", "fp32"), additive=True)
        else:
            run = open_run(qdq_copy, estimator=name, additive=True)
        limit = limit or resolve_budgets(run, bitops="int8")[0].limit
        plan = search(run, resolve_budgets(run, bitops=str(2 * limit)))
        assert plan.bitops <= 2 * limit, name
        assert run.read(Contributions).n_evaluations > 0


def test_unknown_estimator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match="unknown estimator 'guess'"):
        contribute(open_run(tmp_path, estimator="guess"))


def test_engines_may_score_in_place_of_the_simulator(tmp_path: Path) -> None:
    simulated = contribute(open_run(tmp_path / "simulator", OPENVINO_SETTINGS))
    measured = contribute(open_run(tmp_path / "engine", OPENVINO_SETTINGS, evaluate="engine"))
    assert measured.phi != simulated.phi
    for group, row in simulated.phi.items():
        assert measured.phi[group]["fp32"] == pytest.approx(row["fp32"], abs=0.2 * abs(simulated.top_value) + 0.02)


@pytest.mark.parametrize("on_engines", [True, False])
def test_what_is_built_anyway_is_evaluated_by_the_faster_of_engines_and_simulator(
    tmp_path: Path, on_engines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: ENGINES_GAIN if on_engines else ENGINES_GAIN + 1)
    run = open_run(tmp_path, OPENVINO_SETTINGS, ladder=("int8", "fp32"), cost="bitops")
    plan = search(run, resolve_budgets(run, max_drop=100))
    assert plan.assignment == run.network.uniform("int8") and not run.path(Contributions).exists()
    expected = value_by("engine" if on_engines else "simulator", run, plan.assignment)
    assert plan.candidates[0].value == pytest.approx(expected, rel=1e-9)


def value_by(evaluate: Literal["engine", "simulator"], run: Run, assignment: dict[str, str]) -> float:
    prepared = replace(prepare(run), run=Run(run.folder, replace(run.settings, evaluate=evaluate), task()))
    game = evaluation_game(prepared, run.parts[0], lambda done, n: None)
    return float(game.samples_of([assignment])[0][: len(run.parts[0])].astype(np.float64).mean())


@pytest.mark.parametrize("n_mixtures", [0, 4])
def test_of_mixtures_only_those_are_timed_that_seem_the_fastest_of_all(
    tmp_path: Path, n_mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counters(network: Network, engines: Mapping[str, object], *_: object) -> dict[str, dict[str, float]]:
        return {g: {"int8": 1.0 if i % 2 else 1e-3, "fp32": 1e-3 if i % 2 else 1.0}
                for i, g in enumerate(network.group_names)}

    monkeypatch.setattr(profiling, "_counters", counters)
    run = open_run(tmp_path, OPENVINO_SETTINGS, ladder=("int8", "fp32"), n_mixtures=n_mixtures, timing_seconds=0.1)
    search(run, resolve_budgets(run, max_drop=100))
    timed = [one.assignment for one in run.read(CostTable).engines]
    seemed = {g: "fp32" if i % 2 else "int8" for i, g in enumerate(run.network.group_names)}
    assert timed[:1] == [seemed] * (n_mixtures > 0) and len(timed) <= MIN_CHECKS
    assert run.path(Contributions).exists() == (n_mixtures == 0)  # nothing says then what the fastest really takes


def test_engines_cannot_score_where_none_runs(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match="builds no engine that runs here"):
        open_run(tmp_path, evaluate="engine")
