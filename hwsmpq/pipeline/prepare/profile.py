"""What precisions cost on the target: engines timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.device.runtime import Engine
from hwsmpq.device.timing import TimingRequest, too_noisy
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware import profile as profiling
from hwsmpq.hardware.cost_model import CostModel, fit
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import REFERENCE, CostTable, Measurement, Rounds

N_TOGETHER = 4
"""Mixtures that are timed together, at least, where so many are allowed."""


@holding
def profile(run: Run) -> CostTable | None:
    """The cost table with as many mixtures as its intervals ask for; None where nothing is timed and none was
    imported."""
    table = uniform_costs(run)
    if table is None or not run.measures_latency:
        return table
    prepared, settings = prepare(run), run.settings
    drawn = draw_mixtures(prepared.network, run.ladder, settings.n_mixtures, settings.seed)
    while len(table.engines) < len(drawn) and not fit(table, prepared.network).is_sure:
        more = drawn[len(table.engines) :][: max(N_TOGETHER, -(-len(drawn) // 2))]
        table = profiling.measure_mixtures(
            run.target, prepared.network, table, more, prepared.builder.engine, timing_inputs(run), settings.seed,
            settings.timing_seconds, progress=_progress(run, "mixtures"),
        )
        _tell_if_noisy(run, table.noise)
        run.artifacts.write(table, run.artifacts.made_from(CostTable))
    return table


@holding
def uniform_costs(run: Run) -> CostTable | None:
    """The cost table as it is, if it is fresh, else of the uniform engines alone."""
    settings = run.settings
    if not run.measures_latency:
        table = None if settings.cost == "bitops" else run.imported_costs
        if table is None and settings.cost == "latency":
            raise HwsmpqError(
                f"target {run.target.name} measures no latency here", "--cost latency needs it",
                "take --cost bitops, or import a profile with `hwsmpq profile --from-trtexec`",
            )
        return table
    prepared = prepare(run)
    untouched = None if run.target.computes_in == REFERENCE else prepared.builder.untouched
    table = run.stage(
        CostTable,
        lambda: profiling.measure_costs(
            run.target, prepared.network, run.ladder, prepared.builder.engine, timing_inputs(run), settings.seed,
            settings.timing_seconds, progress=_progress(run, "profile"), build_default=untouched,
        ),
    )
    _tell_if_noisy(run, table.noise)
    return table


def _progress(run: Run, name: str) -> Callable[[str, int, int], None]:
    return lambda stage, done, n: run.progress(f"{name}: {stage}", done, n)


def rounds(run: Run) -> Rounds:
    """What searches in this folder measured before they went on; nothing where nothing was timed yet."""
    timed = run.measures_latency and run.artifacts.has(CostTable)
    return run.stage(Rounds, lambda: Rounds(())) if timed else Rounds(())


def cost_model(prepared: Prepared, of_mixtures: bool = False) -> CostModel | None:
    """The cost model, from the cost table and the engines that were built since; None without a table.

    Args:
        of_mixtures: whether it must know what switching costs, which mixtures are timed for.
    """
    table = (profile if of_mixtures else uniform_costs)(prepared.run)
    return None if table is None else fit(table, prepared.network, rounds(prepared.run).timings(table))


def time_engines(run: Run, engines: Mapping[str, Engine], stage: str) -> dict[str, Measurement]:
    """Time engines in turns, the uniform ones (by the name of their precision) among them: by these, times are stated
    as they would have been in the session that measured the cost table."""
    timing = run.target.device.measure(
        engines, TimingRequest(timing_inputs(run), run.settings.seed, run.settings.timing_seconds),
        progress=lambda done, n: run.progress(f"{stage}: timing", done, n),
    )
    _tell_if_noisy(run, timing.noise)
    return timing.as_when(run.read(CostTable).uniform_ms)


def _tell_if_noisy(run: Run, noise: float) -> None:
    message = too_noisy(noise)
    if message:
        run.notify(message)


def timing_inputs(run: Run) -> list[NDArray[Any]]:
    """One batch of calibration samples, for engines to be timed on."""
    index = np.arange(run.settings.batch) % len(run.task.calibration[0])
    return [x[index].numpy() for x in run.task.calibration]
