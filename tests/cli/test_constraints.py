"""What a user holds plans to, by the options of the command line: in the plan, in settings and in what is printed."""

from __future__ import annotations

import json
from itertools import chain, pairwise
from pathlib import Path

import pytest

from cli.console import Cli

CHAIN = ["conv1", "conv2", "conv3", "head"]


def plan_of(cli: Cli, folder: Path, *options: object) -> dict[str, str]:
    """The assignment that `hwsmpq search` gives, whose held constraints are those asked for."""
    result = cli("search", "--bitops", "8e6", *options, "-o", folder)
    assert result.code == 0, result
    plan = json.loads((folder / "plan.json").read_text())["payload"]
    asked = [str(one) for one in options]
    said = [one["option"].replace("'", "") for one in plan["held"]]
    assert said == [f"{name} {value}" for name, value in zip(asked[::2], asked[1::2], strict=True)]
    assert all(one["option"] in result.out for one in plan["held"])
    return plan["assignment"]


def test_options_hold_the_plan_together(cli: Cli, qdq_copy: Path) -> None:
    free = plan_of(cli, qdq_copy)
    asked = {"--pin": "conv1=fp32", "--at-least": "type:conv=int8", "--together": "conv3,head", "--max-switches": 1}
    plan = plan_of(cli, qdq_copy, *chain(*asked.items()))
    assert plan["conv1"] == "fp32" and "w4a4" not in [plan[name] for name in CHAIN[:3]]
    assert plan["conv3"] == plan["head"]
    assert sum(plan[one] != plan[other] for one, other in pairwise(CHAIN)) <= 1
    assert free != plan


def test_options_are_repeated_remembered_and_taken_back(cli: Cli, qdq_copy: Path) -> None:
    plan = plan_of(cli, qdq_copy, "--pin", "head=fp32", "--pin", "conv1=int8")
    assert (plan["head"], plan["conv1"]) == ("fp32", "int8")
    assert cli("search", "--bitops", "8e6", "-o", qdq_copy).code == 0
    assert json.loads((qdq_copy / "plan.json").read_text())["payload"]["assignment"] == plan
    result = cli("search", "--bitops", "8e6", "--pin", "", "--exclude", "conv1", "-o", qdq_copy)
    assert result.code == 0 and "--exclude 'conv1'" in result.out and "--pin" not in result.out
    assert json.loads((qdq_copy / "plan.json").read_text())["payload"]["assignment"]["conv1"] == "fp32"


@pytest.mark.parametrize("options, words", [
    (["--pin", "haed=fp32"], ["no layer fits 'haed'", "head", "--pin '', forgets them"]),
    (["--pin", "head=w5a5"], ["no layer runs in w5a5", "--pin '', forgets them"]),
    (["--pin", "head=bf16"], ["--pin 'head=bf16': target onnx-qdq has no bf16", "name another precision"]),
    (["--pin", "head"], ["--pin 'head' names no precision"]),
    (["--at-least", "type:lstm=int8"], ["type:lstm", "type:linear"]),
    (["--together", "head"], ["names one pattern"]),
    (["--exclude", "*"], ["no candidate is left"]),
    (["--max-switches", -1], ["-1"]),
    (["--pin", "*=fp32"], ["with --pin '*=fp32'", "least reachable bitops"]),
])
def test_what_cannot_be_held_ends_in_one_message(
    cli: Cli, qdq_copy: Path, options: list[object], words: list[str]
) -> None:
    cli("search", "--bitops", "8e6", *options, "-o", qdq_copy).assert_one_message(*words)


def test_a_pin_that_the_target_never_runs_is_not_remembered(cli: Cli, qdq_copy: Path) -> None:
    assert cli("search", "--bitops", "8e6", "--pin", "head=bf16", "-o", qdq_copy).code == 2
    assert cli("search", "--bitops", "8e6", "-o", qdq_copy).code == 0
