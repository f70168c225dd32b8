"""Time engines against each other on a machine that does other things too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import Engine
from hwsmpq.types import Assignment, EngineTiming, Measurement

MIN_BLOCKS, MAX_BLOCKS = 10, 300
SLOT_MS = 4.0
MAX_SLOT_REPEATS = 20
TWIN = ""
"""Name under which the reference takes part once more."""


NOISY = 0.01
"""Relative error of a ratio from which on a machine is too noisy to conclude much."""


@dataclass(frozen=True)
class Timing:
    """Interleaved measurements. ``ratio[name]`` is the median over blocks of its time by the reference's time.

    ``noise`` is the relative error of such a ratio, as far as the measurement itself tells: the reference takes part a
    second time, and what its ratio to itself misses 1 by is noise, as is the standard error of every ratio.
    """

    measured: dict[str, Measurement]
    ratio: dict[str, float]
    ratio_spread: dict[str, float]
    reference: str
    noise: float

    def engine_timing(self, name: str, assignment: Assignment) -> EngineTiming:
        """One engine for the cost model, from its paired ratios: drift inside the session stays out of it."""
        base = self.measured[self.reference]
        median, spread = self.ratio[name] * base.median_ms, self.ratio_spread[name] * base.median_ms
        paired = Measurement(median, spread, base.n_repeats)
        return EngineTiming(assignment, paired, base)


def measure(
    engines: Mapping[str, Engine],
    inputs: Sequence[NDArray[Any]],
    seed: int,
    reference: str,
    seconds: float = 10.0,
    n_blocks: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Timing:
    """Time all engines in blocks, each block running every engine once in a shuffled order, and the reference twice.

    One slot of a block is a warm-up inference and then the median of a few timed ones, so that drift of the machine
    hits all engines of a block alike and an engine does not pay for the caches that another one filled.

    Args:
        engines: what to time, by name.
        inputs: the inputs of every inference.
        seed: orders the blocks.
        reference: the engine that the ratios are taken to.
        seconds: wall time to spend; sets the number of blocks (10 to 300) unless ``n_blocks`` is given.
        n_blocks: number of blocks.
        progress: called with (blocks done, blocks in all).

    Raises:
        HwsmpqError: the reference is not among the engines.
    """
    if reference not in engines:
        raise HwsmpqError(f"no engine {reference!r} to compare with", f"engines: {', '.join(engines)}")
    engines = {**engines, TWIN: engines[reference]}
    names = list(engines)
    n_slot: dict[str, int] = {}
    for name in names:
        for _ in range(3):
            engines[name].milliseconds(inputs)
        once = min(engines[name].milliseconds(inputs) for _ in range(3))
        n_slot[name] = min(MAX_SLOT_REPEATS, max(3, math.ceil(SLOT_MS / max(once, 1e-3))))
    rng = np.random.default_rng(seed)
    taken: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    done, expected = 0, n_blocks or MIN_BLOCKS
    while done < expected:
        for index in rng.permutation(len(names)):
            name = names[index]
            engines[name].milliseconds(inputs)
            slot = [engines[name].milliseconds(inputs) for _ in range(n_slot[name])]
            taken[name].append(float(np.median(slot)))
        done += 1
        if n_blocks is None:
            per_block = max((time.perf_counter() - start) / done, 1e-9)
            expected = int(np.clip(seconds / per_block, MIN_BLOCKS, MAX_BLOCKS))
        if progress is not None:
            progress(done, max(done, expected))
    samples = {name: np.array(times) for name, times in taken.items()}
    ratios = {name: samples[name] / samples[reference] for name in names}
    twin = ratios.pop(TWIN)
    error = max(median_stderr(spread(ratio) / float(np.median(ratio)), done) for ratio in (*ratios.values(), twin))
    return Timing(
        measured={name: Measurement(float(np.median(samples[name])), spread(samples[name]), done) for name in ratios},
        ratio={name: float(np.median(ratio)) for name, ratio in ratios.items()},
        ratio_spread={name: spread(ratio) for name, ratio in ratios.items()},
        reference=reference,
        noise=max(error, abs(float(np.median(twin)) - 1.0)),
    )


def too_noisy(noise: float) -> str | None:
    """What to tell the user of a measurement with that relative error; None where it can be trusted."""
    if noise < NOISY:
        return None
    return (
        f"this machine is too noisy to tell engines apart by less than {200 * noise:.1f} %; "
        "stop what else runs on it, or measure for longer (--timing-seconds)"
    )


def median_stderr(spread: float, n: int) -> float:
    """Standard error of the median of ``n`` samples (of a normal distribution) from half their 10..90 range."""
    return float(0.98 * spread / np.sqrt(n))


def spread(samples: NDArray[np.float64]) -> float:
    """Half of the range from the 10th to the 90th percentile."""
    low, high = np.percentile(samples, (10, 90))
    return float(high - low) / 2
