"""One target on one network: uniform engines of every precision, a cost table, and its error on other mixtures."""

from __future__ import annotations

import time
from collections.abc import Collection

import numpy as np
from _bench import Bench
from _gpu_networks import Prepared, sqnr_db

from hwsmpq import artifacts
from hwsmpq.artifacts import digest
from hwsmpq.device.runtime import Engine
from hwsmpq.device.timing import TimingRequest
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import fit
from hwsmpq.hardware.loads import Load
from hwsmpq.hardware.profile import draw_mixtures, measure_costs, measure_mixtures
from hwsmpq.hardware.target import Target, substitutes
from hwsmpq.types import REFERENCE, Assignment, CostTable, Ladder, Network

LEAST_SQNR_DB = 20.0
"""Of an engine against the simulator. Levels that tip over leave more even in a network without training; a wrong
scale or a missing clip leaves less."""
MAX_MIXTURES, N_HELD_OUT = 8, 4
UNIFORM_SHARE = 0.6
"""Of the time, after which no other uniform engine is begun."""
N_COUNTER_REPEATS = 20
TIMING_SECONDS = 5.0


class Engines:
    """Builds every engine once, and knows how long a build takes."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._built: dict[str, Engine] = {}
        self.seconds: list[float] = []

    def __call__(self, assignment: Assignment) -> Engine:
        key = digest(assignment)
        if key not in self._built:
            start = time.monotonic()
            self._built[key] = self._builder.engine(assignment)
            self.seconds.append(time.monotonic() - start)
        return self._built[key]


def measure(
    bench: Bench, target: Target, network_name: str, seconds: float, ladder: Collection[str] = (),
    n_held_out: int = N_HELD_OUT,
) -> str:
    """Fill the bench, write the cost table beside it, and return a summary.

    Args:
        ladder: precisions to try; all that the target has where none are given.
        n_held_out: mixtures that the cost model does not see.

    Raises:
        HwsmpqError: fewer than two precisions can be built, or an engine computes something else than the simulator.
    """
    start, seed = time.monotonic(), bench.options.seed
    target.workspace(bench.options.out)
    prepared = Prepared.of(network_name, target.scheme_name, seed)
    tried = [name for name in target.native if name in ladder or not ladder]
    names = [name for name in tried if _runs_somewhere(target, prepared.network, name)]
    prepared = prepared.with_substitutes(substitutes(target, prepared.network, Ladder.parse(",".join(names))))
    engines = Engines(Builder(prepared.captured, prepared.ranges, prepared.scheme, target))
    network, sample = prepared.network, [x[:1].numpy() for x in prepared.inputs]

    uniform: dict[str, Engine] = {}
    for name in sorted(names, key=lambda name: name != REFERENCE):
        if time.monotonic() - start > UNIFORM_SHARE * seconds:
            bench.row(precision=name, skipped="no time left to build it")
            continue
        try:
            engine = engines(network.uniform(name))
            _compare(bench, prepared, engine, name)
            uniform[name] = engine
        except HwsmpqError as error:
            bench.row(precision=name, failed=str(error))
        bench.write()  # as it goes: time may run out
    if len(uniform) < 2 or REFERENCE not in uniform:
        reasons = [row["failed"] for row in bench.rows if "failed" in row]
        raise HwsmpqError(f"{len(uniform)} of {len(names)} precisions can be built and run", "; ".join(reasons[:1]))
    _time(bench, target, network, uniform, sample, seed)
    bench.write()

    built = Ladder.parse(",".join(uniform))
    left = seconds - (time.monotonic() - start) - 4 * TIMING_SECONDS
    n_affordable = int(left / max(np.mean(engines.seconds), 1e-3)) - n_held_out
    table = measure_costs(target, network, built, engines, [Load(sample)], seed, TIMING_SECONDS)
    mixtures = draw_mixtures(network, built, int(np.clip(n_affordable, 0, MAX_MIXTURES)), seed)
    if mixtures:
        table = measure_mixtures(target, network, table, mixtures, engines, [Load(sample)], seed, TIMING_SECONDS)
    artifacts.write(
        bench.options.out / f"{target.name}.{network_name}.cost_table.json", table,
        {"model": network.model_sha256, "scheme": prepared.scheme.name},
    )
    errors = _held_out(bench, target, table, network, engines, sample, n_held_out)
    worst = min(row["sqnr_db"] for row in bench.rows if "sqnr_db" in row)
    if worst < LEAST_SQNR_DB:
        raise HwsmpqError(f"an engine is {worst:.0f} dB from the simulator", f"at least {LEAST_SQNR_DB:.0f} expected")
    bench.figures["cost_model.rms_error"] = float(np.sqrt(np.mean(np.square(errors))))
    times = ", ".join(f"{name} {table.uniform_ms[name].median_ms:.3f}" for name in built.names)
    return (
        f"ms: {times}; at least {worst:.0f} dB; cost model within "
        f"{100 * bench.figures['cost_model.rms_error']:.1f} % (rms of {len(errors)} mixtures)"
    )


def _runs_somewhere(target: Target, network: Network, precision: str) -> bool:
    return any(
        all(target.runs(layer, precision) for layer in network.layers_of(group)) for group in network.group_names
    )


def _compare(bench: Bench, prepared: Prepared, engine: Engine, name: str) -> None:
    """Audit a uniform engine, and set its outputs against the simulator's."""
    network = prepared.network
    asked = {layer.name: network.uniform(name)[network.group_of(layer.name)] for layer in network.layers}
    realised = engine.realised(list(asked))
    others = {layer: found for layer, found in realised.items() if found != asked[layer]}
    simulated = prepared.simulated(network.uniform(name), "cpu")
    bench.row(
        precision=name, n_layers=len(asked), n_layers_in_it=list(asked.values()).count(name),
        sqnr_db=sqnr_db(simulated, engine_outputs(engine, prepared.inputs)), not_as_requested=others,
    )


def _time(
    bench: Bench, target: Target, network: Network, uniform: dict[str, Engine], sample: list[np.ndarray], seed: int
) -> None:
    """Whole engines in one interleaved run, and every layer of each."""
    timed = target.device.measure(uniform, TimingRequest(sample, seed, TIMING_SECONDS))
    layers = [layer.name for layer in network.layers]
    for name, engine in uniform.items():
        found = timed.measured[name]
        counters = engine.layer_ms(layers, sample, N_COUNTER_REPEATS)
        bench.row(
            precision=name, ms=found.median_ms, spread_ms=found.spread_ms, n_loads=found.n_repeats,
            layers_ms=sum(counters[layer] for layer in layers), layer_ms=counters,
        )
        bench.figures[f"{name}.ms"] = found.median_ms


def _held_out(
    bench: Bench, target: Target, table: CostTable, network: Network, engines: Engines, sample: list[np.ndarray],
    n_held_out: int,
) -> list[float]:
    """Relative errors of the cost model on mixtures that it was not fitted to; the sum of counters stands beside it."""
    seed, ladder = bench.options.seed + 1, Ladder.parse(",".join(table.ladder))
    mixtures = {f"held out {i}": x for i, x in enumerate(draw_mixtures(network, ladder, n_held_out, seed))}
    built = {ladder.top: engines(network.uniform(ladder.top))} | {name: engines(x) for name, x in mixtures.items()}
    timed = target.device.measure(built, TimingRequest(sample, seed, TIMING_SECONDS)).as_when(table.uniform_ms)
    errors = []
    for name, assignment in mixtures.items():
        measured = timed[name].median_ms
        predicted = fit(table, network).predict(assignment)
        errors.append(predicted / measured - 1)
        counters = sum(table.group_ms[group][precision] for group, precision in assignment.items())
        bench.row(
            mixture=name, measured_ms=measured, predicted_ms=predicted, error=errors[-1],
            error_of_counters=counters / measured - 1,
        )
    return errors
