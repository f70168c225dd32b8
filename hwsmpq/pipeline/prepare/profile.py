"""What precisions cost on the target: engines timed in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.device.runtime import Engine
from hwsmpq.device.timing import TimingRequest, too_noisy
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware import profile as profiling
from hwsmpq.hardware.cost_model import CostModel, fit
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import REFERENCE, CostTable, Measurement, Rounds


@holding
def profile(run: Run) -> CostTable | None:
    """The measured cost table; None where nothing is timed and none was imported."""
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
            settings.n_mixtures, settings.timing_seconds,
            progress=lambda stage, done, n: run.progress(f"profile: {stage}", done, n), build_default=untouched,
        ),
    )
    _tell_if_noisy(run, table.noise)
    return table


def rounds(run: Run) -> Rounds:
    """What searches in this folder measured before they went on; nothing where nothing was timed yet."""
    timed = run.measures_latency and run.artifacts.has(CostTable)
    return run.stage(Rounds, lambda: Rounds(())) if timed else Rounds(())


def cost_model(prepared: Prepared) -> CostModel | None:
    """The cost model, from the cost table and the engines that were built since; None without a table."""
    table = profile(prepared.run)
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
