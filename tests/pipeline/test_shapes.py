"""Samples of several shapes, from the task to a verified certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import OPENVINO_SETTINGS
from shapes import LENGTHS, SIZES, image_task, text_task

from hwsmpq import Run, load, profile, resolve_budgets, search, verify
from hwsmpq.device.openvino import OpenvinoEngine
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.task import Task
from hwsmpq.types import Manifest, Settings

SETTINGS = replace(OPENVINO_SETTINGS, task="", n_mixtures=0, timing_seconds=0.1)
OF_SIZES = tuple("x".join(map(str, (3, *size))) for size in SIZES)


@pytest.mark.parametrize("build, asked, timed, share", [
    (text_task, (), (str(LENGTHS[-1]),), 1.0),
    (image_task, OF_SIZES, OF_SIZES[::-1], 2 / 3),
])
def test_several_shapes_reach_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: object, asked: tuple[str, ...], timed: tuple[str, ...],
    share: float,
) -> None:
    monkeypatch.setattr(OpenvinoEngine, "peak_mb", lambda *given: None)  # which takes a process each
    task: Task = build()  # type: ignore[operator]
    run = Run(tmp_path / "run", replace(SETTINGS, latency_shape=asked), task)
    search(run, resolve_budgets(run, speedup=0.01, max_drop=100))
    certificate = verify(run)
    assert certificate.verified and all(one.agrees for one in certificate.agreement.values())
    latency = certificate.latency_ms
    assert latency is not None and [one.shape for one in latency.shapes] == list(timed)
    assert latency.shapes[0].share == pytest.approx(share) and sum(one.share for one in latency.shapes) == 1
    mean = sum(one.share * one.measured for one in latency.shapes)
    top = sum(one.share * one.reference for one in latency.shapes)
    assert mean / top == pytest.approx(latency.measured / latency.reference)
    # The engine answers samples of all shapes, in their order, as it answers each by itself.
    part, engine = run.parts[1], load(run.folder)
    answers = engine_outputs(run.target.load(run.folder / "engine"), part.inputs)
    alone = torch.cat([engine(*(x[i : i + 1] for x in part.inputs)) for i in range(len(part))])  # type: ignore[misc]
    assert torch.equal(answers, alone)
    assert certificate.accuracy.engine == pytest.approx(
        float(np.mean((answers.argmax(1) == part.targets[:]).numpy())), abs=1e-6
    )
    arrays = engine(*(x[:1].numpy() for x in part.inputs))
    assert torch.equal(arrays, answers[:1])  # type: ignore[arg-type]
    with pytest.raises(HwsmpqError, match=r"(?s)input 0 is torch.float64.*x.astype\('float32'\)"):
        engine(*(x[:1].double() for x in part.inputs))
    manifest = run.read(Manifest)
    assert manifest.dynamic_batch is not None and not manifest.dynamic_batch.why_not
    assert "1 x any" in (run.folder / "engine" / "README.md").read_text() or asked


def test_shapes_that_no_sample_has_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", replace(SETTINGS, latency_shape=("3x31x31",)), image_task())
    with pytest.raises(HwsmpqError, match=r"(?s)no calibration sample has the shape 3x31x31.*3x32x32 \(16 samples\)"):
        profile(run)


def test_a_target_of_one_shape_refuses_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_target("onnx-qdq")), "takes_shapes", False)
    run = Run(tmp_path / "run", Settings(target="onnx-qdq"), image_task())
    with pytest.raises(HwsmpqError, match=r"(?s)engines of onnx-qdq take one.*3x32x32, 3x20x28"):
        _ = run.network
