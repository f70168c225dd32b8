"""Commands answer in the words of the question, and say what they chose for the user."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from conftest import TASK_FILE, Finished

from cli.console import Cli, stored
from hwsmpq.cli import app, display
from hwsmpq.cli.options import parse_budgets
from hwsmpq.cli.stage import settings_of
from hwsmpq.cli.verdict import show_verdict
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.types import AccuracyOutcome, Budget, Certificate, Front, Plan
from tests.report.factory import make_run


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.console, "width", 200)


def test_without_a_budget_it_shows_what_can_be_had(cli: Cli, qdq_copy: Path) -> None:
    before = stored(qdq_copy)
    result = cli("run", "-o", qdq_copy)
    assert result.code == 2 and "Traceback" not in result.err
    assert result.messages[0].startswith("error: no budget to search for") and "--bitops int8" in result.err
    assert "One precision everywhere, on 48 samples of the search part" in result.out
    assert [line.split()[-1] for line in result.out.splitlines()[2:]] == ["w4a4", "int8", "fp32"]
    assert stored(qdq_copy) == before


def test_without_a_budget_it_asks_on_a_terminal(cli: Cli, qdq_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "prompt", lambda text: "--bitops int8")
    result = cli("run", "-o", qdq_copy)
    assert result.code == 0 and "every budget met" in result.out


def test_budgets_as_an_answer() -> None:
    assert parse_budgets("--max-drop 0.5") == {"max_drop": 0.5}
    assert parse_budgets("speedup=1.5 --size-mb int8") == {"speedup": 1.5, "size_mb": "int8"}
    for answer in ("", "fast", "--max-drop", "--max-drop little", "--beauty 3"):
        with pytest.raises(HwsmpqError, match="is no budget"):
            parse_budgets(answer)


def test_a_target_that_follows_from_the_ladder_is_named(cli: Cli, tmp_path: Path) -> None:
    result = cli("inspect", TASK_FILE, "--ladder", "w4a4,int8", "-o", tmp_path / "run")
    assert result.err.startswith("target onnx-qdq is taken, since openvino-cpu has no w4a4")
    assert cli("inspect", "-o", tmp_path / "run").err == ""


def test_paths_hold_from_anywhere(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(TASK_FILE, tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    assert cli("inspect", "mine.py", "-o", "run").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli("inspect", "-o", "../run").code == 0
    given = {"data": "imagefolder:photos", "weights": "w.pt"}
    settings = settings_of(tmp_path / "none", "torchvision:resnet18", given)
    here = tmp_path / "elsewhere"
    assert (settings.task, settings.data, settings.weights) == (
        "torchvision:resnet18", f"imagefolder:{here / 'photos'}", str(here / "w.pt")
    )


def test_a_miss_of_verify_says_what_tries_again(cli: Cli, qdq_copy: Path) -> None:
    folder = Folder(qdq_copy)
    plan = folder.read(Plan)
    lossy = replace(plan, assignment=dict.fromkeys(plan.assignment, "w4a4"), budgets=(Budget("max_drop", 0.0),))
    folder.write(lossy, folder.made_from(Plan))
    result = cli("verify", "-o", qdq_copy)
    assert result.code == 1
    assert result.out.splitlines()[-1].startswith("`hwsmpq run` with the same budgets goes on from here")


def test_a_speedup_is_answered_in_speedups(cli: Cli, openvino_run: Finished) -> None:
    shown = cli("verify", "-o", openvino_run.folder).out
    row = next(line for line in shown.splitlines() if line.strip().startswith("Latency"))
    latency = openvino_run.certificate.latency_ms
    assert latency is not None
    assert f"{latency.reference / latency.measured:.2f}x" in row and "at least 0.20x" in row
    assert "--speedup 0.2" in (openvino_run.folder / "report.html").read_text()


def test_a_gain_is_no_negative_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    certificate = Folder(folder).read(Certificate)
    for engine, said in ((0.71, "top1 71.00, gained 1.00 +- 0.20"), (0.69, "top1 69.00, lost 1.00 +- 0.20")):
        show_verdict(replace(certificate, accuracy=AccuracyOutcome(0.70, engine, 50, 0.002, metric="top1")), folder)
        assert said in capsys.readouterr().out


def test_as_many_engines_are_listed_as_were_asked_for(cli: Cli, openvino_run: Finished, tmp_path: Path) -> None:
    """The uniform engines that they are timed with are no points of the front."""
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    for n in (2, 1):
        shown = cli("pareto", "--points", 3, "--measure", n, "-o", folder).out
        assert len(Folder(folder).read(Front).engines) >= 2
        rows = shown.split("Engines, on 48 samples of the report part")[1].splitlines()[2:]
        assert len([row for row in rows if "+-" in row]) == min(n, len(Folder(folder).read(Front).points))
    n_points = len(Folder(folder).read(Front).points)
    result = cli("pareto", "--points", 3, "--measure", 99, "-o", folder)
    assert f"the front has {n_points} points, and not 99: all of them are measured" in result.err
