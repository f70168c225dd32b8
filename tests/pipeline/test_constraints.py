"""What users hold plans to, through the whole path: against a brute force over all assignments, and in every place that
shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_task
from conftest import TASK_FILE

from hwsmpq import optimize
from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.folder import Folder
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.choices import held, left, switches
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.front import pareto
from hwsmpq.pipeline.run import Run
from hwsmpq.report.collect import collect
from hwsmpq.types import Assignment, Certificate, Constraints, Contributions, Ladder, Layer, Network, Plan, Settings
from hwsmpq.types.network import Group, Read

LADDER = Ladder.parse("w4a4,int8,fp32")
SETTINGS = Settings(
    task=TASK_FILE, target="onnx-qdq", ladder=LADDER.names, n_pairs=2, n_score_samples=16, n_candidates=2,
    search_evaluations=4,
)
CASES: dict[str, tuple[dict[str, Any], Callable[[Assignment], bool]]] = {
    "pin": ({"pin": ("head=fp32", "conv1=int8")}, lambda a: a["head"] == "fp32" and a["conv1"] == "int8"),
    "at least": ({"at_least": "type:conv=int8"}, lambda a: "w4a4" not in (a["conv1"], a["conv2"], a["conv3"])),
    "together": ({"together": ("conv1,head",)}, lambda a: a["conv1"] == a["head"]),
    "switches": ({"max_switches": 1}, lambda a: len(tiny_switches(a)) <= 1),
    "exclude": ({"exclude": ["conv1"]}, lambda a: a["conv1"] == "fp32"),
    "all": (
        {"pin": "head=fp32", "together": "conv1,head", "max_switches": 2, "at_least": "conv2=int8"},
        lambda a: a["head"] == a["conv1"] == "fp32" and a["conv2"] != "w4a4" and len(tiny_switches(a)) <= 2,
    ),
}


def tiny_switches(a: Assignment) -> list[str]:
    """The tiny network is a chain."""
    chain = ["conv1", "conv2", "conv3", "head"]
    return [one for one, other in pairwise(chain) if a[one] != a[other]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with contributions, which constraints do not change."""
    folder = tmp_path_factory.mktemp("constraints") / "run"
    run = Run(folder, replace(SETTINGS, additive=True))
    search(run, resolve_budgets(run, bitops=2e7))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_the_best_of_those_that_keep_what_was_asked(measured: Path, case: str) -> None:
    """The additive plan against all 81 assignments, valued by the same contributions."""
    asked, keeps = CASES[case]
    run = Run(measured, replace(SETTINGS, additive=True, **asked))
    budgets = resolve_budgets(run, bitops=8e6)
    plan = search(run, budgets)
    network = prepare(run).network
    found = []
    for names in product(LADDER.names, repeat=4):
        assignment = dict(zip(network.group_names, names, strict=True))
        if keeps(assignment) and counted_costs(network, assignment)[0] <= budgets[0].limit * (1 + 1e-9):
            found.append(assignment)
    phi = run.read(Contributions).phi
    best = max(sum(phi[g][p] for g, p in assignment.items()) for assignment in found)
    assert plan.assignment in found
    assert sum(phi[g][p] for g, p in plan.assignment.items()) == pytest.approx(best, abs=1e-9)
    assert {one.option.split()[0] for one in plan.held} == {f"--{n.replace('_', '-')}" for n in asked}


def test_race_and_front_keep_it_too(measured: Path) -> None:
    asked, keeps = CASES["all"]
    run = Run(measured, replace(SETTINGS, **asked))
    plan = search(run, resolve_budgets(run, bitops=2e7))
    assert len(plan.candidates) > 1 and all(keeps(one.assignment) for one in plan.candidates)
    front = pareto(run, 4)
    assert all(keeps(point.assignment) for point in front.points)


def test_task_and_settings_add_up_and_everything_shows_them(tmp_path: Path) -> None:
    task = tiny_task.task()
    task.constraints = Constraints(pin="head=fp32")
    certificate = optimize(
        task, tmp_path, bitops=8e6, ladder=LADDER.names, n_pairs=2, n_score_samples=16, n_candidates=2,
        search_evaluations=4, exclude=("conv1",),
    )
    plan = Folder(tmp_path).read(Plan)
    assert plan.assignment["head"] == plan.assignment["conv1"] == "fp32"
    assert [(one.option, one.groups) for one in certificate.held] == [
        ("--pin 'head=fp32'", ("head",)), ("--exclude 'conv1'", ("conv1",)),
    ]
    assert Folder(tmp_path).read(Certificate) == certificate
    assert any("--pin 'head=fp32'" in fact.value for fact in collect(tmp_path).facts)
    assert Folder(tmp_path).read(Network).n_configurations(3) == 27


@pytest.mark.parametrize("asked, words", [
    ({"pin": "haed=fp32"}, ("no layer fits 'haed'", "head")),
    ({"pin": "typo:conv=fp32"}, ("no layer fits",)),
    ({"pin": "type:conv3d=fp32"}, ("no layer fits", "type:conv2d")),
    ({"pin": "head=w2a2"}, ("no layer runs in w2a2", "--ladder w4a4,int8,fp32,w2a2")),
    ({"pin": ("head=fp32", "head=int8", "conv1=int8")},
     ("--pin 'head=fp32' and --pin 'head=int8' leave head no precision",)),
    ({"pin": "head=w4a4", "at_least": "type:linear=int8"}, ("--pin 'head=w4a4'", "--at-least 'type:linear=int8'")),
    ({"pin": ("head=w4a4", "conv1=fp32"), "together": "conv1,head"}, ("--together 'conv1,head'",)),
    ({"exclude": "*"}, ("no candidate is left",)),
])
def test_what_cannot_be_kept_is_refused_by_name(measured: Path, asked: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(HwsmpqError) as caught:
        run = Run(measured, replace(SETTINGS, **asked))
        search(run, resolve_budgets(run, bitops=2e7))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_constraint_that_puts_a_budget_out_of_reach_is_what_binds(measured: Path) -> None:
    run = Run(measured, replace(SETTINGS, pin=("conv*=fp32", "head=fp32")))
    with pytest.raises(InfeasibleError) as caught:
        search(run, resolve_budgets(run, bitops="int8"))
    assert "--pin 'conv*=fp32'" in caught.value.what and "'head=fp32'" not in str(caught.value)


def test_excluded_layers_that_put_a_budget_out_of_reach_are_named(measured: Path) -> None:
    run = Run(measured, replace(SETTINGS, exclude=("conv3",)))
    with pytest.raises(InfeasibleError) as caught:
        search(run, resolve_budgets(run, bitops=2e7))
    assert caught.value.what.endswith("with --exclude 'conv3'") and "least reachable bitops" in caught.value.fix
    with pytest.raises(InfeasibleError) as caught:
        search(run, resolve_budgets(run, bitops=1e3))
    assert "exclude" not in str(caught.value)


@pytest.mark.parametrize("asked", [{"pin": "head"}, {"at_least": "=int8"}, {"together": "a"}, {"max_switches": -1}])
def test_what_cannot_be_read_is_refused_at_once(asked: dict[str, Any]) -> None:
    with pytest.raises(HwsmpqError):
        Settings(**asked)


def layer(name: str, reads: str, depthwise: bool = False) -> Layer:
    shape = (4, 1, 3, 3) if depthwise else (4, 4)
    return Layer(name, "conv" if depthwise else "linear", f"{name}.weight", shape, 0, reads, (4, 8, 8), (4,), 16, 16, 4)


NETWORK = Network(
    "0" * 64,
    (layer("blocks.0.q", "x"), layer("blocks.0.k", "x"), layer("blocks.1.dw", "y", True), layer("head", "z")),
    (Group("blocks.0.q", ("blocks.0.q", "blocks.0.k")), Group("blocks.1.dw", ("blocks.1.dw",)),
     Group("head", ("head",))),
    (Read("y", "blocks.0.k", 4), Read("z", "blocks.1.dw", 4)), 0,
)


@pytest.mark.parametrize("pattern, groups", [
    ("blocks.0.k", ("blocks.0.q",)), ("blocks.*", ("blocks.0.q", "blocks.1.dw")), ("type:depthwise", ("blocks.1.dw",)),
    ("type:Linear", ("blocks.0.q", "head")), ("type:Conv2d", ("blocks.1.dw",)), ("head", ("head",)),
])
def test_a_pattern_binds_the_groups_that_hold_a_layer_of_it(pattern: str, groups: tuple[str, ...]) -> None:
    assert held(NETWORK, Constraints(pin=f"{pattern}=fp32"))[0].groups == groups


def test_what_is_counted_as_a_switch_is_what_the_network_counts() -> None:
    cost = switches(NETWORK, LADDER)
    mask = left(NETWORK, LADDER, Constraints()).mask
    assert mask.all()
    for levels in product(range(3), repeat=3):
        assignment = {g: LADDER.names[i] for g, i in zip(NETWORK.group_names, levels, strict=True)}
        assert cost(np.array(levels)) == len(NETWORK.switches(assignment))


def test_where_the_target_runs_other_precisions_together_means_what_runs() -> None:
    network = replace(NETWORK, substitutes={"head": {"w4a4": "int8"}})
    mask = left(network, LADDER, Constraints(together="blocks.0.q,head")).mask
    assert mask.tolist() == [[False, True, True], [True, True, True], [False, True, True]]
