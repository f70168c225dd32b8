"""What the runtime does by itself stands beside what was built, measured with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from conftest import Finished
from tiny_task import task

from hwsmpq.hardware.targets import get_target
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prove.refine import worth_another
from hwsmpq.pipeline.run import Run
from hwsmpq.report.verdict import judge
from hwsmpq.search import preferred as preferring
from hwsmpq.types import Budget, Contributions, CostTable, Measurement, Round, Rounds, RuntimeDefault


def test_certificate_has_what_the_runtime_does_by_itself(openvino_run: Finished) -> None:
    default = openvino_run.certificate.runtime_default
    if get_target("openvino-cpu").computes_in == "fp32":
        assert default is None, "the engine in fp32 is it"
        return
    assert default is not None and default.precision != "fp32"
    assert default.latency_ms > 0 and default.plain_ms > 0
    # The file says what stays in fp32: without, outputs change by what bf16 loses, which is 1e-2 here.
    assert default.plain_error < 5e-3


@pytest.mark.parametrize(("default_ms", "said"), [
    (2.0, "2.00x faster than your runtime's default (bf16, 2.00 ms)"),
    (0.5, "slower than your runtime's default (bf16, 0.500 ms)"),
    (1.02, "as fast as your runtime's default (bf16, 1.02 ms) within the timing spread"),
])
def test_verdict_compares_with_it(openvino_run: Finished, default_ms: float, said: str) -> None:
    run, certificate = openvino_run.open(), openvino_run.certificate
    assert certificate.latency_ms is not None
    certificate = replace(
        certificate, latency_ms=replace(certificate.latency_ms, measured=1.0, spread=0.02),
        runtime_default=RuntimeDefault("bf16", default_ms, 0.01, 1.0, 0.0),
    )
    assert f", {said}, " in judge(run.network, run.plan(), certificate).text.replace("\xa0", " ")


def _with_costs(openvino_run: Finished, folder: Path, default_ms: float | None) -> Run:
    """A copy of the run, where int8 takes 1 ms everywhere, fp32 takes 2, and the runtime by itself something else. By
    its KL fp32 is worth most, whatever few samples say."""
    shutil.copytree(openvino_run.folder, folder)
    run = Run(folder, replace(openvino_run.settings, value="kl"), task())
    table, made_from = run.read(CostTable), run.artifacts.made_from(CostTable)
    share = 1 / len(table.group_ms)
    table = replace(
        table, group_ms={group: {"int8": share, "fp32": 2 * share} for group in table.group_ms}, engines=(), noise=0.0,
        uniform_ms={"int8": Measurement(1.0, 0.0, 7), "fp32": Measurement(2.0, 0.0, 7)},
        runtime_default=None if default_ms is None else Measurement(default_ms, 0.0, 7),
    )
    run.artifacts.write(table, made_from)
    run.artifacts.write(Rounds(()), run.inputs(Rounds))
    return run


@pytest.mark.parametrize(("default_ms", "most_ms"), [(None, 2.0), (1.5, 1.5), (0.5, 2.0), (3.0, 2.0)])
@pytest.mark.usefixtures("told_apart")
def test_a_speedup_is_sought_ahead_of_it(
    openvino_run: Finished, tmp_path: Path, default_ms: float | None, most_ms: float
) -> None:
    run = _with_costs(openvino_run, tmp_path / "run", default_ms)
    asked = search(run, (Budget("latency_ms", 2.0, speedup=1.0),))
    assert asked.predicted_latency_ms is not None and asked.predicted_latency_ms <= most_ms * (1 + 1e-9)
    assert (asked.predicted_latency_ms > 1.5) == (most_ms > 1.5), "nothing is lost for more than is asked"
    stated = search(run, (Budget("latency_ms", 2.0),))
    assert stated.predicted_latency_ms == pytest.approx(2.0), "milliseconds are what they are"


@pytest.mark.parametrize("sure", [1e9, 1e-9])
def test_the_fastest_is_the_plan_where_nothing_is_surely_worth_more(
    openvino_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sure: float
) -> None:
    """Then no contributions are needed, nor mixtures that show what switches cost."""
    monkeypatch.setattr(preferring, "Z_SURE", sure)
    run = _with_costs(openvino_run, tmp_path / "run", None)
    run.path(Contributions).unlink()
    plan = search(run, (Budget("latency_ms", 2.0),))
    is_enough = sure > 1
    assert set(plan.assignment.values()) == ({"int8"} if is_enough else {"fp32"}) and plan.objective == "value"
    assert plan.forgone is None and (len(plan.candidates) == 1) == is_enough != run.path(Contributions).exists()
    paper = Run(run.folder, replace(run.settings, additive=True), task())
    assert set(search(paper, (Budget("latency_ms", 2.0),)).assignment.values()) == {"fp32"}, "it takes no shortcut"


@pytest.mark.parametrize(("default_ms", "int8_ms", "objective", "speedup", "goes_on"), [
    (0.5, 2.0, "latency", None, True), (2.0, 2.0, "latency", None, False), (2.0, 0.5, "latency", None, True),
    (0.5, 2.0, "value", 1.1, True), (0.5, 2.0, "value", None, False), (0.99, 2.0, "latency", None, False),
])
def test_the_loop_goes_on_while_the_engine_is_behind(
    openvino_run: Finished, default_ms: float, int8_ms: float, objective: Literal["value", "latency"],
    speedup: float | None, goes_on: bool,
) -> None:
    certificate, plan = openvino_run.certificate, openvino_run.open().plan()
    assert certificate.latency_ms is not None
    certificate = replace(
        certificate, budgets=(), runtime_default=RuntimeDefault("bf16", default_ms, 0.01, 1.0, 0.0),
        latency_ms=replace(certificate.latency_ms, measured=1.0, spread=0.02),
        engines=tuple(replace(one, latency_ms=int8_ms) for one in certificate.engines if one.name == "int8"),
    )
    plan = replace(plan, objective=objective, budgets=(Budget("latency_ms", 1.0, speedup=speedup),))
    assert worth_another(certificate, plan) == goes_on


def test_the_last_time_the_fastest_of_those_measured_is_taken(openvino_run: Finished, tmp_path: Path) -> None:
    """Uniform engines were measured too, and what was built again counts as it was measured then."""
    run = _with_costs(openvino_run, tmp_path / "run", None)
    int8, top = (run.network.uniform(name) for name in ("int8", "fp32"))
    mixed = top | {run.network.group_names[0]: "int8"}
    budgets = (Budget("max_drop", 100.0),)
    assert search(run, budgets).assignment == int8
    assert search(run, budgets, fastest=True, met=[mixed]).assignment == int8
    built = [Round(budgets, one, 1.0, Measurement(ms, 0.0, 7), True) for one, ms in ((mixed, 2.5), (int8, 3.0))]
    run.artifacts.write(Rounds(tuple(built)), run.inputs(Rounds))
    assert search(run, budgets, fastest=True, met=[mixed, int8]).assignment == top
