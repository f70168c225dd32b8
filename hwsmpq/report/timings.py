"""Predicted against measured latency of every engine that was built."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from hwsmpq.hardware.cost_model import corrected_ms
from hwsmpq.report.folder import Artifacts
from hwsmpq.report.view import Timing, TimingKind, TimingSummary
from hwsmpq.types import REFERENCE

KINDS: tuple[TimingKind, ...] = ("uniform", "mixture", "round", "front")


def timings(run: Artifacts) -> Iterator[Timing]:
    cost, network = run.cost, run.network
    rounds = run.certificate.rounds if run.certificate else ()
    if cost and run.model:
        predict = run.model.predict
        for name, measured in cost.uniform_ms.items():
            assignment = network.uniform(name)
            yield Timing("uniform", f"uniform {name}", predict(assignment), measured.median_ms,
                         measured.spread_ms, assignment)
        for number, engine in enumerate(cost.engines, 1):
            measured_ms = corrected_ms(cost, engine)
            drift = measured_ms / engine.measured.median_ms
            yield Timing("mixture", f"mixture {number}", predict(engine.assignment), measured_ms,
                         engine.measured.spread_ms * drift, engine.assignment)
        shown = [network.uniform(name) for name in (*cost.uniform_ms, REFERENCE)]
        others = [e for e in (run.front.engines if run.front else ()) if e.assignment not in shown]
        for number, built in enumerate(others, 1):
            yield Timing("front", f"engine {number} of the front", predict(built.assignment),
                         built.latency.median_ms, built.latency.spread_ms, built.assignment)
    for number, round_ in enumerate(rounds, 1):
        if round_.predicted_ms is not None and round_.measured_ms is not None:
            yield Timing("round", f"round {number}", round_.predicted_ms, round_.measured_ms, None, round_.assignment)


def summaries(found: tuple[Timing, ...]) -> Iterator[TimingSummary]:
    for kind in KINDS:
        errors = [abs(timing.relative_error) for timing in found if timing.kind == kind]
        if errors:
            yield TimingSummary(kind, len(errors), median(errors), max(errors))
