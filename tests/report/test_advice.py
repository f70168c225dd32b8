"""What is said after the verdict, from synthetic certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsmpq.folder import Folder
from hwsmpq.report.advice import advise
from hwsmpq.report.collect import collect
from hwsmpq.stages import ROWS
from hwsmpq.types import CHOSEN, Bound, Budget, BudgetOutcome, Certificate, EngineResult, Forgone, Manifest, Plan
from tests.report.factory import make_run


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Plan, Certificate]:
    """A plan of 1.32x under a speedup of 1.3 and a drop of 1 point; int8 everywhere is 1.5x, and loses .2 points."""
    folder = Folder(make_run(tmp_path))
    plan, certificate = folder.read(Plan), folder.read(Certificate)
    latency = certificate.latency_ms
    assert latency is not None
    limits = (Budget("latency_ms", 10 / 1.3, 1.3), Budget("max_drop", 1.0))
    latency = replace(latency, reference=10.0, measured=10 / 1.32, spread=0.05)
    engines = (
        EngineResult("int8", 10 / 1.5, certificate.accuracy.reference - 0.002, 1.0, 0.01, 1e9, 0.6),
        EngineResult("fp32", 10.0, certificate.accuracy.reference, 1.0, 0.0, 4e9, 2.4),
        EngineResult(CHOSEN, 10 / 1.32, certificate.accuracy.reference, 1.0, 0.0, 2e9, 1.2),
    )
    outcomes = tuple(BudgetOutcome(b.kind, b.limit, 0.0, 0.0, True) for b in limits)
    return replace(plan, budgets=limits), replace(certificate, latency_ms=latency, engines=engines, budgets=outcomes)


def test_one_precision_that_is_faster_and_keeps_the_drop(asked: tuple[Plan, Certificate]) -> None:
    assert advise(*asked) == (
        "int8 everywhere is faster (1.50x against 1.32x) and keeps your drop (0.2 points lost): leave --speedup out to"
        " get the fastest plan that keeps it.",
    )


def test_what_a_slower_plan_promised_in_vain(asked: tuple[Plan, Certificate]) -> None:
    plan, certificate = asked
    said, *_ = advise(replace(plan, forgone=Forgone(7.91, 2.3e-5, 1.7e-5)), certificate)
    assert said.replace("\xa0", " ") == (
        "A plan predicted at 7.91 ms was worth 2.30e-05 ± 1.70e-05 more on the search part, which is not told from"
        " nothing: of plans worth the same, the fastest is taken."
    )


def test_where_the_bound_decides_an_engine_keeps_a_drop_by_its_bound(asked: tuple[Plan, Certificate]) -> None:
    plan, certificate = asked
    int8, *others = certificate.engines
    latency, drop = certificate.budgets
    certificate = replace(certificate, budgets=(latency, replace(drop, by_bound=True)))
    for points, n_said in ((1.2, 0), (0.9, 1)):
        engines = (replace(int8, drop_bound=Bound(points)), *others)
        assert len(advise(plan, replace(certificate, engines=engines))) == n_said


def test_a_latency_budget_is_named_as_it_was_given(asked: tuple[Plan, Certificate]) -> None:
    plan, certificate = asked
    said, = advise(replace(plan, budgets=(Budget("latency_ms", 10 / 1.3), plan.budgets[1])), certificate)
    assert "leave --latency-ms out" in said


def test_without_a_drop_it_asks_for_one(asked: tuple[Plan, Certificate]) -> None:
    plan, certificate = asked
    only = replace(certificate, budgets=certificate.budgets[:1])
    said, = advise(replace(plan, budgets=plan.budgets[:1]), only)
    assert "give --max-drop with the loss that you can bear, and leave --speedup out" in said


@pytest.mark.parametrize(
    "what",
    [
        "loses too much", "no faster", "hardly faster", "within its spread", "fastest was sought", "nothing timed",
        "other tool", "the plan itself",
    ],
)
def test_nothing_is_said_where_it_is_not_so(asked: tuple[Plan, Certificate], what: str) -> None:
    plan, certificate = asked
    int8, *others = certificate.engines
    changed = {
        "loses too much": replace(int8, metric=int8.metric - 0.01),
        "no faster": replace(int8, latency_ms=10 / 1.325),
        "hardly faster": replace(int8, latency_ms=10 / 1.34),
        "within its spread": replace(int8, spread_ms=1.0),
        "other tool": replace(int8, name="other tool"),
    }
    certificate = replace(certificate, engines=(changed.get(what, int8), *others))
    if what == "fastest was sought":
        plan = replace(plan, objective="latency")
    if what == "the plan itself":
        plan = replace(plan, assignment=dict.fromkeys(plan.assignment, "int8"))
    if what == "nothing timed":
        certificate = replace(certificate, latency_ms=None)
    assert advise(plan, certificate) == ()


def test_a_sample_is_worth_something(asked: tuple[Plan, Certificate]) -> None:
    plan, certificate = asked
    few = replace(certificate.accuracy, n_samples=75, is_classification=True)
    said = advise(replace(plan, objective="latency"), replace(certificate, accuracy=few))
    assert len(said) == 1 and said[0].startswith("One of the 75 samples is worth 1.3 points")
    regression = replace(few, is_classification=False)
    assert advise(replace(plan, objective="latency"), replace(certificate, accuracy=regression)) == ()


def test_a_uniform_engine_that_is_more_accurate_is_named(asked: tuple[Plan, Certificate]) -> None:
    """Of a plan for BitOps, which looks for accuracy."""
    plan, certificate = asked
    budgets = (BudgetOutcome("bitops", 3e9, 2e9, 2e9, True),)
    accuracy = replace(certificate.accuracy, reference=0.8, engine=0.792, paired_stderr=0.003)

    def said(metric: float, bitops: float = 1e9, objective: Any = "value") -> tuple[str, ...]:
        int8 = EngineResult("int8", None, metric, 1.0, 0.01, bitops, 0.6)
        found = replace(certificate, latency_ms=None, accuracy=accuracy, budgets=budgets, engines=(int8,))
        return advise(replace(plan, objective=objective), found)

    sentence, = said(0.801)
    assert sentence.startswith("int8 everywhere keeps every budget too, and lost less (-0.1 against 0.8 points).")
    assert said(0.797) == said(0.801, bitops=4e9) == said(0.801, objective="latency") == ()


def test_a_bound_above_the_budget_is_said(asked: tuple[Plan, Certificate]) -> None:
    plan, certificate = asked
    plan = replace(plan, objective="latency")

    def said(**changed: Any) -> tuple[str, ...]:
        outcome = BudgetOutcome("max_drop", 1.0, 0.4, 0.4, **{"met": True, "bound": Bound(2.09), **changed})
        return advise(plan, replace(certificate, budgets=(outcome,)))

    sentence, = said(bound=Bound(1.29))
    assert "1.00 points" in sentence and "at most 1.29 lost" in sentence and "--confidence 0.95" in sentence
    # A plan that loses nothing would not be within a bound as wide as this.
    sentence, = said()
    n = certificate.accuracy.n_samples
    assert f"On {n} samples the bound is 1.69 points wide" in sentence and "--confidence" not in sentence
    for changed in ({"bound": Bound(0.9)}, {"bound": None}, {"by_bound": True}, {"met": False}):
        assert said(**changed) == ()


def test_speedups_are_answered_in_speedups(asked: tuple[Plan, Certificate], tmp_path: Path) -> None:
    plan, certificate = asked
    folder = Folder(tmp_path)
    measured = replace(certificate.budgets[0], predicted=10 / 1.4, measured=10 / 1.32)
    certificate = replace(certificate, budgets=(measured, certificate.budgets[1]))
    for value in (plan, folder.read(Manifest), certificate):
        kind = type(value)
        there = [up for up in ROWS[kind].upstream if folder.has(up)]
        folder.write(value, {ROWS[up].schema: folder.sha256(up) for up in there})
    view = collect(tmp_path)
    row = view.budgets[0]
    assert (row.limit, row.predicted, row.measured) == ("≥\N{NO-BREAK SPACE}1.30x", "1.40x", "1.32x")
    assert "--speedup 1.3" in (view.command or "")
