"""What engines are timed on: inputs of one shape, or of several in the shares that these have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hwsmpq.device.measurement import Measurement
from hwsmpq.device.runtime import Engine
from hwsmpq.device.timing import Timing, TimingRequest
from hwsmpq.hardware.device import Device


@dataclass(frozen=True, eq=False)
class Load:
    """One batch of inputs, and the share of all inferences that have its shape, named where there are others."""

    inputs: Sequence[NDArray[Any]]
    share: float = 1.0
    shape: str = ""


def describe(loads: Sequence[Load]) -> str:
    """Shapes of the inputs, as a cost table names them."""
    said = ["; ".join("x".join(map(str, x.shape)) for x in load.inputs) for load in loads]
    if len(loads) == 1:
        return said[0]
    return " | ".join(f"{load.share:.3f} of {one}" for load, one in zip(loads, said, strict=True))


def layer_ms(engine: Engine, layers: Sequence[str], loads: Sequence[Load], n_repeats: int) -> dict[str, float]:
    """Milliseconds a layer (see :meth:`Engine.layer_ms`), in the mean over the loads."""
    found = [(load.share, engine.layer_ms(layers, load.inputs, n_repeats)) for load in loads]
    return {name: sum(share * ms[name] for share, ms in found) for name in found[0][1]}


def time_on(
    device: Device, engines: Mapping[str, Engine], loads: Sequence[Load], seed: int, seconds: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Timing, tuple[Timing, ...]]:
    """Engines timed against each other: in the mean over the loads, and on each of them. One that has several names is
    timed once."""
    once = {id(engine): name for name, engine in reversed(engines.items())}
    timed = {name: engine for name, engine in engines.items() if once[id(engine)] == name}

    def measure(load: Load) -> Timing:
        found = device.measure(timed, TimingRequest(load.inputs, seed, seconds / len(loads)), progress)
        measured = {name: found.measured[once[id(engine)]] for name, engine in engines.items()}
        return Timing(measured, found.noise)

    each = tuple(measure(load) for load in loads)
    if len(each) == 1:
        return each[0], each
    shares = [load.share for load in loads]

    def mean(name: str) -> Measurement:
        parts = [one.measured[name] for one in each]
        return Measurement(
            sum(share * part.median_ms for share, part in zip(shares, parts, strict=True)),
            math.hypot(*(share * part.spread_ms for share, part in zip(shares, parts, strict=True))),
            min(part.n_repeats for part in parts),
        )

    return Timing({name: mean(name) for name in engines}, max(one.noise for one in each)), each
