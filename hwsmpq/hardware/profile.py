"""Measure a cost table: uniform engines and their counters, then a few random mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwsmpq.artifacts import architecture_digest
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.loads import Load, describe, layer_ms, time_on
from hwsmpq.hardware.target import Target
from hwsmpq.types import BY_ITSELF, Assignment, CostTable, EngineTiming, Ladder, Network

N_COUNTER_ROUNDS = 7
N_COUNTER_REPEATS = 20


def measure_costs(
    target: Target,
    network: Network,
    ladder: Ladder,
    build_engine: Callable[[Assignment], Engine],
    loads: Sequence[Load],
    seed: int,
    seconds: float = 60.0,
    progress: Callable[[str, int, int], None] | None = None,
    build_default: Callable[[], Engine] | None = None,
) -> CostTable:
    """Build, count and time the uniform engines.

    Args:
        build_engine: makes the engine of an assignment on the target.
        loads: what engines are timed on, at their batch size; the largest first.
        seed: orders the timing.
        seconds: time for the interleaved timing (engine builds come on top).
        progress: called with (stage, done, in all).
        build_default: makes what the runtime makes of the network by itself, where that differs from the reference.

    Raises:
        HwsmpqError: the target cannot be timed or lacks a precision of the ladder, or an engine cannot be built.
    """
    foreign = [name for name in ladder.names if name not in target.native]
    if not target.has_latency or foreign:
        raise HwsmpqError(
            f"target {target.name} cannot measure {', '.join(foreign) or 'latency'}",
            f"it times {', '.join(target.native) if target.has_latency else 'nothing'}",
            "choose a ladder of what the target runs, or a target without a latency claim and a BitOps budget",
        )
    report = progress or (lambda stage, done, n: None)
    engines = _built({name: network.uniform(name) for name in ladder.names}, build_engine, report)
    peak_mb = _peak_mb(engines, loads[0], report)
    group_ms = _counters(network, engines, loads, report)
    conditions = target.conditions()  # now that the device is warm
    default = {BY_ITSELF: build_default()} if build_default else {}
    timing, _ = time_on(
        target.device, engines | default, loads, seed, seconds, lambda done, n: report("timing", done, n)
    )
    return CostTable(
        target=target.name,
        machine=target.machine() | {"inputs": describe(loads)},
        model_sha256=network.model_sha256,
        ladder=ladder.names,
        group_ms=group_ms,
        uniform_ms={name: timing.measured[name] for name in ladder.names},
        noise=timing.noise,
        architecture=architecture_digest(network),
        conditions=conditions,
        runtime_default=timing.measured.get(BY_ITSELF),
        peak_mb=peak_mb,
    )


def measure_mixtures(
    target: Target,
    network: Network,
    table: CostTable,
    mixtures: Sequence[Assignment],
    build_engine: Callable[[Assignment], Engine],
    loads: Sequence[Load],
    seed: int,
    seconds: float = 60.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> CostTable:
    """Build and time mixtures, in turns with the uniform engines: the table with them. By these, all of which may have
    drifted since, times are stated as they would have been in the session that measured the table.

    Args:
        build_engine, loads, seed, seconds, progress: as for :func:`measure_costs`.
    """
    report = progress or (lambda stage, done, n: None)
    named = {f"mixture {i}": x for i, x in enumerate(mixtures)}
    uniform = {name: network.uniform(name) for name in table.ladder}
    engines = _built(uniform | named, build_engine, report)
    timing, _ = time_on(target.device, engines, loads, seed, seconds, lambda done, n: report("timing", done, n))
    times, top = timing.as_when(table.uniform_ms), table.uniform_ms[table.ladder[-1]]
    timed = (EngineTiming(x, times[name], top) for name, x in named.items())
    return replace(table, engines=(*table.engines, *timed), noise=max(table.noise, timing.noise))


def _built(
    assignments: Mapping[str, Assignment], build_engine: Callable[[Assignment], Engine],
    report: Callable[[str, int, int], None],
) -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for done, (name, assignment) in enumerate(assignments.items(), 1):
        engines[name] = build_engine(assignment)
        report("build", done, len(assignments))
    return engines


def _peak_mb(
    engines: Mapping[str, Engine], load: Load, report: Callable[[str, int, int], None]
) -> dict[str, float]:
    """What engines need of the memory; empty where that is not measured."""
    found: dict[str, float] = {}
    for done, (name, engine) in enumerate(engines.items(), 1):
        peak = engine.peak_mb(load.inputs)
        if peak is None:
            return {}
        found[name] = peak
        report("memory", done, len(engines))
    return found


def _counters(
    network: Network,
    engines: Mapping[str, Engine],
    loads: Sequence[Load],
    report: Callable[[str, int, int], None],
) -> dict[str, dict[str, float]]:
    """Group -> engine -> ms: the median of several rounds over all engines, each loaded anew for it."""
    layers = [layer.name for layer in network.layers]
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for done in range(N_COUNTER_ROUNDS):
        for name, engine in engines.items():
            seen[name].append(layer_ms(engine, layers, loads, N_COUNTER_REPEATS))
        report("counters", done + 1, N_COUNTER_ROUNDS)

    def group_ms(names: Sequence[str], rounds: Sequence[Mapping[str, float]]) -> float:
        return float(np.median([sum(ms[layer] for layer in names) for ms in rounds]))

    return {
        group.name: {name: group_ms(group.layers, rounds) for name, rounds in seen.items()}
        for group in network.groups
    }


def draw_mixtures(network: Network, ladder: Ladder, n_mixtures: int, seed: int) -> list[Assignment]:
    """Random assignments whose shares of the floor precision spread evenly over (0, 1); the rest is uniform. The first
    half of them spreads as evenly."""
    rng = np.random.default_rng(seed)
    groups, levels = network.group_names, network.levels(ladder.names)
    drawn = []
    for i in range(n_mixtures):
        share = (i + 0.5) / n_mixtures
        # An exact count of groups, not a coin a group: small networks would leave the stratum.
        n_floor = int(np.clip(round(share * len(groups)), 1, max(1, len(groups) - 1)))
        at_floor = set(rng.permutation(len(groups))[:n_floor].tolist())
        others = rng.integers(1, len(ladder.names), size=len(groups))
        drawn.append({
            g: levels[g][0 if j in at_floor else others[j]] for j, g in enumerate(groups)
        })
    return [*drawn[1::2], *drawn[::2]]
