"""The stages that measure network and target (calibrate, profile), and the game that is played on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq import artifacts
from hwsmpq.artifacts import architecture_digest, digest
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import Executor, MemoizedGame
from hwsmpq.device.runtime import NOT_AUDITED, Engine
from hwsmpq.device.timing import too_noisy
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware import profile as profiling
from hwsmpq.hardware.cost_model import fit_again
from hwsmpq.model.task import Samples
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.pipeline.serial import Serial
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.ranges import calibrate as take_ranges
from hwsmpq.stages import MEMO_FILE, Evaluations
from hwsmpq.types import REFERENCE, Assignment, CostTable, Fallbacks, Measurement, Network, Ranges


@holding
def inspect(run: Run) -> Network:
    """Layers, groups, MACs and parameters of the network."""
    return run.network


@holding
def calibrate(run: Run) -> Ranges:
    """Activation ranges of every layer from the calibration samples."""
    return run.stage(
        Ranges,
        lambda: take_ranges(
            run.captured, run.task.calibration, run.scheme, run.integer_bits, run.settings.observer,
            smooth=run.smoothed, correct=run.corrected,
            progress=lambda done, n: run.progress("calibrate", done, n),
        ),
    )


@holding
def survey(run: Run) -> Fallbacks:
    """What the target really runs: the uniform engine of every precision, built and audited before anything is spent
    on measuring a precision that a layer does not have. The run takes them as they run from here on."""
    calibrate(run)

    def make() -> Fallbacks:
        fallbacks, layers = Fallbacks({}), [layer.name for layer in run.network.layers]
        for done, name in enumerate(run.ladder.names, 1):
            assignment = run.network.uniform(name)
            with run.builder.temporary(assignment) as engine:
                fallbacks = with_observed(fallbacks, run, assignment, engine.realised(layers))
            run.progress("survey", done, len(run.ladder.names))
        return fallbacks

    fallbacks = run.stage(Fallbacks, make)
    run.take_as_realised(fallbacks)
    return fallbacks


def with_observed(
    fallbacks: Fallbacks, run: Run, assignment: Assignment, realised: Mapping[str, str]
) -> Fallbacks:
    """The fallbacks, and those that an engine of ``assignment`` shows by what its layers run in. New ones are told to
    the user.

    Where a layer runs in no precision that the target offers (mixed types), the reference takes its place.
    """
    found = {group: dict(known) for group, known in fallbacks.found.items()}
    for group, asked in assignment.items():
        others = [(layer.name, realised[layer.name]) for layer in run.network.layers_of(group)]
        others = [(layer, precision) for layer, precision in others if precision not in (asked, NOT_AUDITED)]
        if others and asked != REFERENCE and asked not in found.get(group, {}):
            layer, precision = others[0]
            found.setdefault(group, {})[asked] = precision if precision in run.target.native else REFERENCE
            run.notify(f"{run.target.name} runs {layer} in {precision} where {asked} was asked for: taken as such")
    return Fallbacks(found)


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
        return table and _fitted(run, table)
    survey(run)
    table = run.stage(
        CostTable,
        lambda: profiling.profile(
            run.target, run.network, run.ladder, run.builder.engine, timing_inputs(run), settings.seed,
            settings.n_mixtures, settings.timing_seconds,
            progress=lambda stage, done, n: run.progress(f"profile: {stage}", done, n),
        ),
    )
    _tell_if_noisy(run, table.noise)
    return _fitted(run, table)


def _fitted(run: Run, table: CostTable) -> CostTable:
    """The table, fitted again to its engines where an older version counted their switches otherwise."""
    if table.architecture == architecture_digest(run.network):
        return table
    table = fit_again(table, run.network)
    artifacts.write(run.path(CostTable), table, artifacts.read_envelope(run.path(CostTable), CostTable)["inputs"])
    return table


def time_engines(run: Run, engines: Mapping[str, Engine], stage: str) -> dict[str, Measurement]:
    """Time engines in turns, the uniform ones (by the name of their precision) among them: by these, times are stated
    as they would have been in the session that measured the cost table."""
    timing = run.target.device.measure(
        engines, timing_inputs(run), run.settings.seed, run.settings.timing_seconds,
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


def evaluation_game(run: Run, samples: Samples, progress: Callable[[int, int], None]) -> MemoizedGame:
    """Assignments evaluated on ``samples``, stored in the run folder: rows of values, then of the metric."""
    context = digest(run.inputs(Evaluations, samples=samples.sha256()))
    workers = run.workers
    execute: Executor
    if workers is None:
        reference = run.network.uniform(REFERENCE)
        execute = Serial(
            lambda tell: Evaluator(run.runner, run.task, samples, run.value, reference, tell), progress
        )
    else:
        execute = partial(workers.evaluate, samples, progress)
    return MemoizedGame(
        execute, Memo(run.folder / MEMO_FILE, run.notify), context, run.network.group_names, run.ladder.names,
        canonical=run.network.canonical, n_workers=workers.n_workers if workers else 1,
    )
