"""The stages that measure: calibrate, profile, contribute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwsmpq.artifacts import digest
from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware import profile as profiling
from hwsmpq.model.task import Samples
from hwsmpq.pipeline.run import MEMO_FILE, Run
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.ranges import calibrate as take_ranges
from hwsmpq.types import REFERENCE, Contributions, CostTable, Network, Ranges


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


def contribute(run: Run) -> Contributions:
    """Contributions of every (group, precision) on a fixed batch of the search part; resumes from the memo."""
    settings = run.settings
    calibrate(run)
    batch = score_batch(run)
    inputs = {
        "ranges": run.sha256(Ranges),
        "ladder": list(run.ladder.names),
        "samples": batch.sha256(),
        "estimator": ["antithetic", settings.n_pairs, settings.seed, settings.value],
    }
    return run.stage(Contributions, inputs, lambda: _contribute(run, batch))


def _contribute(run: Run, batch: Samples) -> Contributions:
    settings, network, ladder = run.settings, run.network, run.ladder
    n_walk = len(network.groups) * (len(ladder.names) - 1)
    counter = _Counter(run, 2 + 2 * settings.n_pairs * n_walk)
    game = evaluation_game(run, batch, counter.within_request)
    table = antithetic(_ValueOf(game, counter), settings.n_pairs, settings.seed)
    return Contributions(
        estimator="antithetic permutations",
        value=settings.value,
        model_sha256=network.model_sha256,
        ladder=ladder.names,
        phi=_by_name(table.phi, network, ladder.names),
        stderr=_by_name(table.stderr, network, ladder.names),
        floor_value=table.floor_value,
        top_value=table.top_value,
        n_evaluations=table.n_evaluations,
        n_permutations=table.n_permutations,
        n_samples=len(batch),
        seed=settings.seed,
    )


def score_batch(run: Run) -> Samples:
    """The fixed batch that scores contributions: the first samples of the (shuffled) search part."""
    return run.parts[0].take(slice(0, run.settings.n_score_samples))


def evaluation_game(run: Run, samples: Samples, progress: Callable[[int, int], None]) -> MemoizedGame:
    """Assignments evaluated on ``samples``, stored in the run folder: rows of values, then of the metric."""
    evaluator = Evaluator(
        run.simulator(), run.task, samples, run.settings.value, run.network.uniform(REFERENCE), progress
    )
    context = digest({
        "ranges": run.sha256(Ranges), "samples": samples.sha256(), "value": run.settings.value,
        "scheme": run.scheme.name,
    })
    return MemoizedGame(evaluator, Memo(run.folder / MEMO_FILE), context, run.network.group_names, run.ladder.names)


class _Counter:
    """Evaluations done over all requests of an estimator."""

    def __init__(self, run: Run, total: int) -> None:
        self._run, self._total, self._finished = run, total, 0

    def within_request(self, done: int, n: int) -> None:
        self._run.progress("contribute", min(self._finished + done, self._total), self._total)

    def finish_request(self, n: int) -> None:
        self._finished += n
        self.within_request(0, n)


class _ValueOf:
    """The game of the value alone: the first half of what is stored."""

    def __init__(self, game: MemoizedGame, counter: _Counter) -> None:
        self._game, self._counter = game, counter
        self.n_players, self.n_levels = game.n_players, game.n_levels

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        samples = self._game.samples(levels)
        self._counter.finish_request(len(levels))
        values = samples[:, : samples.shape[1] // 2].mean(1, dtype=np.float64)
        if not np.isfinite(values).all():
            raise HwsmpqError(
                "an assignment has a value that is not finite", "the network breaks down at the ladder's floor",
                "raise the floor of the ladder, or use --value metric",
            )
        return values


def _by_name(table: NDArray[np.float64], network: Network, precisions: tuple[str, ...]) -> dict[str, dict[str, float]]:
    return {
        group: {name: float(table[i, j]) for j, name in enumerate(precisions)}
        for i, group in enumerate(network.group_names)
    }
