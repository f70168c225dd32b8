"""Floor check: the lowest precision that leaves the network alive.

Walks that start from a destroyed network measure on it for most of their length, where no precision makes a
difference. So contributions start from the lowest level that is alive, and the levels below it are measured for single
groups on backgrounds that are.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.model.values import per_sample
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.types import REFERENCE

LEAST_SHARE = 0.25
"""Share of the reference's distance from chance that a living network keeps."""


def live_base(prepared: Prepared, batch: Samples, game: MemoizedGame) -> int:
    """The level that contributions start from: what the user named, else the lowest that leaves the network alive.

    A level is alive where the uniform network keeps ``LEAST_SHARE`` of what the metric of the reference lies above
    chance. Chance is the metric of the reference's answers against shuffled labels. Levels that are not are named
    through ``run.notify``.

    Args:
        game: measures values and metrics on ``batch``.

    Raises:
        HwsmpqError: every level of the ladder destroys the network.
    """
    run = prepared.run
    names = run.ladder.names
    if run.settings.base is not None:
        return names.index(run.settings.base)
    shares, metrics, chance = shares_kept(prepared, batch, game)
    dead = [name for name, share in zip(names, shares, strict=True) if share < LEAST_SHARE]
    if not dead:
        return 0
    listed = ", ".join(f"{name} {100 * metrics[names.index(name)]:.1f}" for name in dead)
    if len(dead) == len(names):
        raise HwsmpqError(
            "every precision of the ladder destroys the network",
            f"metric of the uniform networks: {listed}; chance is {100 * chance:.1f}",
            "add a higher precision to the ladder, or check the calibration samples",
        )
    base = int(np.flatnonzero(shares >= LEAST_SHARE)[0])
    run.notify(
        f"uniform {names[0]} destroys the network (metric {listed}; chance {100 * chance:.1f}): contributions start"
        f" from {names[base]}, and lower precisions are measured for single groups"
    )
    return base


def shares_kept(
    prepared: Prepared, batch: Samples, game: MemoizedGame
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(share of the reference's distance from chance that each level keeps, metric of each level, chance)."""
    run = prepared.run
    n_levels = len(run.ladder.names)
    uniform = np.repeat(np.arange(n_levels)[:, None], len(prepared.network.groups), axis=1)
    metrics = game.samples(uniform)[:, len(batch) :].mean(1, dtype=np.float64)
    outputs = prepared.simulator.scores(
        [prepared.network.uniform(REFERENCE)], batch.inputs, lambda out, rows: out
    )[0]
    generator = torch.Generator().manual_seed(run.settings.seed)
    shuffled = batch.targets[torch.randperm(len(batch), generator=generator)]
    reference = float(per_sample(run.judge.metric, outputs, batch.targets, "metric").mean())
    chance = float(per_sample(run.judge.metric, outputs, shuffled, "metric").mean())
    distance = reference - chance
    # A metric that cannot tell the reference from chance cannot tell what is alive either.
    shares = (metrics - chance) / distance if distance > 0 else np.ones(n_levels)
    return shares, metrics, chance
