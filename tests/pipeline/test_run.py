"""The whole path on both kinds of target: what it promises in the certificate, and what a second run leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS, Finished, finish
from tiny_task import N_EVALUATION, TinyNet, images, network, task
from torch import nn

from hwsmpq import artifacts
from hwsmpq.contribution.exact import exact
from hwsmpq.contribution.growing import N_MIXTURES
from hwsmpq.contribution.memo import Memo
from hwsmpq.device.timing import Timing
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import fit
from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
from hwsmpq.lock import LOCK_FILE
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.evaluate import contribute as contributing
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare import calibrate as calibrating
from hwsmpq.pipeline.prepare import profile as profiling_stage
from hwsmpq.pipeline.prepare.calibrate import calibrate
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove import judged as judging
from hwsmpq.pipeline.prove import refine as refining
from hwsmpq.pipeline.prove import verify as verifying
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.refine import n_margins, refine
from hwsmpq.pipeline.prove.verify import verify
from hwsmpq.pipeline.run import Run
from hwsmpq.stages import FILES, MEMO_FILE
from hwsmpq.types import (
    BY_ITSELF,
    CHOSEN,
    Assignment,
    Bound,
    Budget,
    Certificate,
    Contributions,
    CostTable,
    Division,
    EngineTiming,
    Front,
    LatencyOutcome,
    Manifest,
    Measurement,
    Network,
    Plan,
    Precision,
    Ranges,
    Reconstructed,
    Trained,
)
from tests.margins import within_answers


def payload(path: Path) -> dict:
    return json.loads(path.read_text())["payload"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith((MEMO_FILE, LOCK_FILE))
    }


def n_evaluations(folder: Path) -> int:
    return Memo(folder / MEMO_FILE).count()


@pytest.mark.parametrize("name", ["openvino_run", "qdq_run"])
def test_every_artifact_of_the_run_is_there(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    missing = {file for file in (*FILES.values(), "report.html") if not (run.folder / file).is_file()}
    on_request = {FILES[Reconstructed], FILES[Trained], FILES[Front], FILES[Division]}
    assert missing == on_request | (set() if name == "openvino_run" else {"cost_table.json", "rounds.json"})
    assert [path.name for path in run.folder.rglob(".*") if path.is_file()] == [LOCK_FILE]


def test_certificate_with_latency(openvino_run: Finished) -> None:
    certificate = payload(openvino_run.folder / "certificate.json")
    assert set(certificate) >= {"budgets", "latency_ms", "accuracy", "audit", "rounds"}
    assert [b["kind"] for b in certificate["budgets"]] == ["latency_ms", "size_mb", "max_drop"]
    for budget, asked in zip(certificate["budgets"], openvino_run.budgets, strict=True):
        assert set(budget) == {"kind", "limit", "predicted", "measured", "met", "bound", "by_bound"}
        assert (budget["bound"] is not None) == (budget["kind"] == "max_drop") and not budget["by_bound"]
        assert budget["limit"] == asked.limit
        assert budget["met"] == (budget["measured"] <= budget["limit"] * (1 + 1e-9))
    latency, accuracy = certificate["latency_ms"], certificate["accuracy"]
    assert set(latency) == {"reference", "predicted", "measured", "spread", "streams", "interval", "shapes"}
    assert min(latency["reference"], latency["predicted"], latency["measured"]) > 0 <= latency["spread"]
    assert latency["interval"][0] < latency["predicted"] < latency["interval"][1]
    asked = openvino_run.budgets[0]
    as_then = latency["measured"] * asked.speedup * asked.limit / latency["reference"]
    assert certificate["budgets"][0]["measured"] == pytest.approx(as_then)
    assert certificate["budgets"][0]["predicted"] == latency["predicted"]
    assert (accuracy["source"], accuracy["n_samples"]) == ("engine", N_EVALUATION // 2)
    assert certificate["budgets"][2]["measured"] == pytest.approx(100 * (accuracy["reference"] - accuracy["engine"]))
    assert certificate["rounds"][-1]["latency"]["median_ms"] == latency["measured"]
    assert certificate["machine"]["runtime"].startswith("openvino")
    assert {e["name"] for e in certificate["engines"]} - {BY_ITSELF} == {"int8", "fp32", CHOSEN}


def test_batches_and_threads_are_part_of_what_is_measured(tmp_path: Path, openvino_run: Finished) -> None:
    asked = replace(OPENVINO_SETTINGS, batch=5, threads=2, confidence=0.8)
    found = finish(tmp_path / "run", asked, speedup=0.2, max_drop=50)
    table, single = found.open().read(CostTable), openvino_run.open().read(CostTable)
    assert (table.machine["n_threads"], table.machine["inputs"]) == ("2", "5x1x8x8")
    assert (single.machine["n_threads"], single.machine["inputs"]) == ("1", "1x1x8x8")
    latency = found.certificate.latency_ms
    assert latency is not None and latency.interval is not None
    assert latency.interval[0] < latency.predicted < latency.interval[1]
    # The last batch of the 48 samples is filled up, and the filling is not judged.
    accuracy = {r.name: r.metric for r in found.certificate.engines}
    alone = {r.name: r.metric for r in openvino_run.certificate.engines}
    assert found.certificate.accuracy.n_samples == N_EVALUATION // 2
    for name, n_answers in (("fp32", 1), ("int8", 3)):  # batches and threads take other kernels
        assert accuracy[name] == within_answers(alone[name], N_EVALUATION // 2, n_answers)


def test_threads_need_a_target_that_has_them(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match="no choice of threads"):
        Run(tmp_path / "run", replace(QDQ_SETTINGS, threads=2), task())


def test_certificate_without_latency(qdq_run: Finished) -> None:
    certificate = payload(qdq_run.folder / "certificate.json")
    assert certificate["latency_ms"] is None
    assert "simulated" in certificate["claim"] and "no latency claim" in certificate["claim"]
    assert certificate["accuracy"]["source"] == "simulator"
    assert [(r["predicted_ms"], r["latency"]) for r in certificate["rounds"]] == [(None, None)]
    (budget,) = certificate["budgets"]
    assert (budget["kind"], budget["met"]) == ("bitops", True)


@pytest.mark.parametrize("name", ["openvino_run", "qdq_run"])
def test_audit_counts_every_layer_once(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    manifest, audit = payload(run.folder / FILES[Manifest]), payload(run.folder / FILES[Certificate])["audit"]
    plan = payload(run.folder / FILES[Plan])
    assert {x["layer"]: x["requested"] for x in manifest["layers"]} == plan["assignment"]  # each layer is its own group
    assert audit["n_layers"] == 4
    assert audit["mismatches"] == [x for x in manifest["layers"] if x["requested"] != x["realised"]]
    assert audit["n_as_requested"] == 4 - len(audit["mismatches"])


def test_certified_accuracy_is_that_of_the_network_on_the_report_part(qdq_run: Finished) -> None:
    """The reference by plain torch; the plan by weights and activations quantized here, by hand."""
    run = qdq_run.open()
    report_part = run.parts[1]
    accuracy = qdq_run.certificate.accuracy
    with torch.no_grad():
        reference = (network()(report_part.inputs[0]).argmax(1) == report_part.targets).double()
    assert accuracy.reference == pytest.approx(float(reference.mean()))

    net, ranges, assignment = network(), run.read(Ranges), run.read(Plan).assignment
    net.conv1 = torch.nn.utils.fuse_conv_bn_eval(net.conv1, net.bn1)
    net.bn1 = nn.Identity()
    for name, precision in assignment.items():
        if precision != "fp32":
            _quantize_by_hand(getattr(net, name), Precision.parse(precision), ranges.layers[name].clip)
    with torch.no_grad():
        engine = (net(report_part.inputs[0]).argmax(1) == report_part.targets).double()
    assert accuracy.engine == pytest.approx(float(engine.mean()), abs=1.01 / len(report_part))
    difference = (engine - reference).numpy()
    if accuracy.engine == float(engine.mean()):
        assert accuracy.paired_stderr == pytest.approx(difference.std(ddof=1) / np.sqrt(len(difference)))


def _quantize_by_hand(layer: nn.Module, precision: Precision, clip: dict[int, tuple[float, float]]) -> None:
    top = 2 ** (precision.weight_bits - 1) - 1
    with torch.no_grad():
        scale = layer.weight.flatten(1).abs().amax(1).reshape(-1, *[1] * (layer.weight.ndim - 1)) / top
        layer.weight.copy_((layer.weight / scale).round().clamp(-top, top) * scale)
    low, high = clip[precision.activation_bits]
    low, high, n = min(low, 0.0), max(high, 0.0), 2**precision.activation_bits - 1
    step = (high - low) / n
    zero = round(-low / step)
    layer.register_forward_pre_hook(lambda m, x: (((x[0] / step).round() + zero).clamp(0, n).sub(zero) * step,))


@pytest.mark.usefixtures("told_apart")
def test_a_second_run_does_nothing(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    before, evaluated = contents(folder), n_evaluations(folder)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(calibrating, "take_ranges", forbidden)
    monkeypatch.setattr(profiling_stage.profiling, "measure_costs", forbidden)
    monkeypatch.setattr(contributing, "_estimate", forbidden)
    monkeypatch.setattr(verifying, "time_shapes", forbidden)
    run = openvino_run.open(folder)
    limits = resolve_budgets(run, speedup=0.2, size_mb="fp32", max_drop=50)
    assert limits == openvino_run.budgets
    assert refine(run, limits) == openvino_run.certificate
    assert contents(folder) == before
    assert n_evaluations(folder) == evaluated


def test_changed_budget_solves_again_and_measures_only_what_depends_on_it(qdq_copy: Path, qdq_run: Finished) -> None:
    before, evaluated = contents(qdq_copy), n_evaluations(qdq_copy)
    run = qdq_run.open(qdq_copy)
    certificate = refine(run, resolve_budgets(run, bitops="w4a4"))
    after = contents(qdq_copy)
    kept = {FILES[kind] for kind in (Network, Ranges)} | {"settings.json"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert run.read(Plan).assignment == run.network.uniform("w4a4")
    assert certificate.accuracy.engine == next(e.metric for e in certificate.engines if e.name == "w4a4")
    # New rows are mixtures on the score batch and candidates on the whole search part.
    assert n_evaluations(qdq_copy) - evaluated <= QDQ_SETTINGS.n_candidates + N_MIXTURES


def test_a_budget_solved_before_evaluates_nothing_at_all(qdq_copy: Path, qdq_run: Finished) -> None:
    evaluated = n_evaluations(qdq_copy)
    run = qdq_run.open(qdq_copy)
    limit = qdq_run.budgets[0].limit
    (qdq_copy / FILES[Plan]).unlink()
    assert search(run, qdq_run.budgets).assignment == payload(qdq_run.folder / FILES[Plan])["assignment"]
    assert resolve_budgets(run, bitops=str(limit)) == qdq_run.budgets
    assert n_evaluations(qdq_copy) == evaluated


def test_latency_budget_changes_leave_the_measurements_alone(openvino_run: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    before = contents(folder)
    run = openvino_run.open(folder)
    search(run, resolve_budgets(run, speedup=0.1))
    after = contents(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert {"plan.json"} <= changed <= {"plan.json", "stage_times.json", "contributions.json", "interactions.json"}


def test_search_and_report_parts_are_disjoint_and_all_of_the_data(qdq_run: Finished) -> None:
    parts = [{row.numpy().tobytes() for row in part.inputs[0]} for part in qdq_run.open().parts]
    assert parts[0].isdisjoint(parts[1])
    assert len(parts[0] | parts[1]) == N_EVALUATION


def test_the_report_part_is_first_looked_at_by_verify(tmp_path: Path) -> None:
    """Watches the inputs that enter the simulator."""
    seen: set[bytes] = set()
    run = Run(tmp_path / "run", QDQ_SETTINGS, task())
    calibrate(run)
    scores = run.simulator.scores

    def watched(assignments, inputs, *rest):  # type: ignore[no-untyped-def]
        seen.update(row.numpy().tobytes() for row in inputs[0])
        return scores(assignments, inputs, *rest)

    run.simulator.scores = watched  # type: ignore[method-assign]
    report_rows = {row.numpy().tobytes() for row in run.parts[1].inputs[0]}
    search(run, resolve_budgets(run, bitops="int8"))
    build(run)
    assert seen and seen.isdisjoint(report_rows)
    verify(run)
    assert report_rows <= seen


def test_score_batch_is_a_part_of_the_search_part(qdq_run: Finished) -> None:
    run = qdq_run.open()
    batch, part = run.score_batch, run.parts[0]
    assert len(batch) == QDQ_SETTINGS.n_score_samples
    assert torch.equal(batch.inputs[0], part.inputs[0][: len(batch)])


def test_contributions_of_walks_add_up_to_what_the_ladder_gains(tmp_path: Path) -> None:
    found = contributing.contribute(Run(tmp_path, replace(QDQ_SETTINGS, estimator="antithetic"), task()))
    gained = sum(row["fp32"] for row in found.phi.values())
    assert gained == pytest.approx(found.top_value - found.floor_value, abs=1e-6)
    assert all(row["w4a4"] == 0 for row in found.phi.values())


def test_ties_of_a_target_are_groups_of_its_runs(
    qdq_copy: Path, qdq_run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a folder that holds contributions of other groups: these are measured again."""
    monkeypatch.setattr(OnnxQdqTarget, "ties", lambda target, captured: (("conv1", "conv2"),))
    run = qdq_run.open(qdq_copy)
    assert [group.layers for group in run.network.groups] == [("conv1", "conv2"), ("conv3",), ("head",)]
    assert run.read(Network).groups == run.network.groups
    found = contributing.contribute(run)
    assert tuple(found.phi) == run.network.group_names


def test_contributions_are_within_error_of_full_enumeration(qdq_copy: Path, qdq_run: Finished) -> None:
    """Every one of the 3^4 assignments, evaluated at once, through the definition of the Shapley value."""
    run = qdq_run.open(qdq_copy)
    found = run.read(Contributions)
    game = evaluation_game(prepare(run), run.score_batch, lambda done, n: None)

    phi = exact(contributing.ValueGame(game, 0)).phi
    names = run.ladder.names
    estimated = np.array([[found.phi[g][p] for p in names] for g in run.network.group_names])
    errors = np.array([[found.stderr[g][p] for p in names] for g in run.network.group_names])
    # Two pairs make a rough standard error; the whole table must still lie near the truth.
    assert np.abs(estimated - phi).max() <= 6 * errors.max() + 1e-6


def test_plan_is_the_best_measured_candidate_and_keeps_the_budget(qdq_run: Finished) -> None:
    plan = qdq_run.open().read(Plan)
    assert plan.bitops <= qdq_run.budgets[0].limit
    assert all(c.bitops <= qdq_run.budgets[0].limit for c in plan.candidates)
    best = max(plan.candidates, key=lambda c: c.value)
    assert plan.assignment == best.assignment


def test_max_drop_alone_takes_the_cheapest_that_keeps_it(qdq_copy: Path, qdq_run: Finished) -> None:
    run = qdq_run.open(qdq_copy)
    plan = search(run, resolve_budgets(run, max_drop=20))
    kept = [c for c in plan.candidates if c.drop_points + c.drop_stderr_points <= 20]
    assert plan.objective == "latency"
    assert len(plan.candidates) > 1 and all(c.predicted_value is not None for c in plan.candidates)
    assert plan.bitops == min(c.bitops for c in kept)


def test_a_drop_that_could_be_chance_is_met_unless_a_confidence_is_asked_for(
    openvino_run: Finished, tmp_path: Path
) -> None:
    """With the reference for a plan no sample changes, and 48 of these bound the drop to 6.05 points."""
    folder, wide = shutil.copytree(openvino_run.folder, tmp_path / "run"), openvino_run.budgets
    narrow = tuple(replace(b, limit=6.0) if b.kind == "max_drop" else b for b in wide)
    for confidence, met in ((None, True), (0.95, False)):
        run = Run(folder, replace(openvino_run.settings, confidence=confidence), task())
        plan = replace(run.read(Plan), assignment=run.network.uniform("fp32"), budgets=narrow)
        run.artifacts.write(plan, run.artifacts.made_from(Plan))
        certificate = verify(run)
        accuracy, outcome = certificate.accuracy, certificate.budgets[-1]
        assert accuracy.engine == accuracy.reference and accuracy.n_samples == 48
        assert accuracy.drop_bound == Bound(pytest.approx(100 * (1 - 0.05 ** (1 / 48))), 0.95)
        assert (outcome.measured, outcome.met, outcome.by_bound) == (0, met, not met)
        assert outcome.bound == accuracy.drop_bound


def test_a_cheapest_plan_that_keeps_the_drop_needs_no_contributions(tmp_path: Path) -> None:
    heard: list[str] = []
    run = Run(tmp_path, QDQ_SETTINGS, task(), notify=heard.append)
    certificate = refine(run, resolve_budgets(run, max_drop=100.0))
    plan = run.read(Plan)
    assert plan.assignment == run.network.uniform(run.ladder.names[0])
    assert plan.status == "optimal" and [c.sources for c in plan.candidates] == [("cheapest",)]
    assert plan.predicted_value is None and plan.candidates[0].n_samples == len(run.parts[0])
    assert not run.path(Contributions).exists() and any("no contributions" in message for message in heard)
    before = contents(tmp_path)
    assert refine(Run(tmp_path, QDQ_SETTINGS, task()), plan.budgets) == certificate
    assert contents(tmp_path) == before


def test_one_engine_under_two_names_is_timed_and_run_once(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(openvino_run.folder, tmp_path / "run")
    run, timed = openvino_run.open(tmp_path / "run"), list[str]()
    measure = type(run.target.device).measure

    def counted(device: Any, engines: dict[str, Any], *how: Any) -> Timing:
        timed.extend(engines)
        assert len({id(engine) for engine in engines.values()}) == len(engines)
        return measure(device, engines, *how)

    monkeypatch.setattr(type(run.target.device), "measure", counted)
    name = next(one for one in ("int8", "fp32") if run.plan().assignment != run.network.uniform(one))
    run.artifacts.write(replace(run.plan(), assignment=run.network.uniform(name)), run.artifacts.made_from(Plan))
    certificate = verify(run)
    assert CHOSEN not in timed and {"int8", "fp32"} <= set(timed)
    chosen, same = ({**vars(one), "name": ""} for one in certificate.engines if one.name in (CHOSEN, name))
    assert chosen == same and certificate.agrees and certificate.audit.is_clean


def test_changed_data_makes_the_ranges_stale(qdq_copy: Path, qdq_run: Finished) -> None:
    before = contents(qdq_copy)
    original = task()
    other = Task(network(), images(20, seed=9), (original.evaluation.inputs, original.evaluation.targets))
    run = Run(qdq_copy, QDQ_SETTINGS, other)
    refine(run, qdq_run.budgets)
    after = contents(qdq_copy)
    assert all(before[FILES[kind]] != after[FILES[kind]] for kind in (Ranges, Contributions, Plan, Certificate))


def test_same_seed_gives_the_same_plan_in_another_folder(qdq_run: Finished, tmp_path: Path) -> None:
    again = finish(tmp_path / "again", QDQ_SETTINGS, bitops="int8")
    for kind in (Ranges, Contributions, Plan):
        assert payload(again.folder / FILES[kind]) == payload(qdq_run.folder / FILES[kind])


def test_a_flattened_feature_map_goes_through(tmp_path: Path) -> None:
    """Flattening is a view, which the memory layout of the simulator must not break."""

    class Flat(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12 * 16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.bn1(self.conv1(x)))
            return self.head(torch.relu(self.conv3(torch.relu(self.conv2(x)))).flatten(1))

    torch.manual_seed(0)
    net, inputs = Flat().eval(), images(40, seed=1)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    run = Run(tmp_path / "run", QDQ_SETTINGS, Task(net, images(8, seed=2), (inputs, labels)))
    assert refine(run, resolve_budgets(run, bitops="int8")).accuracy.reference == within_answers(1.0, 20)


def slow_down_the_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chosen engine measures 50 times what it takes."""
    time = verifying.time_shapes

    def slow(*args, **kwargs):  # type: ignore[no-untyped-def]
        times, of_shapes = time(*args, **kwargs)
        chosen = replace(times[verifying.CHOSEN], median_ms=50 * times["fp32"].median_ms)
        return times | {verifying.CHOSEN: chosen}, of_shapes

    monkeypatch.setattr(verifying, "time_shapes", slow)


@pytest.mark.usefixtures("told_apart")
def test_later_rounds_run_the_new_engine_alone(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = run_on_a_machine(openvino_run, tmp_path / "run", monkeypatch, lambda ms: 1.06 * ms)
    ran, networks = list[set[str]](), list[int]()
    outputs, network = judging.outputs_of, judging.network_outputs
    monkeypatch.setattr(judging, "outputs_of", lambda run, new, stage: ran.append(set(new)) or outputs(run, new, stage))
    monkeypatch.setattr(judging, "network_outputs", lambda prepared: networks.append(1) or network(prepared))
    certificate = refine(run, resolve_budgets(run, latency_ms=25.5))
    assert len(ran) == len(certificate.rounds) > 1 and len(networks) == 1
    assert {"int8", "fp32", CHOSEN} <= ran[0] and all(names == {CHOSEN} for names in ran[1:])
    again = verifying._verify(prepare(Run(run.folder, run.settings, task())))
    assert [one.name for one in again.engines] == [one.name for one in certificate.engines]
    for one, other in zip(again.engines, certificate.engines, strict=True):
        assert (one.metric, one.loss, one.kl) == (other.metric, other.loss, other.kl)
    assert again.agreement == certificate.agreement


def test_missed_latency_is_solved_again_with_what_was_measured(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every engine is made to measure far above its prediction: rounds end, and nothing is hidden."""
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    slow_down_the_chosen(monkeypatch)
    monkeypatch.setattr(refining, "MAX_ROUNDS", 2)
    run = openvino_run.open(folder)
    certificate = refine(run, resolve_budgets(run, speedup=0.5))
    assert not certificate.verified
    assert not certificate.budgets[0].met
    assert certificate.budgets[0].measured > certificate.budgets[0].limit
    assert len(certificate.rounds) == 2
    assert all(not r.met for r in certificate.rounds)
    distinct = {json.dumps(r.assignment, sort_keys=True) for r in certificate.rounds}
    assert len(certificate.rounds) == len(distinct)  # what was measured above the budget is not built again
    # The last word has the fastest of all that was not measured above the budget.
    model = profiling_stage.cost_model(prepare(run))
    limit, groups = certificate.budgets[0].limit, run.network.group_names
    missed = [assignment for assignment, ms in model.measured_ms() if ms > limit]
    choices = [dict(zip(groups, names, strict=True)) for names in product(run.ladder.names, repeat=len(groups))]
    fastest = min(model.predict(x) for x in choices if x not in missed)
    assert certificate.rounds[-1].predicted_ms == pytest.approx(fastest)


def test_where_mixtures_only_seem_fast_one_precision_everywhere_is_the_end(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mixture takes three times as long as predicted: what seemed the fastest was timed, and no plan."""
    run, _ = run_on_a_machine(
        openvino_run, tmp_path / "run", monkeypatch, lambda ms: 3 * ms, fp32_ms=(4.0, 6.0, 7.0, 2.0)
    )
    certificate = refine(run, resolve_budgets(run, max_drop=100.0))
    assert certificate.latency_ms is not None and certificate.latency_ms.measured == 10.0
    tried = run.read(CostTable).engines
    assert tried and all(set(one.assignment.values()) == {"int8", "fp32"} for one in tried)
    assert run.read(Plan).assignment == run.network.uniform("int8") and len(certificate.rounds) == 1


def test_a_missed_plan_that_cannot_change_ends(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only uniform int8 is small enough: once it is measured above the budget, nothing is left to build."""
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    real, calls = refining.search, []

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(args)
        assert len(calls) <= refining.MAX_ROUNDS, "it goes on for ever"
        return real(*args, **kwargs)

    slow_down_the_chosen(monkeypatch)
    monkeypatch.setattr(refining, "search", counted)
    run = openvino_run.open(folder)
    certificate = refine(run, resolve_budgets(run, speedup=0.5, size_mb="int8"))
    assert [r.assignment for r in certificate.rounds] == [run.network.uniform("int8")]
    assert not certificate.verified


def run_on_a_machine(
    finished: Finished, folder: Path, monkeypatch: pytest.MonkeyPatch, true_ms: Callable[[float], float],
    fp32_ms: tuple[float, ...] = (4.0, 6.0, 7.0, 12.0),
) -> tuple[Run, Callable[[Assignment], float]]:
    """A run with a cost table that was made up, on a machine where an engine takes ``true_ms`` of what this predicts;
    and what any assignment takes there. By its KL fp32 is worth most, whatever few samples say."""
    shutil.copytree(finished.folder, folder)
    run = Run(folder, replace(finished.settings, value="kl"), task())
    known = run.read(CostTable)
    uniform = {"int8": Measurement(10.0, 0.01, 7), "fp32": Measurement(sum(fp32_ms), 0.01, 7)}
    times = zip(run.network.group_names, (1.0, 2.0, 3.0, 4.0), fp32_ms, strict=True)
    group_ms = {group: {"int8": int8, "fp32": fp32} for group, int8, fp32 in times}
    table = replace(known, group_ms=group_ms, uniform_ms=uniform, engines=())
    model = fit(table, run.network)
    artifacts.write(run.path(CostTable), table, artifacts.read_envelope(run.path(CostTable), CostTable)["inputs"])

    def takes(assignment: Assignment) -> float:
        predicted = model.predict(assignment)
        return predicted if len(set(assignment.values())) == 1 else true_ms(predicted)

    def timed(run: Run, engines: object, stage: str) -> tuple[dict[str, Measurement], dict[str, Timing]]:
        taken = Measurement(takes(run.read(Plan).assignment), 0.01, 7)
        return uniform | {verifying.CHOSEN: taken, verifying.PLAIN: taken, BY_ITSELF: uniform["fp32"]}, {}

    def with_mixtures(  # type: ignore[no-untyped-def]
        target: object, network: Network, table: CostTable, mixtures: list[Assignment], *args, **kwargs
    ) -> CostTable:
        some = (EngineTiming(x, Measurement(takes(x), 0.01, 7), uniform["fp32"]) for x in mixtures)
        return replace(table, engines=(*table.engines, *some))

    monkeypatch.setattr(verifying, "time_shapes", timed)
    monkeypatch.setattr(profiling_stage, "draw_mixtures", lambda *given: [])
    monkeypatch.setattr(profiling_stage.profiling, "measure_mixtures", with_mixtures)
    return run, takes


@pytest.mark.parametrize(("factor", "limit"), [(0.9, 24.5), (1.06, 25.5)])
@pytest.mark.usefixtures("told_apart")
def test_rounds_end_with_the_best_that_keeps_the_budget(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, limit: float
) -> None:
    """Engines are all faster, or slower, than predicted: the oracle is every assignment, measured and timed."""
    run, takes = run_on_a_machine(openvino_run, tmp_path / "run", monkeypatch, lambda ms: factor * ms)
    certificate = refine(run, resolve_budgets(run, latency_ms=limit))
    batches = NestedBatches(prepare(run))
    choices = np.array(list(product(range(2), repeat=4)))
    names = [dict(zip(run.network.group_names, np.array(run.ladder.names)[c].tolist(), strict=True)) for c in choices]
    value = {str(x): batches.up_to(c, 48)[0].mean() for x, c in zip(names, choices, strict=True)}
    plan = run.read(Plan)
    best = max(value[str(x)] for x in names if takes(x) <= limit)
    assert certificate.verified and value[str(plan.assignment)] == pytest.approx(best)
    assert run.read(Manifest).assignment == plan.assignment == certificate.rounds[-1].assignment
    assert len(certificate.rounds) > 1
    assert (certificate.rounds[0].met, certificate.rounds[-1].met) == (factor < 1, True)
    for built in certificate.rounds:
        assert built.met == (takes(built.assignment) <= limit)
        assert not built.met or value[str(built.assignment)] <= value[str(plan.assignment)]

    before = contents(run.folder)
    assert refine(run, (Budget("latency_ms", limit),)) == certificate
    assert contents(run.folder) == before


@pytest.mark.parametrize("budget", [Budget("latency_ms", 29.0), Budget("size_mb", 1.0)])
def test_what_is_worth_the_same_is_had_as_fast_as_it_goes(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: Budget
) -> None:
    """Every assignment has the same metric, which is the value: int8 everywhere takes 10 ms, and fp32 29."""
    run_on_a_machine(openvino_run, tmp_path / "run", monkeypatch, lambda ms: ms)
    original = task()
    flat = Task(
        network(), images(16, seed=2), (original.evaluation.inputs, original.evaluation.targets), name="tiny",
        metric=lambda outputs, targets: torch.ones(len(targets)),
    )
    run = Run(tmp_path / "run", replace(openvino_run.settings, value="metric", additive=False), flat)
    plan = search(run, [budget])
    assert plan.assignment == run.network.uniform("int8") and plan.forgone is None


def test_margins_close_in_on_what_the_budget_allows() -> None:
    def after(rounds: str) -> float:
        return n_margins([r == "+" for r in rounds])

    assert [after(r) for r in ("", "+", "++")] == [0, 0, 0]
    assert [after(r) for r in ("-", "--", "---", "+-")] == [1, 2, 3, 1]
    assert [after(r) for r in ("-+", "-++", "-+-", "--+", "-+-+")] == [0.5, 0.25, 0.75, 1.5, 0.625]


def test_samples_of_each_part_keep_their_labels() -> None:
    whole = task()
    label_of = {
        row.numpy().tobytes(): int(y)
        for row, y in zip(whole.evaluation.inputs[0], whole.evaluation.targets, strict=True)
    }
    for part in whole.split(seed=3):
        assert isinstance(part, Samples)
        found = {r.numpy().tobytes(): int(y) for r, y in zip(part.inputs[0], part.targets, strict=True)}
        assert found.items() <= label_of.items()


def test_a_speedup_is_judged_by_the_session_that_measured_both(openvino_run: Finished) -> None:
    """On a machine that became slower by a tenth since the limit was set, the ratio still is what was asked for."""
    from hwsmpq.pipeline.prove.verify import _outcome

    plan, certificate = openvino_run.open().read(Plan), openvino_run.certificate
    slower = LatencyOutcome(reference=11.0, predicted=7.0, measured=7.15, spread=0.1)
    asked = Budget("latency_ms", 10 / 1.5, 1.5)
    outcome = _outcome(asked, plan, slower, None, certificate.accuracy, False)
    assert outcome.met and outcome.measured == pytest.approx(6.5)
    assert not _outcome(Budget("latency_ms", 10 / 1.5), plan, slower, None, certificate.accuracy, False).met
    assert not _outcome(Budget("latency_ms", 10 / 1.6, 1.6), plan, slower, None, certificate.accuracy, False).met
