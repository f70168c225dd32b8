"""Runs of the whole path that tests share; they copy a folder before they change it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_task import task

from hwsmpq.pipeline.budgets import resolve_budgets
from hwsmpq.pipeline.prove import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.report.render import render
from hwsmpq.types import Budget, Certificate, Settings

torch.set_num_threads(1)

TASK_FILE = str(Path(__file__).with_name("tiny_task.py"))
SMALL = {"task": TASK_FILE, "n_pairs": 2, "n_mixtures": 2, "n_candidates": 4, "n_score_samples": 16}
OPENVINO_SETTINGS = Settings(**SMALL, target="openvino-cpu", timing_seconds=0.5)
QDQ_SETTINGS = Settings(**SMALL, target="onnx-qdq", ladder=("w4a4", "int8", "fp32"))


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, what it was asked, and what it returned."""

    folder: Path
    settings: Settings
    budgets: tuple[Budget, ...]
    certificate: Certificate

    def open(self, folder: Path | None = None) -> Run:
        return Run(folder or self.folder, self.settings, task())


def finish(folder: Path, settings: Settings, **limits: float | str) -> Finished:
    run = Run(folder, settings, task())
    budgets = resolve_budgets(run, **limits)
    certificate = refine(run, budgets)
    render(folder)
    return Finished(folder, settings, budgets, certificate)


@pytest.fixture(scope="session")
def openvino_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Budgets wide enough that timing noise on a busy machine cannot miss them."""
    folder = tmp_path_factory.mktemp("openvino") / "run"
    return finish(folder, OPENVINO_SETTINGS, speedup=0.2, size_mb="fp32", max_drop=50)


@pytest.fixture(scope="session")
def qdq_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("qdq") / "run", QDQ_SETTINGS, bitops="int8")


@pytest.fixture
def qdq_copy(qdq_run: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run on onnx-qdq, to change."""
    return Path(shutil.copytree(qdq_run.folder, tmp_path / "run"))
