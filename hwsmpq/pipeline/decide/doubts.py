"""What makes a task doubtful before anything is searched: said to the user, who alone can tell."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.model.task import top1
from hwsmpq.model.values import per_sample
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.types import REFERENCE

LEAST_ABOVE_CHANCE = 0.1
"""Share of the way from chance to always right that a classifier is expected to go at least."""
Z_SURE = 3.0
"""Standard errors from which on a difference is taken for real."""
FEWEST_SAMPLES = 32
"""On fewer, a good network is not surely better than chance by a metric whose scale is not known."""


def tell_doubts(prepared: Prepared) -> None:
    """Notify of a network that is hardly better than chance on the data, and of a metric that rises where the value
    that scores assignments falls.

    Costs one evaluation of the ladder's floor, which differs from the reference most, and one of the reference, on the
    score batch. Both are kept for what the search asks of uniform networks.
    """
    prepared = prepared.on_engines()
    run = prepared.run
    batch = run.score_batch
    reference_network = prepared.network.uniform(REFERENCE)
    outputs = run.runner.scores([reference_network], batch.inputs, lambda out, rows: out)[0]
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(run.settings.seed))
    right, shuffled = (
        per_sample(run.judge.metric, outputs, targets, "metric").double().numpy()
        for targets in (batch.targets, batch.targets[order])
    )
    reference, chance = float(right.mean()), float(shuffled.mean())
    if run.task.metric is top1:
        doubtful = reference - chance < LEAST_ABOVE_CHANCE * (1 - chance)
    else:
        doubtful = len(batch) >= FEWEST_SAMPLES and _z(right - shuffled) < Z_SURE
    if doubtful:
        run.notify(
            f"the network itself is hardly better than chance on this data (metric {100 * reference:.1f}, with shuffled"
            f" labels {100 * chance:.1f}): check the preprocessing (scale, mean, order of channels), the class order of"
            " the labels, and that the weights are trained ones"
        )
    game = evaluation_game(
        prepared, batch, lambda done, n: run.progress("search: check the task", done, n), outputs
    )
    rows = game.samples_of([prepared.network.uniform(run.ladder.floor), reference_network]).astype(np.float64)
    value, metric = (floor - top for floor, top in np.split(rows, 2, axis=1))
    if min(_z(metric), -_z(value)) > Z_SURE or min(_z(value), -_z(metric)) > Z_SURE:
        run.notify(
            f"the metric and the value {run.value} disagree about uniform {run.ladder.floor}: by one of them it is"
            " better than fp32, by the other it is worse. If a smaller metric is better (an error), say so with"
            " Task(higher_is_better=False)"
        )


def _z(difference: NDArray[np.float64]) -> float:
    """Mean of per-sample differences over its standard error; 0 where none differs."""
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    mean = float(difference.mean())
    return mean / error if error > 0 else np.sign(mean) * np.finfo(float).max
