"""What engines are worth on the report part, and what only looks like them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import Tensor

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.agree import N_SAMPLES
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import compare, engine_outputs, mean_loss
from hwsmpq.model.shapes import Rows
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prove.weights import simulator_of
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import CHOSEN, REFERENCE, AccuracyOutcome, Assignment, Plan

READ_AT_ONCE = 64
"""Samples of the report part that all engines are run on before the next ones are read."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Accuracy of an engine on the report part against the network, its loss there, and its outputs for the samples
    that are compared with what is simulated."""

    accuracy: AccuracyOutcome
    loss: float
    some: Tensor


@dataclass(eq=False)
class _Known:
    """Outputs of the network itself, and what engines were judged to be that are the same in every round."""

    network: Tensor | None = None
    judged: dict[Hashable, Judged] = field(default_factory=dict)


_known: WeakKeyDictionary[Builder, _Known] = WeakKeyDictionary()


def judged(
    prepared: Prepared, plan: Plan, assignments: Mapping[str, Assignment], engines: Mapping[str, Engine]
) -> tuple[dict[str, Judged], Tensor]:
    """What engines are worth on the report part, by name, and the outputs of the network there. Where the target runs
    none, what is simulated of the assignments. In later rounds of a search only the plan's engine is run."""
    run = prepared.run
    known, part = _known.setdefault(prepared.builder, _Known()), run.parts[1]
    keys = {name: (name, frozenset(assignments.get(name, {}).items())) for name in engines}
    new = {name: engine for name, engine in engines.items() if name == CHOSEN or keys[name] not in known.judged}
    outputs = outputs_of(run, new, "verify") if engines else _simulated(prepared, assignments, plan)
    if known.network is None:
        known.network = network_outputs(prepared) if engines else outputs[REFERENCE]
    source, some = "engine" if engines else "simulator", sampled(prepared)
    found = {
        name: Judged(
            compare(run.judge, part, known.network, out, source, run.settings.drop_confidence),
            mean_loss(run.judge, part, out), out[some].clone(),
        )
        for name, out in outputs.items()
    }
    known.judged |= {keys[name]: one for name, one in found.items() if engines and name != CHOSEN}
    return {name: found.get(name) or known.judged[keys[name]] for name in engines or outputs}, known.network


def sampled(prepared: Prepared) -> Rows:
    """Samples of the report part whose outputs are compared with what is simulated."""
    return prepared.captured.some_of(len(prepared.run.parts[1]), N_SAMPLES)


def outputs_of(run: Run, engines: Mapping[str, Engine], stage: str) -> dict[str, Tensor]:
    """Outputs of engines on the report part, by name. What is read as it is needed is read once for all of them, and an
    engine that has several names is run once."""
    inputs, n = run.parts[1].inputs, len(run.parts[1])
    step = math.ceil(READ_AT_ONCE / run.settings.batch) * run.settings.batch
    once, found = {id(engine): engine for engine in engines.values()}, dict[int, Tensor]()
    for start in range(0, n if engines else 0, step):
        rows = tuple(x[start : start + step] for x in inputs)
        for engine in once.values():
            outputs = engine_outputs(engine, rows, run.settings.batch)
            whole = found.setdefault(id(engine), outputs.new_empty((n, *outputs.shape[1:])))
            whole[start : start + step] = outputs
        run.progress(f"{stage}: {len(once)} engines", min(start + step, n), n)
    return {name: found[id(engine)] for name, engine in engines.items()}


def network_outputs(prepared: Prepared) -> Tensor:
    """Outputs of the network itself on the report part, for which no engine of it stands in."""
    run = prepared.run
    return prepared.simulator.scores(
        [prepared.network.uniform(REFERENCE)], run.parts[1].inputs, lambda out, rows: out,
        lambda done, n: run.progress("verify: network", done, n),
    )[0]


def _simulated(prepared: Prepared, assignments: dict[str, Assignment], plan: Plan) -> dict[str, Tensor]:
    """Outputs on the report part: uniform networks as they came, the plan with trained weights if there are any."""
    run = prepared.run

    def outputs(simulator: Simulator, stage: str, part: dict[str, Assignment]) -> dict[str, Tensor]:
        rows = simulator.scores(
            list(part.values()), run.parts[1].inputs, lambda out, rows: out,
            lambda done, n: run.progress(f"verify: {stage}", done, n),
        )
        return dict(zip(part, rows, strict=True))

    uniform = {name: assignment for name, assignment in assignments.items() if name != CHOSEN}
    return outputs(prepared.simulator, "uniform", uniform) | outputs(
        simulator_of(prepared, plan), CHOSEN, {CHOSEN: assignments[CHOSEN]}
    )
