"""The stage: what build, verify and training make of it, and when it no longer counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import OPENVINO_SETTINGS, Finished, at_four_bits
from tiny_task import task

from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.optimize import optimize
from hwsmpq.pipeline.prepare.calibrate import LEARNING, calibrate
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.finetune import finetune
from hwsmpq.pipeline.prove.reconstruct import reconstruct
from hwsmpq.pipeline.prove.verify import verify
from hwsmpq.pipeline.prove.weights import CHECKPOINT_FILE, learned, simulator_of
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Manifest, Plan, Ranges, Recipe, Reconstructed, Reconstruction, Trained

SHORT = Reconstruction(n_iterations=20, batch_size=16)


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def run(qdq_run: Finished, qdq_copy: Path, notices: list[str]) -> Run:
    """A finished run at 4 bits, opened again."""
    return at_four_bits(qdq_run, qdq_copy, notices.append)


def test_the_result_flows_into_build_verify_and_training(run: Run) -> None:
    before, files = verify(run), run.read(Manifest).files
    result = reconstruct(run, SHORT)
    assert any(block.is_kept for block in result.blocks)
    assert not (run.path(Reconstructed).parent / CHECKPOINT_FILE).exists()
    after = verify(run)
    assert run.read(Manifest).files["qdq.onnx"] != files["qdq.onnx"]
    assert "rounding learned on" in after.claim and "learned" not in before.claim
    outputs = simulator_of(prepare(run), run.read(Plan)).scores(
        [result.assignment], run.parts[1].inputs, lambda out, rows: out
    )[0]
    correct = (outputs.argmax(1) == run.parts[1].targets).float().mean()
    assert after.accuracy.engine == pytest.approx(float(correct))
    # Training begins with it, and counts only as long as it began with what is there.
    plan, written = run.read(Plan), run.path(Reconstructed).stat().st_mtime_ns
    trained = finetune(run, Recipe(n_epochs=1, learning_rate=0.003, batch_size=16))
    assert reconstruct(run, SHORT) == result and run.path(Reconstructed).stat().st_mtime_ns == written
    assert learned(prepare(run), plan) == trained and "retrained" in verify(run).claim
    other = reconstruct(run, Reconstruction(n_iterations=21, batch_size=16))
    assert learned(prepare(run), plan) == other and "learned on" in verify(run).claim


def test_another_plan_is_built_without_it_and_says_so(run: Run, notices: list[str]) -> None:
    reconstruct(run, SHORT)
    search(run, resolve_budgets(run, bitops="int8"))
    build(run)
    assert [n for n in notices if "made for another plan" in n and "hwsmpq reconstruct" in n]
    assert learned(prepare(run), run.read(Plan)) is None
    search(run, resolve_budgets(run, bitops="w4a4"))
    notices.clear()
    build(run)
    assert isinstance(learned(prepare(run), run.read(Plan)), Reconstructed) and notices == []
    assert not run.artifacts.has(Trained)


def test_changed_weights_are_refused(run: Run) -> None:
    reconstruct(run, SHORT)
    file = run.path(Reconstructed).parent / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(HwsmpqError, match="run `hwsmpq reconstruct` again"):
        build(run)


def test_nothing_to_learn_is_said(run: Run) -> None:
    search(run, resolve_budgets(run, bitops="fp32"))
    if any(name != "fp32" for name in run.read(Plan).assignment.values()):
        pytest.skip("the plan within fp32's BitOps quantizes something")
    with pytest.raises(HwsmpqError, match="no group has integer"):
        reconstruct(run, SHORT)


def test_a_whole_run_reconstructs_its_plan(tmp_path: Path) -> None:
    kept = optimize(
        task(), tmp_path / "r", bitops="w4a4", ladder="w2a2,w4a4,int8,fp32", target="onnx-qdq", reconstruct=True,
        n_score_samples=16, search_evaluations=20,
    )
    assert "rounding learned on" in kept.claim
    opened = Run(tmp_path / "r", task=task())
    assert opened.read(Reconstructed).assignment == opened.read(Plan).assignment


def test_a_real_engine_computes_what_was_learned(tmp_path: Path) -> None:
    settings = OPENVINO_SETTINGS
    opened = Run(tmp_path / "r", settings, task())
    plan = search(opened, resolve_budgets(opened, bitops="int8"))
    reconstruct(opened, SHORT)
    certificate = verify(opened)
    assert "learned" in certificate.claim
    assert certificate.agreement["chosen"].agrees, certificate.agreement["chosen"].said
    assert torch.isfinite(torch.tensor(certificate.accuracy.engine)) and plan.assignment


def test_rounding_is_learned_before_anything_is_searched(tmp_path: Path) -> None:
    settings = replace(OPENVINO_SETTINGS, rounding="learned")
    plain, opened = Run(tmp_path / "plain", OPENVINO_SETTINGS, task()), Run(tmp_path / "r", settings, task())
    ranges = calibrate(opened)
    assert ranges.roundings.keys() == {p.name for p in opened.ladder.precisions if p.has_integer_operands}
    assert not (opened.path(Ranges).parent / LEARNING).exists()
    assert opened.inputs(Ranges)["quantized"] != plain.inputs(Ranges)["quantized"]
    search(opened, resolve_budgets(opened, bitops="int8"))
    build(opened)
    certificate = verify(opened)
    assert certificate.agreement["chosen"].agrees, certificate.agreement["chosen"].said
    assert calibrate(Run(tmp_path / "r", task=task())) == ranges
