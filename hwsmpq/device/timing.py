"""Time engines against each other on a machine that does other things too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsmpq.device.measurement import Measurement
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_LOADS, N_LOADS = 4, 7
"""Where an engine's data come to lie in memory makes it faster or slower, by several percent (measured: the same engine
of MobileNetV3, loaded five times in one process, .970 to 1.029 of its mean, and again so when timed again)."""
PRECISE = 0.007
"""Relative error of an engine's time at which loads are enough before they are as many as usual: a ratio of two times
has 1 % then, and costs that differ by less count as the same."""
MIN_BLOCKS, MAX_BLOCKS = 3, 30
LOADS_DIFFER = 0.01
"""Relative standard deviation of an engine's time over its loads, as it is seen on processors."""
LOAD_BLOCKS = 10.0
"""Blocks that take as long as to load and warm up their engines (EfficientNet-Lite0 on OpenVINO: 11)."""
SLOT_MS = 4.0
MIN_SLOT_REPEATS, MAX_SLOT_REPEATS = 2, 20
N_WARM_UP = 3
NOISY = 0.015
"""Relative error of an engine's time from which on a machine is too noisy to conclude much."""


@dataclass(frozen=True)
class Timing:
    """Interleaved measurements of engines, by name, without what drift of the machine did to all of them.

    ``noise`` is the largest relative standard error among them.
    """

    measured: dict[str, Measurement]
    noise: float

    def as_when(self, known: Mapping[str, Measurement]) -> dict[str, Measurement]:
        """The times as they would have been in another session, by the engines that both have measured.

        Args:
            known: what the other session measured.
        """
        common = [name for name in self.measured if name in known]
        ratios = [known[name].median_ms / self.measured[name].median_ms for name in common]
        scale = float(np.exp(np.mean(np.log(ratios))))
        return {
            name: Measurement(one.median_ms * scale, one.spread_ms * scale, one.n_repeats)
            for name, one in self.measured.items()
        }


@dataclass(frozen=True, eq=False)
class TimingRequest:
    """How engines are timed.

    Attributes:
        inputs: the inputs of every inference.
        seed: orders the blocks.
        seconds: wall time to spend at most, besides loading; each of seven loads has its share, and from 3 to 30
            blocks: as many as pay beside further loads. Four to seven loads are taken, until times are known to .7 %.
            What is left then is spent on more of them while the machine is too noisy.
    """

    inputs: Sequence[NDArray[Any]]
    seed: int
    seconds: float = 10.0


def measure(
    engines: Mapping[str, Engine], how: TimingRequest, progress: Callable[[int, int], None] | None = None
) -> Timing:
    """Time all engines in blocks, each block running every engine once in a shuffled order, and load all of them anew
    after some blocks.

    One slot of a block is a warm-up inference and then the median of a few timed ones, so that drift of the machine
    hits all engines of a block alike and an engine does not pay for the caches that another one filled. What the
    engines of a block have in common against other blocks is taken for drift. One repeat of a measurement is one load
    of the engine, in the median over its blocks.

    Args:
        engines: what to time, by name.
        progress: called with (loads done, loads in all).

    Raises:
        HwsmpqError: there are no engines.
    """
    if not engines:
        raise HwsmpqError("no engines to time", "at least one is needed to measure anything")
    names, inputs, rng = list(engines), how.inputs, np.random.default_rng(how.seed)
    n_slot = [_slot_repeats(engine, inputs) for engine in engines.values()]
    timing = Timing({}, math.inf)
    loads: list[NDArray[np.float64]] = []
    started = time.perf_counter()
    while (
        len(loads) < FEWEST_LOADS or (len(loads) < N_LOADS and timing.noise > PRECISE)
        or (too_noisy(timing.noise) and time.perf_counter() - started < how.seconds)
    ):
        if loads:
            for index in rng.permutation(len(names)):
                engines[names[index]].reload()
                _warm_up(engines[names[index]], inputs)
        blocks: list[NDArray[np.float64]] = []
        end = time.perf_counter() + how.seconds / N_LOADS
        while len(blocks) < MIN_BLOCKS or (
            time.perf_counter() < end and len(blocks) < MAX_BLOCKS and not _are_settled(np.array(blocks))
        ):
            blocks.append(np.empty(len(names)))
            for index in rng.permutation(len(names)):
                engine = engines[names[index]]
                engine.milliseconds(inputs)
                blocks[-1][index] = np.median([engine.milliseconds(inputs) for _ in range(n_slot[index])])
        loads.append(np.median(_without_drift(np.log(blocks)), axis=0))
        if progress is not None:
            progress(len(loads), max(len(loads), N_LOADS))
        timing = _timing(names, np.array(loads))
    return timing


def _are_settled(blocks: NDArray[np.float64]) -> bool:
    """Whether time is better spent on loads than on more blocks of one, (n_blocks, n_engines).

    A time over L loads of n blocks has the variance (s^2 + w^2 / n) / L, where loads differ by s and blocks within one
    by w, and costs L (c + n) blocks, c of them for loading. The product of both is least at n = sqrt(c) w / s (Cochran,
    Sampling Techniques, 1977, 10.6): there the error of a load, w / sqrt(n), has come down to s sqrt(n / c).
    """
    relative = _without_drift(np.log(blocks))
    error = max(median_stderr(spread(of_one), len(of_one)) for of_one in relative.T)
    return error <= LOADS_DIFFER * math.sqrt(len(blocks) / LOAD_BLOCKS)


def _timing(names: Sequence[str], loads: NDArray[np.float64]) -> Timing:
    """What logarithmic times (n_loads, n_engines) say."""
    samples = np.exp(_without_drift(loads))
    # Drift is taken from the engines themselves, and with it a share of what differs between their loads.
    lost = math.sqrt(len(names) / max(1, len(names) - 1))
    measured = {
        name: Measurement(float(np.median(of_one)), lost * spread(of_one), len(loads))
        for name, of_one in zip(names, samples.T)
    }
    return Timing(measured, max(median_stderr(m.spread_ms, m.n_repeats) / m.median_ms for m in measured.values()))


def too_noisy(noise: float) -> str | None:
    """What to tell the user of a measurement with that relative error; None where it can be trusted."""
    if noise < NOISY:
        return None
    return (
        f"this machine is too noisy to tell engines apart by less than {200 * noise:.1f} %; "
        "stop what else runs on it, or measure for longer (--timing-seconds)"
    )


def median_stderr(spread: float, n: int) -> float:
    """Standard error of the median of ``n`` samples (of a normal distribution) from half their 10..90 range.

    Both are taken as they are expected of ``n`` samples: few of them span less than the quantiles of what they come
    from. Order statistics are those of Blom (1958).
    """
    n = max(n, 2)
    expected = [NormalDist().inv_cdf((i - 0.375) / (n + 0.25)) for i in range(1, n + 1)]
    deviation = spread / float(np.percentile(expected, 90))
    return deviation * math.sqrt(math.pi / 2 / (n - 1 + math.pi / 2))


def spread(samples: NDArray[np.float64]) -> float:
    """Half of the range from the 10th to the 90th percentile."""
    low, high = np.percentile(samples, (10, 90))
    return float(high - low) / 2


def _slot_repeats(engine: Engine, inputs: Sequence[NDArray[Any]]) -> int:
    _warm_up(engine, inputs)
    once = min(engine.milliseconds(inputs) for _ in range(3))
    return int(np.clip(math.ceil(SLOT_MS / max(once, 1e-3)), MIN_SLOT_REPEATS, MAX_SLOT_REPEATS))


def _warm_up(engine: Engine, inputs: Sequence[NDArray[Any]]) -> None:
    for _ in range(N_WARM_UP):
        engine.milliseconds(inputs)


def _without_drift(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of logarithmic times, (n_rows, n_engines), less what all engines of a row have in common against others.

    Of a single engine nothing is taken: what changes its time cannot be told from drift.
    """
    if x.shape[1] == 1:
        return x
    drift = np.median(x - np.median(x, axis=0), axis=1, keepdims=True)
    return np.asarray(x - drift)
