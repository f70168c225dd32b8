"""The game that is played on network and data: assignments evaluated, and stored in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from hwsmpq.artifacts import digest
from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import Executor, MemoizedGame
from hwsmpq.model.parts import Samples, Streamed
from hwsmpq.pipeline.evaluate.forked import Forked
from hwsmpq.pipeline.evaluate.serial import Serial, Tell
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.stages import MEMO_FILE, Evaluations
from hwsmpq.types import REFERENCE, Assignment


def evaluation_game(
    prepared: Prepared, samples: Samples, progress: Callable[[int, int], None], expected: Tensor | None = None
) -> MemoizedGame:
    """Assignments evaluated on ``samples``, stored in the run folder: rows of values, then of the metric.

    Args:
        expected: outputs of the reference on them, where they are known.
    """
    run = prepared.run
    context = digest(run.inputs(Evaluations, samples=samples.sha256()))
    reference = prepared.network.uniform(REFERENCE)

    def make(tell: Tell) -> Evaluator:
        return Evaluator(run.runner, run.judge, samples, run.value, reference, tell, expected)

    def warm(assignments: Sequence[Assignment]) -> None:
        _ = samples.inputs  # read once
        run.simulator.quantize(assignments)

    n_workers = run.n_workers
    execute: Executor
    if run.cluster is not None:
        execute = partial(run.cluster.evaluate, samples, progress)
    elif n_workers == 1 or isinstance(samples, Streamed):  # what reads them may bear one process only
        execute = Serial(make, progress)
    else:
        execute = Forked(make, progress, warm, n_workers)
    return MemoizedGame(
        execute, Memo(run.folder / MEMO_FILE, run.notify), context, prepared.network.levels(run.ladder.names),
        n_workers=n_workers,
    )
