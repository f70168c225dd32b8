"""The stages that measure network and target (calibrate, profile), and the game that is played on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hwsmpq.artifacts import digest
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import Executor, MemoizedGame
from hwsmpq.hardware import profile as profiling
from hwsmpq.model.task import Samples
from hwsmpq.pipeline.run import MEMO_FILE, Run
from hwsmpq.pipeline.serial import Serial
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.ranges import calibrate as take_ranges
from hwsmpq.types import REFERENCE, CostTable, Network, Ranges


def inspect(run: Run) -> Network:
    """Layers, groups, MACs and parameters of the network."""
    return run.network


def calibrate(run: Run) -> Ranges:
    """Activation ranges of every layer from the calibration samples."""
    settings = run.settings
    bits = sorted({p.activation_bits for p in run.ladder.precisions if not p.is_float})
    inputs = {
        "model": run.network.model_sha256,
        "data": run.calibration_sha256,
        "scheme": run.scheme.name,
        "observer": settings.observer,
        "bits": bits,
    }
    return run.stage(
        Ranges,
        inputs,
        lambda: take_ranges(
            run.captured, run.task.calibration, run.scheme, bits, settings.observer,
            progress=lambda done, n: run.progress("calibrate", done, n),
        ),
    )


def profile(run: Run) -> CostTable | None:
    """The measured cost table; None where the target makes no latency claim."""
    if not run.target.has_latency:
        return None
    settings = run.settings
    calibrate(run)
    inputs = {
        "ranges": run.sha256(Ranges),
        "target": run.target.name,
        "machine": run.target.machine(),
        "ladder": list(run.ladder.names),
        "seed": [settings.seed, settings.n_mixtures],
    }
    sample = [x[:1].numpy() for x in run.task.calibration]
    return run.stage(
        CostTable,
        inputs,
        lambda: profiling.profile(
            run.target, run.network, run.ladder, run.builder.engine, sample, settings.seed,
            settings.n_mixtures, settings.timing_seconds,
            progress=lambda stage, done, n: run.progress(f"profile: {stage}", done, n),
        ),
    )


def score_batch(run: Run) -> Samples:
    """The fixed batch that scores contributions: the first samples of the (shuffled) search part."""
    return run.parts[0].take(slice(0, run.settings.n_score_samples))


def evaluation_game(run: Run, samples: Samples, progress: Callable[[int, int], None]) -> MemoizedGame:
    """Assignments evaluated on ``samples``, stored in the run folder: rows of values, then of the metric."""
    context = digest({
        "ranges": run.sha256(Ranges), "samples": samples.sha256(), "value": run.value,
        "scheme": run.scheme.name, "evaluate": run.settings.evaluate,
    })
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
        execute, Memo(run.folder / MEMO_FILE), context, run.network.group_names, run.ladder.names,
        n_workers=workers.n_workers if workers else 1,
    )
