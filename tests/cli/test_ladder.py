"""`hwsmpq ladder` proposes what `--ladder` takes."""

from __future__ import annotations

import json
from pathlib import Path

from cli.console import Cli
from hwsmpq.types import Ladder

TASK = "hwsmpq.quickstart.task:task"


def test_a_ladder_is_proposed_that_a_run_takes(cli: Cli, tmp_path: Path) -> None:
    asked = ("ladder", TASK, "-o", tmp_path / "sweep", "--n-score-samples", "64")
    shown = cli(*asked)
    assert shown.code == 0
    proposed = next(line for line in shown.out.splitlines() if line.startswith("proposed: --ladder ")).split()[-1]
    assert json.loads(cli(*asked, "--json").out)["ladder"] == proposed.split(",")
    assert cli("inspect", TASK, "--ladder", proposed, "-o", tmp_path / "run").code == 0
    assert ",".join(Ladder.parse(proposed).names) == proposed


def test_a_target_without_a_choice_of_bits_is_refused(cli: Cli, tmp_path: Path) -> None:
    cli("ladder", TASK, "--target", "openvino-cpu", "-o", tmp_path / "run").assert_one_message("no bits to choose")


def test_a_proposal_changes_no_run(cli: Cli, qdq_copy: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(qdq_copy.rglob("*")) if path.is_file()}
    cli("ladder", "-o", qdq_copy).assert_one_message("holds a run on onnx-qdq", "changes no run", "another folder")
    assert {path: path.read_bytes() for path in sorted(qdq_copy.rglob("*")) if path.is_file()} == before
