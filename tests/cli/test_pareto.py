"""`hwsmpq pareto` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Finished

from cli.console import Cli, stored
from hwsmpq.cli import display


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no cell is wrapped."""
    monkeypatch.setattr(display.console, "width", 200)


def test_help(cli: Cli) -> None:
    result = cli("pareto", "--help")
    assert result.code == 0, result.err
    assert "--points" in result.out and "--measure" in result.out and "--bitops" not in result.out
    assert " pareto " in cli("--help").out


def test_a_front_is_printed_and_drawn(cli: Cli, qdq_copy: Path) -> None:
    result = cli("pareto", "--points", 3, "-o", qdq_copy)
    assert result.code == 0, result.err
    front = json.loads((qdq_copy / "front.json").read_text())["payload"]
    assert f"Front from {front['n_compared']} assignments, on 48 samples of the search part" in result.out
    for point in front["points"]:
        assert f"{point['value']:.4f}" in result.out and f"{point['bitops']:.4g}" in result.out
    assert "latency" not in result.out and "Engines" not in result.out
    assert result.out.endswith(f"front: {qdq_copy / 'front.json'}\nchart: {qdq_copy / 'front.svg'}\n")
    assert (qdq_copy / "front.svg").read_text().startswith("<?xml")


def test_json_is_the_artifact_and_nothing_else(cli: Cli, qdq_copy: Path) -> None:
    result = cli("pareto", "--points", 3, "--json", "-o", qdq_copy)
    assert result.code == 0, result.err
    assert json.loads(result.out) == json.loads((qdq_copy / "front.json").read_text())["payload"]


def test_the_plan_and_its_certificate_stay(cli: Cli, qdq_copy: Path) -> None:
    before = stored(qdq_copy)
    assert cli("pareto", "--points", 2, "-o", qdq_copy).code == 0
    after = stored(qdq_copy)
    assert {name: after[name] for name in before} == before


def test_engines_where_none_runs(cli: Cli, qdq_copy: Path) -> None:
    before = stored(qdq_copy)
    cli("pareto", "--measure", 2, "-o", qdq_copy).assert_one_message("no engine of onnx-qdq", "--measure", "--target")
    assert stored(qdq_copy) == before


def test_numbers_that_make_no_front(cli: Cli, qdq_copy: Path) -> None:
    cli("pareto", "--points", 1, "-o", qdq_copy).assert_one_message("a front of 1 points", "at least 2")
    cli("pareto", "--points", 3, "--measure", -1, "-o", qdq_copy).assert_one_message("-1 points to measure")


def test_a_damaged_front_is_named(cli: Cli, qdq_copy: Path) -> None:
    (qdq_copy / "front.json").write_text("{")
    cli("pareto", "--points", 3, "-o", qdq_copy).assert_one_message("front.json", "not readable JSON", "delete")


def test_measured_engines_are_printed(cli: Cli, openvino_run: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    result = cli("pareto", "--points", 3, "--measure", 1, "-o", folder)
    assert (result.code, result.messages) == (0, [])
    assert "latency ms" in result.out and "Engines, on 48 samples of the report part" in result.out
    front = json.loads((folder / "front.json").read_text())["payload"]
    measured = {json.dumps(e["assignment"]): e["latency"] for e in front["engines"]}
    assert f"{measured[json.dumps(front['points'][0]['assignment'])]['median_ms']:.4g}" in result.out
