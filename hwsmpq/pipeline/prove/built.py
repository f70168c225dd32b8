"""Assignments as real engines, side by side: built, audited, timed in turns, and judged on the report part."""

from __future__ import annotations

from collections.abc import Sequence

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.verify import compare, engine_outputs
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.profile import time_engines
from hwsmpq.pipeline.prove.verify import network_outputs
from hwsmpq.types import REFERENCE, Assignment, Audit, BuiltEngine


def build_engines(prepared: Prepared, assignments: Sequence[Assignment]) -> list[BuiltEngine]:
    """Measure the engines of assignments, and the uniform engines that they are timed in turns with. None is kept."""
    run = prepared.run
    report_part = run.parts[1]
    uniform = {name: prepared.network.uniform(name) for name in (*run.ladder.names, REFERENCE)}
    others = {f"point {i}": a for i, a in enumerate(assignments, 1) if a not in uniform.values()}
    named, engines = uniform | others, dict[str, Engine]()
    for name, assignment in named.items():
        engines[name] = prepared.builder.engine(assignment)
        run.progress("pareto: build", len(engines), len(named))
    latency = time_engines(run, engines, "pareto")
    outputs = {
        name: engine_outputs(
            engine, report_part.inputs, run.settings.batch,
            lambda done, n, name=name: run.progress(f"pareto: {name}", done, n),
        )
        for name, engine in engines.items()
    }
    network = network_outputs(prepared)
    return [
        BuiltEngine(
            assignment=assignment,
            latency=latency[name],
            accuracy=compare(run.judge, report_part, network, outputs[name], "engine"),
            audit=Audit.of(prepared.builder.audit(assignment, engines[name]), prepared.network),
        )
        for name, assignment in named.items()
    ]
