"""What commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import TASK_FILE, Finished

from cli.console import Cli, start
from hwsmpq._version import __version__

VERBS = (
    "run", "inspect", "calibrate", "profile", "contribute", "search", "finetune", "build", "verify", "report",
    "targets", "quickstart",
)
SHOWN = {
    "inspect": "search space: 3^4 = 81 configurations (w4a4, int8, fp32)",
    "calibrate": "ranges of 4 layers from 16 samples",
    "contribute": "evaluations on 16 samples; +- standard error over samples",
    "build": "4 of 4 layers as requested",
    "verify": "every budget met",
}


@pytest.mark.parametrize("verb", VERBS)
def test_help(cli: Cli, verb: str) -> None:
    result = cli(verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Usage:" in result.out and verb in result.out


def test_help_of_the_command_names_every_verb(cli: Cli) -> None:
    shown = cli("--help").out
    assert all(f" {verb} " in shown for verb in VERBS)


def test_version(cli: Cli) -> None:
    assert cli("--version").out.strip() == __version__


@pytest.mark.parametrize("verb", SHOWN)
def test_verbs_on_a_finished_run(cli: Cli, qdq_copy: Path, verb: str) -> None:
    result = cli(verb, "-o", qdq_copy)
    assert (result.code, result.err) == (0, "")
    assert SHOWN[verb] in result.out


@pytest.mark.parametrize("verb", SHOWN)
def test_json_is_the_artifact_and_nothing_else(cli: Cli, qdq_copy: Path, verb: str) -> None:
    file = {
        "inspect": "network", "calibrate": "ranges", "contribute": "contributions", "build": "engine/manifest",
        "verify": "certificate",
    }[verb]
    result = cli(verb, "--json", "-o", qdq_copy)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == json.loads((qdq_copy / f"{file}.json").read_text())["payload"]


def test_profile_of_a_target_without_latency_says_nothing_measured(cli: Cli, qdq_run: Finished) -> None:
    assert json.loads(cli("profile", "--json", "-o", qdq_run.folder).out) is None


def test_profile_shows_the_cost_table(cli: Cli, openvino_run: Finished) -> None:
    result = cli("profile", "-o", openvino_run.folder)
    assert result.code == 0
    assert "Measured on openvino-cpu" in result.out and "uniform int8" in result.out


def test_json_of_run_in_another_process(qdq_run: Finished, tmp_path: Path) -> None:
    """All that libraries print of themselves would show here."""
    folder = tmp_path / "run"
    process = start("run", TASK_FILE, "--ladder", "w4a4,int8,fp32", "--bitops", "int8", "--n-pairs", 2,
                    "--n-candidates", 4, "--n-score-samples", 16, "--json", "-o", folder)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    certificate = json.loads(out)
    assert certificate == json.loads((folder / "certificate.json").read_text())["payload"]
    same = json.loads((qdq_run.folder / "certificate.json").read_text())["payload"]
    assert certificate["accuracy"] == same["accuracy"]
    assert (folder / "report.html").is_file()


def test_a_missed_budget_is_an_exit_code_of_one(cli: Cli, qdq_run: Finished, tmp_path: Path) -> None:
    """The certificate of a run with an impossible promise: one point lost at most, many lost."""
    folder = Path(shutil.copytree(qdq_run.folder, tmp_path / "run"))
    searched = cli("search", "-o", folder, "--max-drop", 20, "--bitops", "w4a4")
    if searched.code == 0:
        result = cli("verify", "-o", folder)
        measured = json.loads((folder / "certificate.json").read_text())["payload"]["budgets"]
        assert result.code == (0 if all(b["met"] for b in measured) else 1)
    else:
        searched.assert_one_message("max_drop 20")


def test_report(cli: Cli, qdq_copy: Path) -> None:
    (qdq_copy / "report.html").unlink()
    result = cli("report", "-o", qdq_copy)
    assert result.out == f"report: {qdq_copy / 'report.html'}\n"
    assert (qdq_copy / "report.html").read_text().startswith("<!doctype html>")


def test_report_of_two_folders_compares_them(cli: Cli, qdq_run: Finished, qdq_copy: Path) -> None:
    result = cli("report", qdq_run.folder, qdq_copy)
    assert (result.code, result.out) == (0, f"comparison: {qdq_copy / 'comparison.html'}\n")
    assert cli("report", qdq_copy).out == f"report: {qdq_copy / 'report.html'}\n"
    cli("report", qdq_copy, qdq_copy, qdq_copy).assert_one_message("a report of 3 folders")


def test_targets(cli: Cli) -> None:
    assert re.search(r"openvino-cpu: ready; w4a16, int8, w8a16,( bf16,)? fp32; measures latency", cli("targets").out)
    rows = json.loads(cli("targets", "--json").out)
    assert rows["openvino-cpu"]["latency"] and not rows["onnx-qdq"]["latency"]
    assert "w3a5" in rows["onnx-qdq"]["precisions"]


def test_targets_of_a_device_with_a_broken_runtime(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("import os; os.abort()")
    device = f"env PYTHONPATH={shlex.quote(str(tmp_path))} {shlex.quote(sys.executable)}"
    result = cli("targets", "--device", device)
    assert result.code == 0 and "openvino-cpu: openvino cannot be loaded there" in result.out
    assert "onnxruntime-cpu: ready" in result.out


def test_a_folder_remembers_its_task_and_settings(cli: Cli, qdq_copy: Path) -> None:
    before = (qdq_copy / "settings.json").read_bytes()
    assert cli("contribute", "-o", qdq_copy).code == 0
    assert (qdq_copy / "settings.json").read_bytes() == before


def test_uniform_bitops_is_the_same_budget_as_its_number(cli: Cli, qdq_copy: Path) -> None:
    plans = []
    n_bitops = {e["name"]: e["bitops"] for e in
                json.loads((qdq_copy / "certificate.json").read_text())["payload"]["engines"]}["int8"]
    for limit in ("int8", n_bitops):
        result = cli("search", "--bitops", limit, "--json", "-o", qdq_copy)
        plans.append(json.loads(result.out))
    assert plans[0] == plans[1]


@pytest.mark.slow
def test_resnet101_has_the_search_space_of_the_paper(cli: Cli) -> None:
    result = cli("inspect", "torchvision:resnet101", "--ladder", "w3a3..w8a8")
    assert result.code == 0
    assert "6^101 = 3.9e78 configurations" in result.out


def test_finetune_takes_the_run_folder_as_its_argument(cli: Cli, qdq_copy: Path) -> None:
    result = cli("finetune", qdq_copy, "--epochs", "1", "--lr", "0.003")
    assert result.code == 0 and "trained for 1 epochs on" in result.out, result
    assert "no training samples" in result.err
    assert json.loads(cli("finetune", "-o", qdq_copy, "--epochs", "1", "--lr", "0.003", "--json").out)["n_samples"] > 0
    result = cli("finetune", qdq_copy, "--epochs", "0")
    result.assert_one_message("n_epochs is 0")
