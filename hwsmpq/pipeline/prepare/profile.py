"""What precisions cost on the target: engines timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.device.runtime import Engine
from hwsmpq.device.timing import Timing, too_noisy
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware import profile as profiling
from hwsmpq.hardware.cost_model import CostModel, fit
from hwsmpq.hardware.loads import Load, time_on
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.model.shapes import buckets, named
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import REFERENCE, Assignment, CostTable, Measurement, Rounds

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
        table = _with_mixtures(prepared, table, more)
    return table


def try_mixture(prepared: Prepared, mixture: Assignment) -> bool:
    """Time a mixture that counts as one of those that the cost table may hold; whether there was room for it."""
    run = prepared.run
    table = uniform_costs(run)
    if table is None or not run.measures_latency or len(table.engines) >= run.settings.n_mixtures:
        return False
    with run.clock("profile"):
        _with_mixtures(prepared, table, [mixture])
    return True


def _with_mixtures(prepared: Prepared, table: CostTable, mixtures: Sequence[Assignment]) -> CostTable:
    run, settings = prepared.run, prepared.run.settings
    table = profiling.measure_mixtures(
        run.target, prepared.network, table, mixtures, prepared.builder.engine, loads_of(run), settings.seed,
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
            run.target, prepared.network, run.ladder, prepared.builder.engine, loads_of(run), settings.seed,
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
    return time_shapes(run, engines, stage)[0]


def time_shapes(
    run: Run, engines: Mapping[str, Engine], stage: str
) -> tuple[dict[str, Measurement], dict[str, Timing]]:
    """The same, and where samples have several shapes, how long engines took at each that they were timed at, as it was
    measured."""
    loads = loads_of(run)
    timing, each = time_on(
        run.target.device, engines, loads, run.settings.seed, run.settings.timing_seconds,
        lambda done, n: run.progress(f"{stage}: timing", done, n),
    )
    _tell_if_noisy(run, timing.noise)
    of_shapes = {load.shape: one for load, one in zip(loads, each, strict=True) if load.shape}
    return timing.as_when(run.read(CostTable).uniform_ms), of_shapes


def _tell_if_noisy(run: Run, noise: float) -> None:
    message = too_noisy(noise)
    if message:
        run.notify(message)


def loads_of(run: Run) -> tuple[Load, ...]:
    """One batch of calibration samples for engines to be timed on, or one of every shape that the user names, in the
    shares that these have among the calibration samples; the largest first. By default the most frequent shape.

    Raises:
        HwsmpqError: no calibration sample has a shape that the user names.
    """
    samples, batch = run.task.calibration, run.settings.batch
    found = {named(shape): places for shape, places in buckets(samples).items()}
    asked = run.settings.latency_shape or (max(found, key=lambda shape: len(found[shape])),)
    for shape in asked:
        if shape not in found:
            have = ", ".join(f"{one} ({len(places)} samples)" for one, places in found.items())
            raise HwsmpqError(
                f"no calibration sample has the shape {shape}", f"they have {have}",
                "name one of these with --latency-shape, or give calibration samples of that shape",
            )
    timed = {shape: places for shape, places in found.items() if shape in asked}
    n = sum(map(len, timed.values()))
    return tuple(
        Load(
            [x[places[np.arange(batch) % len(places)]].numpy() for x in samples], len(places) / n,
            shape if len(found) > 1 else "",
        )
        for shape, places in timed.items()
    )


def timing_inputs(run: Run) -> Sequence[NDArray[Any]]:
    """The largest inputs that engines are timed on."""
    return loads_of(run)[0].inputs
