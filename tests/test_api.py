"""What the package offers to Python."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished
from tiny_task import network, task

import hwsmpq
from hwsmpq.hardware.targets import target_for
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.types import Options, Settings

SMALL = {"n_pairs": 2, "n_mixtures": 2, "n_candidates": 4, "n_score_samples": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "run"
    certificate = hwsmpq.optimize(
        task(), str(folder), ladder="int8,fp32", target="openvino-cpu", speedup=0.2, max_drop=50, timing_seconds=0.5,
        **SMALL,
    )
    assert certificate.verified
    return folder


def test_one_call_leaves_engine_certificate_and_report(folder: Path) -> None:
    for name in ("engine/manifest.json", "certificate.json", "report.html"):
        assert (folder / name).is_file()
    assert "given as an object in Python" in (folder / "report.html").read_text()


def test_a_loaded_engine_is_called_with_tensors(folder: Path) -> None:
    inputs = task().evaluation.inputs[0][:7]
    outputs = hwsmpq.load(folder)(inputs)
    expected = network()(inputs).detach()
    assert outputs.dtype == torch.float32 and outputs.shape == expected.shape
    assert float((outputs - expected).abs().mean()) < 0.1 * float(expected.abs().mean())
    accuracy = hwsmpq.verify(hwsmpq.Run(folder, task=task())).accuracy
    report_part = task().split(0)[1]
    correct = hwsmpq.load(str(folder))(*report_part.inputs).argmax(1) == report_part.targets
    assert float(correct.float().mean()) == pytest.approx(accuracy.engine)


def test_a_second_call_goes_on_where_the_first_was(folder: Path) -> None:
    before = (folder / "plan.json").read_bytes()
    hwsmpq.optimize(task(), folder, ladder=("int8", "fp32"), target="openvino-cpu", speedup=0.2, max_drop=50,
                    timing_seconds=0.5, **SMALL)
    assert (folder / "plan.json").read_bytes() == before


def test_folders_without_an_engine_or_a_task_say_so(folder: Path, qdq_run: Finished, tmp_path: Path) -> None:
    with pytest.raises(hwsmpq.HwsmpqError, match="no manifest"):
        hwsmpq.load(tmp_path)
    with pytest.raises(hwsmpq.HwsmpqError, match="does not name its task"):
        _ = hwsmpq.Run(folder).task
    with pytest.raises(hwsmpq.HwsmpqError):
        hwsmpq.load(qdq_run.folder)(task().evaluation.inputs[0])  # the target has no runtime


PUBLIC = {
    "Budget", "Constraints", "HwsmpqError", "Recipe", "Reconstruction", "Run", "Settings", "Task", "__version__",
    "build", "calibrate", "contribute", "finetune", "inspect", "load", "optimize", "pareto", "profile", "reconstruct",
    "refine", "render", "resolve_budgets", "search", "verify",
}
OF_A_RUN = {
    "artifacts", "captured", "folder", "imported_costs", "inputs", "ladder", "measures_latency", "network", "notify",
    "parts", "path", "plan", "progress", "read", "scheme", "score_batch", "settings", "sha256", "stage", "status",
    "target", "task", "value",
}


def test_what_users_build_on_stays(qdq_run: Finished) -> None:
    assert set(hwsmpq.__all__) == PUBLIC
    run = qdq_run.open()
    assert {name for name in OF_A_RUN if not hasattr(run, name)} == set()


def test_optimize_takes_every_setting_under_its_type() -> None:
    """The path itself is checked by mypy against :class:`Options`."""
    named_otherwise = {"task", "data", "weights", "ladder"}
    expected = {field.name: field.type for field in fields(Settings) if field.name not in named_otherwise}
    assert expected == {name: hint.__forward_arg__ for name, hint in Options.__annotations__.items()}
    parameters = inspect.signature(hwsmpq.optimize).parameters
    assert {"notify", "status", "workers", "ray_address", "progress", "ladder"} <= set(parameters)


def test_a_ladder_beyond_the_usual_target_takes_the_flexible_one(tmp_path: Path, caplog: Any) -> None:
    hwsmpq.optimize(task(), tmp_path, ladder="w4a4,int8,fp32", max_drop=100, **SMALL)
    assert hwsmpq.Run(tmp_path, task=task()).target.name == "onnx-qdq"
    assert target_for(("int8", "fp32")) == Settings.target
    assert "no contributions are needed" in caplog.text  # what the user should know is told without being asked for
    heard: list[str] = []
    hwsmpq.optimize(task(), tmp_path, ladder=("w4a4", "int8"), max_drop=100, notify=heard.append, **SMALL)
    assert any("no contributions are needed" in one for one in heard) and "openvino-cpu has no w4a4" in heard[0]


def test_everything_that_is_offered_is_there_and_typed() -> None:
    assert files("hwsmpq").joinpath("py.typed").is_file()
    for name in hwsmpq.__all__:
        offered = getattr(hwsmpq, name)
        if inspect.isfunction(offered):
            assert all(p.annotation is not p.empty for p in inspect.signature(offered).parameters.values()), name
            assert offered.__doc__
    budgets = set(inspect.signature(resolve_budgets).parameters) - {"run", "whole"}
    assert budgets <= set(inspect.signature(hwsmpq.optimize).parameters)


@pytest.mark.parametrize("first", ["", "from hwsmpq import Run", "import hwsmpq.search.milp; from hwsmpq import Task"])
def test_a_verb_is_not_hidden_by_the_subpackage_of_its_name(first: str) -> None:
    code = f"{first}\nfrom hwsmpq import search\nassert callable(search), search"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
