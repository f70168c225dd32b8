"""The whole front: the true one where everything is evaluated, nothing measured twice, and engines that are real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS, Finished, contents
from tiny_task import network, task

from hwsmpq import artifacts
from hwsmpq.contribution.memo import Memo
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.costs import costs_of, counted_costs
from hwsmpq.pipeline.decide.front import find_front
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.evaluate.contribute import contribute
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove import built, front
from hwsmpq.pipeline.prove.front import CHART_FILE, pareto, spread
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.search.front import Z_BEHIND
from hwsmpq.stages import FILES, MEMO_FILE
from hwsmpq.types import Assignment, Candidate, CostTable, Front, Measurement, Plan, Settings, Survey
from tests.margins import within_answers


def open_run(folder: Path, settings: Settings = QDQ_SETTINGS, **changes: object) -> Run:
    return Run(folder, replace(settings, **changes), task())  # type: ignore[arg-type]


def payload(folder: Path) -> dict:
    return json.loads((folder / FILES[Front]).read_text())["payload"]


def n_rows(folder: Path) -> int:
    return Memo(folder / MEMO_FILE).count()


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Assignment]:
    """Every assignment that is really evaluated from here on."""
    seen: list[Assignment] = []
    evaluate = Evaluator.__call__

    def watched(self: Evaluator, assignments: list[Assignment]) -> object:
        seen.extend(assignments)
        return evaluate(self, assignments)

    monkeypatch.setattr(Evaluator, "__call__", watched)
    return seen


def forbidden(*args: object, **kwargs: object) -> None:
    raise AssertionError("finished work is done again")


@pytest.fixture(scope="module")
def traced(qdq_run: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished run with a front of four limits."""
    folder = tmp_path_factory.mktemp("traced") / "run"
    shutil.copytree(qdq_run.folder, folder)
    pareto(qdq_run.open(folder), n_points=4)
    return replace(qdq_run, folder=folder)


def test_the_true_front_where_everything_is_evaluated(tmp_path: Path) -> None:
    """All 3^4 assignments are proposed and may all reach the whole search part: only the noise rule drops any."""
    run = open_run(tmp_path)
    names, groups = run.ladder.names, run.network.group_names
    choices = np.array(list(product(range(3), repeat=4)))
    assignments = [{g: names[level] for g, level in zip(groups, row, strict=True)} for row in choices]
    named = [Candidate(a, 0.0, 0.0, 0.0, 0.0, 0.0, None, 0.0, 0.0, ("all",), 16) for a in assignments]
    contributions = contribute(run)
    found = find_front(prepare(run), costs_of(run.network, run.ladder, None), contributions, named, n_points=41)
    assert found.n_compared == 81
    costs = np.array([counted_costs(run.network, a)[0] for a in assignments])
    values = np.array([NestedBatches(prepare(run)).up_to(row, 48)[0] for row in choices])
    means = values.mean(1)
    # Of equals one is enough.
    true = [
        i for i in range(81)
        if not any(costs[j] <= costs[i] and means[j] >= means[i] and (costs[j], -means[j]) != (costs[i], -means[i])
                   for j in range(81))
    ]
    points = [assignments.index(p.assignment) for p in found.points]
    assert [p.value for p in found.points] == pytest.approx(means[points])
    assert [p.bitops for p in found.points] == pytest.approx(costs[points])

    def surely_behind_on_the_score_batch(i: int) -> bool:
        cheaper = [j for j in range(81) if costs[j] <= costs[i] and j != i]
        ahead = values[cheaper, :16] - values[i, :16]
        spread_of = np.maximum(ahead.std(1, ddof=1), 1e-30)
        return bool((ahead.mean(1) / spread_of * 4 >= Z_BEHIND).any())

    lost = {(costs[i], means[i]) for i in true} - {(costs[i], means[i]) for i in points}
    assert all(surely_behind_on_the_score_batch(i) for i in true if (costs[i], means[i]) in lost)
    for i in set(points) - set(true):
        better = [j for j in range(81) if costs[j] <= costs[i] and means[j] >= means[i] and j != i]
        assert all(surely_behind_on_the_score_batch(j) for j in better)
    assert len(set(points) & set(true)) >= 0.7 * len(points) and len(points) >= 4


def test_a_front_rises_from_the_cheapest_assignment(traced: Finished) -> None:
    run = traced.open()
    points = artifacts.read(traced.folder / FILES[Front], Front).points
    assert len(points) >= 3
    assert points[0].assignment == run.network.uniform("w4a4")
    assert np.all(np.diff([p.bitops for p in points]) > 0)
    assert np.all(np.diff([p.value for p in points]) > 0)
    assert {p.n_samples for p in points} == {len(run.parts[0])}
    for point in points:
        assert (point.bitops, point.size_mb) == counted_costs(run.network, point.assignment)


def test_drops_are_those_of_the_search_part(traced: Finished) -> None:
    run = traced.open()
    part = run.parts[0]
    with torch.no_grad():
        assert bool((network()(part.inputs[0]).argmax(1) == part.targets).all())
    for point in artifacts.read(traced.folder / FILES[Front], Front).points:
        outputs = run.simulator.scores([point.assignment], part.inputs, lambda out, rows: out)[0]
        lost = 1 - (outputs.argmax(1) == part.targets).double()
        assert point.drop_points == pytest.approx(100 * float(lost.mean()))
        assert point.drop_stderr_points == pytest.approx(100 * float(lost.std()) / np.sqrt(len(part)))


def test_what_the_run_has_measured_counts(traced: Finished) -> None:
    """The plan was measured on the whole search part, so that the front is nowhere below it."""
    plan = traced.open().read(Plan)
    points = artifacts.read(traced.folder / FILES[Front], Front).points
    for candidate in plan.candidates:
        if candidate.n_samples == 48:
            assert max(p.value for p in points if p.bitops <= candidate.bitops) >= candidate.value


def test_nothing_is_evaluated_twice(qdq_copy: Path, qdq_run: Finished, evaluated: list[Assignment]) -> None:
    before = n_rows(qdq_copy)
    pareto(qdq_run.open(qdq_copy), n_points=4)
    # Every evaluation is a new row of the memo, which keeps the first of those of the same key.
    assert len(evaluated) == n_rows(qdq_copy) - before > 0


def test_a_second_time_does_nothing(
    traced: Finished, tmp_path: Path, evaluated: list[Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(traced.folder, tmp_path / "run"))
    before = {file: (folder / file).read_bytes() for file in (FILES[Front], CHART_FILE, "contributions.json")}
    monkeypatch.setattr(front, "find_front", forbidden)
    assert pareto(traced.open(folder), n_points=4) == artifacts.read(folder / FILES[Front], Front)
    assert evaluated == []
    assert {file: (folder / file).read_bytes() for file in before} == before


def test_more_points_build_on_fewer(traced: Finished, tmp_path: Path, evaluated: list[Assignment]) -> None:
    folder = Path(shutil.copytree(traced.folder, tmp_path / "run"))
    few, before = artifacts.read(folder / FILES[Front], Front), n_rows(folder)
    many = pareto(traced.open(folder), n_points=8)
    assert len(evaluated) == n_rows(folder) - before
    for point in few.points:
        assert max(p.value for p in many.points if p.bitops <= point.bitops) >= point.value


def test_another_plan_makes_the_front_stale(traced: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(traced.folder, tmp_path / "run"))
    run = traced.open(folder)
    search(run, resolve_budgets(run, bitops=str(2 * traced.budgets[0].limit)))
    before = artifacts.read_envelope(folder / FILES[Front], Front)["inputs"]
    pareto(run, n_points=4)
    after = artifacts.read_envelope(folder / FILES[Front], Front)["inputs"]
    assert {role for role in after if after[role] != before[role]} == {"plan"}


@pytest.mark.parametrize("n_before", [3, 30])
def test_interrupted_and_resumed_gives_the_same(tmp_path: Path, n_before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pareto(open_run(whole), n_points=4)
    evaluate, n_done = Evaluator.__call__, [0]

    def interrupted(self: Evaluator, assignments: list[Assignment]) -> object:
        n_done[0] += len(assignments)
        if n_done[0] > n_before:
            raise KeyboardInterrupt
        return evaluate(self, assignments)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pareto(open_run(cut), n_points=4)
    assert not (cut / FILES[Front]).exists()
    pareto(open_run(cut), n_points=4)
    assert payload(cut) == payload(whole)
    assert n_rows(cut) == n_rows(whole)


def test_contributions_that_stopped_with_a_plan_are_taken_as_they_are(tmp_path: Path) -> None:
    run = open_run(tmp_path, n_pairs=8, stability=0.9)
    search(run, resolve_budgets(run, bitops="w4a4"))
    before = (tmp_path / "contributions.json").read_bytes()
    pareto(run, n_points=2)
    assert (tmp_path / "contributions.json").read_bytes() == before


def test_precisions_that_a_group_does_not_run_are_not_on_the_front(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    contribute(run)
    group = run.network.group_names[1]
    surveyed = replace(run.read(Survey), missing={group: {"w4a4": "int8"}})
    run.artifacts.write(surveyed, run.artifacts.made_from(Survey))
    points = pareto(run, n_points=4).points
    assert points[0].assignment == {g: "int8" if g == group else "w4a4" for g in run.network.group_names}
    assert {p.assignment[group] for p in points} <= {"int8", "fp32"}


@pytest.mark.parametrize("estimator", ["exact", "fisher"])
def test_an_estimator_that_keeps_no_draws_gives_a_front_too(tmp_path: Path, estimator: str) -> None:
    points = pareto(open_run(tmp_path, estimator=estimator), n_points=3).points
    assert np.all(np.diff([p.value for p in points]) > 0) and len(points) >= 2


def test_an_earlier_plan_of_another_ladder_does_no_harm(qdq_copy: Path) -> None:
    run = open_run(qdq_copy, ladder=("int8", "fp32"))
    points = pareto(run, n_points=2).points
    assert {name for p in points for name in p.assignment.values()} <= {"int8", "fp32"}


@pytest.mark.parametrize(
    ("settings", "n_points", "n_built", "words"),
    [
        (QDQ_SETTINGS, 1, 0, "a front of 1 points"),
        (QDQ_SETTINGS, 4, -1, "-1 points to measure"),
        (QDQ_SETTINGS, 4, 2, "the target builds no engine that runs here"),
        (replace(OPENVINO_SETTINGS, cost="bitops"), 4, 2, "nothing is timed with --cost bitops"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_spent(
    tmp_path: Path, settings: Settings, n_points: int, n_built: int, words: str
) -> None:
    with pytest.raises(HwsmpqError, match=words):
        pareto(open_run(tmp_path / "run", settings), n_points, n_built)
    assert not (tmp_path / "run").exists()


def points_at(*costs: float) -> Front:
    points = [
        Candidate({"layer": str(cost)}, 0.0, cost, 0.0, 0.0, 0.0, cost, 1.0, 1.0) for cost in costs
    ]
    return Front("target", "", ("int8", "fp32"), 0, "latency_ms", "loss", 0.0, 9, tuple(points))


def test_points_to_measure_are_spread_along_the_cost_and_more_include_fewer() -> None:
    crowd = points_at(1.0, 1.1, 1.2, 1.3, 2.0, 2.9, 3.0)
    assert [p.latency_ms for p in spread(crowd, 4)] == [1.0, 3.0, 2.0, 1.3]
    for n in range(8):
        assert spread(crowd, n) == spread(crowd, 7)[:n]
    assert len(spread(crowd, 99)) == 7


# Engines on the CPU, with costs that make a front of several points whatever this machine measures.


@pytest.fixture
def engine_folder(openvino_run: Finished, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    table = artifacts.read(folder / "cost_table.json", CostTable)
    group_ms = {g: {"int8": 0.01, "fp32": 0.02 + 0.001 * i} for i, g in enumerate(table.group_ms)}
    change_table(folder, lambda known: replace(
        known, group_ms=group_ms, engines=(), uniform_ms={
            name: Measurement(0.01 + sum(ms[name] for ms in group_ms.values()), 0.001, 7) for name in ("int8", "fp32")
        },
    ))
    return folder


def change_table(folder: Path, change: Callable[[CostTable], CostTable]) -> None:
    path = folder / "cost_table.json"
    inputs = artifacts.read_envelope(path, CostTable)["inputs"]
    artifacts.write(path, change(artifacts.read(path, CostTable)), inputs)


def built_assignments(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[Assignment]:
    seen: list[Assignment] = []
    build = run.builder.engine

    def watched(assignment: Assignment) -> object:
        seen.append(assignment)
        return build(assignment)

    monkeypatch.setattr(run.builder, "engine", watched)
    return seen


def test_engines_measure_what_they_say(
    engine_folder: Path, openvino_run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = openvino_run.open(engine_folder)
    timings = []
    time = built.time_engines

    def watched(*args, **kwargs):  # type: ignore[no-untyped-def]
        timings.append(time(*args, **kwargs))
        return timings[-1]

    monkeypatch.setattr(built, "time_engines", watched)
    found = pareto(run, n_points=4, n_built=3)
    assert found.cost == "latency_ms" and len(found.points) >= 3
    assert np.all(np.diff([p.latency_ms for p in found.points]) > 0)
    uniform = {name: run.network.uniform(name) for name in ("int8", "fp32")}
    wanted = [p.assignment for p in spread(found, 3)]
    assert all(found.engine_of(a) is not None for a in [*wanted, *uniform.values()])
    assert len(found.engines) == len({json.dumps(a) for a in [*wanted, *uniform.values()]})

    (timing,) = timings  # one interleaved run of all of them
    assert list(timing)[:2] == ["int8", "fp32"] and len(timing) == len(found.engines)
    assert [engine.latency for engine in found.engines] == list(timing.values())

    # On the report part, as the certificate of the same folder has it, and as engines built here give it.
    certified = {e.name: e for e in openvino_run.certificate.engines}
    for name, assignment in uniform.items():
        engine = found.engine_of(assignment)
        assert engine is not None and engine.accuracy.n_samples == len(run.parts[1])
        # Another build of the same file may choose other kernels, which round otherwise.
        assert (engine.accuracy.engine, engine.accuracy.kl) == pytest.approx(
            (certified[name].metric, certified[name].kl), rel=1e-3, abs=1e-5
        )
    mixed = next(e for e in found.engines if e.assignment not in uniform.values())
    outputs = engine_outputs(run.builder.engine(mixed.assignment), run.parts[1].inputs)
    again = float((outputs.argmax(1) == run.parts[1].targets).double().mean())
    assert mixed.accuracy.engine == within_answers(again, len(outputs))
    assert mixed.drop_points == pytest.approx(100 * (1 - mixed.accuracy.engine))
    assert all((e.audit.n_layers, e.audit.n_as_requested) == (4, 4) for e in found.engines)


def test_engines_are_built_once_for_a_cost_table(
    engine_folder: Path, openvino_run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = set(contents(engine_folder))
    run = openvino_run.open(engine_folder)
    seen = built_assignments(monkeypatch, run)
    few = pareto(run, n_points=4, n_built=2)
    assert set(contents(engine_folder)) - files == {FILES[Front], CHART_FILE}
    with monkeypatch.context() as patch:
        patch.setattr(front, "build_engines", forbidden)
        assert pareto(run, n_points=4, n_built=2) == few
        assert pareto(run, n_points=4) == few
    seen.clear()
    more = pareto(run, n_points=4, n_built=3)
    assert more.engines[: len(few.engines)] == few.engines and more.points == few.points
    # The new one, and the uniform engines that it is timed with.
    uniform = [run.network.uniform(name) for name in ("int8", "fp32")]
    assert [a for a in seen if a not in uniform] == [spread(more, 3)[-1].assignment]
    assert len(more.engines) == len(few.engines) + 1
    # More points leave the engines that were measured.
    assert pareto(run, n_points=6).engines == more.engines
    # Another cost table does not.
    change_table(engine_folder, lambda table: replace(table, conditions={"clock": "another"}))
    assert pareto(run, n_points=4).engines == ()


def test_the_chart_names_its_axes_and_draws_every_point(engine_folder: Path, openvino_run: Finished) -> None:
    found = pareto(openvino_run.open(engine_folder), n_points=4, n_built=2)
    texts = texts_of(engine_folder)
    assert {"latency (ms)", "soft against the reference", "metric against the reference (points)"} <= texts
    assert {"front", "front, engine measured", "uniform engines, report part"} <= texts
    assert {"int8", "fp32"} <= texts
    n_marked = (engine_folder / CHART_FILE).read_text().count("<use ")
    assert n_marked > 2 * len(found.points)


def test_the_chart_of_bitops(traced: Finished) -> None:
    texts = texts_of(traced.folder)
    assert "BitOps" in texts and any(text.endswith(" M") for text in texts)
    assert not any("engine" in text for text in texts)


def texts_of(folder: Path) -> set[str]:
    root = ElementTree.parse(folder / CHART_FILE).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
