"""Assignments as real engines, side by side: built, audited, timed in turns, and judged on the report part."""

from __future__ import annotations

from collections.abc import Sequence

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.verify import compare
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.profile import time_engines
from hwsmpq.pipeline.prove.judged import network_outputs, outputs_of
from hwsmpq.types import REFERENCE, Assignment, Audit, BuiltEngine


def build_engines(prepared: Prepared, assignments: Sequence[Assignment]) -> list[BuiltEngine]:
    """Measure the engines of assignments, and the uniform engines that they are timed in turns with. None is kept."""
    run = prepared.run
    uniform = {name: prepared.network.uniform(name) for name in (*run.ladder.names, REFERENCE)}
    others = {f"point {i}": a for i, a in enumerate(assignments, 1) if a not in uniform.values()}
    named, engines = uniform | others, dict[str, Engine]()
    for name, assignment in named.items():
        engines[name] = prepared.builder.engine(assignment)
        run.progress("pareto: build", len(engines), len(named))
    outputs, network = outputs_of(run, engines, "pareto"), network_outputs(prepared)
    latency = time_engines(run, engines, "pareto")
    return [
        BuiltEngine(
            assignment=assignment,
            latency=latency[name],
            accuracy=compare(run.judge, run.parts[1], network, outputs[name], "engine"),
            audit=Audit.of(prepared.builder.audit(assignment, engines[name]), prepared.network),
        )
        for name, assignment in named.items()
    ]
