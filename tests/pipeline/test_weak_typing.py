"""The whole path for TensorRT 8, whose files hold no types, from the task to the certificate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_task import task as tiny_task

from hwsmpq.hardware.tensorrt.target import TensorrtTarget
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.types import CHOSEN, REFERENCE, Plan, Settings, Survey
from tests.hardware.trt.weak_runtime import WeakEngine, WeakRuntime

pytestmark = pytest.mark.usefixtures("told_apart")  # a mixture is what is asked for
SMALL = {"n_pairs": 2, "n_mixtures": 2, "n_candidates": 2, "n_score_samples": 16, "timing_seconds": 0.1}


def open_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, WeakRuntime]:
    runtime = WeakRuntime()
    monkeypatch.setattr("hwsmpq.hardware.device.get_runtime", lambda name: runtime)
    run = Run(folder, Settings("tiny", target="tensorrt", ladder=("int8", "fp16", "fp32"), **SMALL), tiny_task())
    assert isinstance(run.target, TensorrtTarget)
    return run, runtime


def test_a_mixture_of_three_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, runtime = open_run(tmp_path, monkeypatch)
    certificate = refine(run, resolve_budgets(run, speedup=1.4, max_drop=50.0))
    asked = run.read(Plan).assignment
    assert len(set(asked.values())) > 1 and asked in [dict(layers) for layers in runtime.builds]
    assert certificate.verified, (certificate.agreement, certificate.audit)
    assert certificate.audit.n_as_requested == certificate.audit.n_layers == len(asked)
    assert not run.read(Survey).fallbacks(run.network)


def test_an_engine_that_computes_something_else_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the engine of EfficientNet-Lite0 by 8.5.3 that was audited as asked in every layer."""
    right = WeakEngine.infer

    def infer(engine: WeakEngine, inputs: list[np.ndarray]) -> list[np.ndarray]:
        is_mixed = len(set(engine._layers.values())) > 1
        return [output * (0.5 if is_mixed else 1) for output in right(engine, inputs)]

    monkeypatch.setattr(WeakEngine, "infer", infer)
    run, _ = open_run(tmp_path, monkeypatch)
    certificate = refine(run, resolve_budgets(run, speedup=1.4, max_drop=50.0))
    assert certificate.audit.n_as_requested == certificate.audit.n_layers
    assert certificate.agreement[REFERENCE].agrees and not certificate.agreement[CHOSEN].agrees
    assert not certificate.verified
