"""The stage: what it trains on, what build and verify make of it, and when it no longer counts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS, Finished, at_four_bits
from tiny_task import N_CLASSES, images, network, task

from hwsmpq import artifacts
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.finetune import SHARE_HELD_OUT, finetune
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.prove.verify import verify
from hwsmpq.pipeline.prove.weights import CHECKPOINT_FILE, WEIGHTS_FILE, builder_of, simulator_of, trained
from hwsmpq.pipeline.run import Run
from hwsmpq.quickstart.task import task as digits_task
from hwsmpq.train.fit import Course, fit
from hwsmpq.types import Manifest, Plan, Recipe, Settings, Trained

SHORT = Recipe(n_epochs=2, learning_rate=0.0003, batch_size=16)


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def run(qdq_run: Finished, qdq_copy: Path, notices: list[str]) -> Run:
    """A finished run at 4 bits, opened again."""
    return at_four_bits(qdq_run, qdq_copy, notices.append)


def test_the_result_flows_into_build_and_verify(run: Run) -> None:
    before = verify(run)
    untrained = run.read(Manifest)
    result = finetune(run, SHORT)
    after = verify(run)
    files = run.read(Manifest).files
    assert files["qdq.onnx"] != untrained.files["qdq.onnx"]
    assert "retrained for 2 epochs on the search part" in after.claim and "retrained" not in before.claim
    # What came as it was is judged as before; only the plan's engine differs.
    assert [e for e in after.engines if e.name != "chosen"] == [e for e in before.engines if e.name != "chosen"]
    outputs = simulator_of(prepare(run), run.read(Plan)).scores(
        [result.assignment], run.parts[1].inputs, lambda out, rows: out
    )[0]
    correct = (outputs.argmax(1) == run.parts[1].targets).float().mean()
    assert after.accuracy.engine == pytest.approx(float(correct))
    assert next(e for e in after.engines if e.name == "chosen").loss != pytest.approx(
        next(e for e in before.engines if e.name == "chosen").loss
    )


def test_it_trains_again_only_if_something_changed(run: Run) -> None:
    finetune(run, SHORT)
    path = run.path(Trained)
    written = path.stat().st_mtime_ns
    assert finetune(run, SHORT) == run.read(Trained)
    assert path.stat().st_mtime_ns == written
    finetune(run, replace(SHORT, seed=1))
    assert path.stat().st_mtime_ns != written
    assert not (path.parent / CHECKPOINT_FILE).exists()


def test_another_plan_is_built_untrained_and_says_so(run: Run, notices: list[str]) -> None:
    untrained = build(run).files
    finetune(run, SHORT)
    assert build(run).files != untrained
    trained_plan = run.read(Plan)
    search(run, resolve_budgets(run, bitops="int8"))
    assert run.read(Plan).assignment != trained_plan.assignment
    notices.clear()
    build(run)
    assert [n for n in notices if "made for another plan" in n and "hwsmpq finetune" in n]
    assert trained(prepare(run), run.read(Plan)) is None and builder_of(prepare(run), run.read(Plan)) is run.builder
    # The trained plan again: what was trained for it counts again.
    search(run, resolve_budgets(run, bitops="w4a4"))
    notices.clear()
    build(run)
    assert trained(prepare(run), run.read(Plan)) is not None and notices == []


def test_refine_keeps_the_trained_plan(run: Run) -> None:
    finetune(run, SHORT)
    certificate = refine(run, resolve_budgets(run, bitops="w4a4"))
    assert "retrained" in certificate.claim


def test_training_samples_of_the_task(qdq_copy: Path, notices: list[str]) -> None:
    plain = task()
    inputs = images(40, seed=9)
    given = Task(
        plain.model, plain.calibration, (plain.evaluation.inputs, plain.evaluation.targets), name="tiny",
        training=(inputs, torch.arange(40) % N_CLASSES),
    )
    opened = Run(qdq_copy, QDQ_SETTINGS, given, notify=notices.append)
    search(opened, resolve_budgets(opened, bitops="w4a4"))
    result = finetune(opened, SHORT)
    assert result.n_samples == 40 and result.data == "the task's training samples" and notices == []


def test_the_fallback_leaves_the_report_part_alone(run: Run, notices: list[str], monkeypatch) -> None:
    seen: list[Samples] = []

    def watch(network, samples, *args):
        seen.extend((samples, args[-1]))
        return Course((1.0,), (2.0, 1.0))

    monkeypatch.setattr("hwsmpq.pipeline.prove.finetune.fit", watch)
    finetune(run, SHORT)
    samples, held_out = seen
    search_part, report_part = run.parts
    n_held_out, n = len(held_out), len(search_part) - len(held_out)
    assert n_held_out == round(SHARE_HELD_OUT * len(search_part)) > 0
    assert torch.equal(held_out.inputs[0], search_part.inputs[0][:n_held_out])
    assert torch.equal(samples.inputs[0][:n], search_part.inputs[0][n_held_out:])
    assert torch.equal(samples.inputs[0][n:], run.task.calibration[0])
    with torch.no_grad():
        assert torch.equal(samples.targets[n:], network()(run.task.calibration[0]).argmax(1))
    reported = {x.numpy().tobytes() for x in report_part.inputs[0]}
    assert not reported & {x.numpy().tobytes() for x in samples.inputs[0]}
    assert any("no training samples" in n and "report part" in n for n in notices)


def test_changed_weights_are_refused(run: Run) -> None:
    finetune(run, SHORT)
    path = run.path(Trained).parent / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(HwsmpqError, match=r"weights\.safetensors is missing or was changed"):
        build(run)


def test_an_interrupted_stage_goes_on(run: Run, monkeypatch) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "finetune" and done == 1:
            raise KeyboardInterrupt

    run.progress = progress
    with pytest.raises(KeyboardInterrupt):
        finetune(run, SHORT)
    assert (run.path(Trained).parent / CHECKPOINT_FILE).exists() and not run.path(Trained).exists()
    run.progress = lambda stage, done, total: None
    resumed = finetune(run, SHORT)
    again = finetune(run, replace(SHORT, seed=7))
    assert again.weights_sha256 != resumed.weights_sha256
    assert finetune(run, SHORT) == resumed


def test_no_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match="no plan"):
        finetune(Run(tmp_path / "run", QDQ_SETTINGS, task()), SHORT)


def test_a_plan_in_full_precision_is_refused(qdq_copy: Path) -> None:
    opened = Run(qdq_copy, QDQ_SETTINGS, task())
    plan = search(opened, resolve_budgets(opened, bitops="w4a4"))
    artifacts.write(opened.path(Plan), replace(plan, assignment=opened.network.uniform("fp32")))
    with pytest.raises(HwsmpqError, match="nothing is quantized"):
        finetune(opened, SHORT)


def fit_all(fit, *args):
    """Training without samples that are held out: the last epoch stays."""
    return fit(*args[:-1])


def test_a_real_engine_computes_what_was_trained(tmp_path: Path, monkeypatch) -> None:
    opened = Run(tmp_path / "run", replace(OPENVINO_SETTINGS, cost="bitops", ladder=("int8", "fp32")), task())
    refine(opened, resolve_budgets(opened, bitops="int8"))
    # In 8 bits little can be learned, and what is no better is not kept: only the path counts here.
    monkeypatch.setattr("hwsmpq.pipeline.prove.finetune.fit", partial(fit_all, fit))
    finetune(opened, replace(SHORT, learning_rate=0.01))
    certificate = verify(opened)
    plan = opened.read(Plan)
    simulator = simulator_of(prepare(opened), plan)
    outputs = simulator.scores([plan.assignment], opened.parts[1].inputs, lambda out, rows: out)[0]
    untrained = opened.simulator.scores([plan.assignment], opened.parts[1].inputs, lambda out, rows: out)[0]
    expected, before = (
        float(torch.nn.functional.cross_entropy(o, opened.parts[1].targets)) for o in (outputs, untrained)
    )
    found = next(e.loss for e in certificate.engines if e.name == "chosen")
    assert found == pytest.approx(expected, rel=0.02) and abs(found - before) > 2 * abs(found - expected)


def test_digits_at_three_bits_improve(tmp_path: Path) -> None:
    """The network of the quickstart, every layer at 3 bits: it has few points to gain, so the loss must tell."""
    settings = Settings(
        task="hwsmpq.quickstart.task:task", target="onnx-qdq", ladder=("w3a3", "int8"), additive=True, n_pairs=2,
        n_score_samples=16,
    )
    opened = Run(tmp_path / "run", settings, digits_task())
    before = refine(opened, resolve_budgets(opened, bitops="w3a3"))
    finetune(opened, Recipe(n_epochs=3))
    after = verify(opened)
    error = math.hypot(before.accuracy.paired_stderr, after.accuracy.paired_stderr)
    assert after.accuracy.engine >= before.accuracy.engine - 2 * error
    losses = [next(e.loss for e in c.engines if e.name == "chosen") for c in (before, after)]
    assert losses[1] < 0.7 * losses[0]


