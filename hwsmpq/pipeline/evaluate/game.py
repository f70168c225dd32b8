"""The game that is played on network and data: assignments evaluated, and stored in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hwsmpq.artifacts import digest
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import Executor, MemoizedGame
from hwsmpq.model.parts import Samples
from hwsmpq.pipeline.evaluate.serial import Serial
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.stages import MEMO_FILE, Evaluations
from hwsmpq.types import REFERENCE


def evaluation_game(prepared: Prepared, samples: Samples, progress: Callable[[int, int], None]) -> MemoizedGame:
    """Assignments evaluated on ``samples``, stored in the run folder: rows of values, then of the metric."""
    run = prepared.run
    context = digest(run.inputs(Evaluations, samples=samples.sha256()))
    workers = run.workers
    execute: Executor
    if workers is None:
        reference = prepared.network.uniform(REFERENCE)
        execute = Serial(
            lambda tell: Evaluator(run.runner, run.judge, samples, run.value, reference, tell), progress
        )
    else:
        execute = partial(workers.evaluate, samples, progress)
    return MemoizedGame(
        execute, Memo(run.folder / MEMO_FILE, run.notify), context, prepared.network.levels(run.ladder.names),
        n_workers=workers.n_workers if workers else 1,
    )
