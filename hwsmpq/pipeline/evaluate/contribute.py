"""The stage that estimates contributions, and the cheap scores that are computed beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.contribution.estimators import ESTIMATORS
from hwsmpq.contribution.game import ends
from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.contribution.stop import MIN_DRAWS, Stop
from hwsmpq.contribution.table import Table
from hwsmpq.errors import HwsmpqError, MachineError
from hwsmpq.model.parts import Samples
from hwsmpq.pipeline.division import divided
from hwsmpq.pipeline.evaluate.floor import live_base
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.sensitivity.registry import SENSITIVITIES
from hwsmpq.sensitivity.request import Request
from hwsmpq.types import Contributions, Scores

CHEAP = ("one-at-a-time", "fisher")
"""Sensitivity methods whose plans are raced beside those of the contributions."""
DRAWS_PER_PAIR = {"permutation": 2, "paper-like": 2, "regression": 4}
"""Draws that take the place of one antithetic pair, where a draw is a single walk, or one coalition of every size."""

CONTRIBUTING = 0.7
"""Share of what is left of a budget of time after which no further draws are begun."""
N_BLOCKS = 8
"""Parts of the batch, whose contributions say what those of all owe to its samples where nothing else is drawn."""
ALONE = ("both-ends", "one-at-a-time")
"""Estimators whose evaluations are the same whatever is drawn."""


@dataclass(frozen=True)
class Enough:
    """When draws suffice: ``suffice`` says so of (n_draws, n_groups, n_precisions); ``budgets`` is what it rests on."""

    suffice: Callable[[NDArray[np.float64]], bool]
    budgets: object


@holding
def contribute(run: Run, enough: Enough | None = None) -> Contributions:
    """Contributions of every (group, precision) on a fixed batch of the search part; resumes from the memo.

    Args:
        enough: also ends the sampling.
    """
    run = divided(run)
    settings = run.settings
    prepared = prepare(run)
    batch = run.score_batch

    def make() -> Contributions:
        stop = Stop(
            n_draws=settings.n_pairs * DRAWS_PER_PAIR.get(settings.estimator, 1),
            n_evaluations=settings.max_evaluations,
            seconds=None if settings.minutes is None else max(run.seconds_left * CONTRIBUTING, 1e-3),
            error=settings.target_error,
            stable=enough.suffice if enough else None,
        )
        base = live_base(prepared, batch, _game(prepared, batch, "floor check"))
        return _by_name(prepared, batch, _estimate(prepared, batch, settings.estimator, base, stop), base)

    return run.stage(Contributions, make, until=enough.budgets if enough else None)


@holding
def scores(run: Run, contributions: Contributions) -> Scores:
    """Tables of the cheap sensitivity methods, on the batch and from the base of the contributions."""
    prepared = prepare(run)
    batch, base = run.score_batch, _base_of(run, contributions)

    def make() -> Scores:
        tables, skipped = [], {}
        for name in CHEAP:
            try:
                table = _estimate(prepared, batch, name, base, Stop(MIN_DRAWS))
            except MachineError:  # no answer: it is tried again
                raise
            except HwsmpqError as error:
                skipped[name] = str(error)
                run.notify(f"no plans from {name}: {error}")
            else:
                tables.append(replace(_by_name(prepared, batch, table, base), draws=()))
        return Scores(tuple(tables), skipped)

    return run.stage(Scores, make, base=base, methods=CHEAP)


def observed(prepared: Prepared, contributions: Contributions) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(assignments (n, n_groups), values (n,)) on the score batch that the contributions were estimated from, in order
    of request.

    The estimator is played again on the memo, which holds all of them unless it was deleted.
    """
    run = prepared.run
    game = _value_game(prepared, run.score_batch, run.settings.estimator, _base_of(run, contributions))
    n_draws = len(contributions.draws)
    if n_draws and run.settings.estimator in ESTIMATORS:
        ESTIMATORS[run.settings.estimator](game, Stop(n_draws), contributions.seed)
    return np.array(game.levels).reshape(-1, game.n_players), np.array(game.values)


class ValueGame:
    """The game of the mean value; the metric, which is stored beside it, is left aside.

    Args:
        fresh: gives the game on the n-th other batch.
        part: samples of the batch that are played on.
    """

    def __init__(
        self, game: MemoizedGame, base: int, fresh: Callable[[int], MemoizedGame] | None = None,
        part: slice = slice(None),
    ) -> None:
        self._game, self.base, self._fresh, self._part = game, base, fresh, part
        self.n_players, self.n_levels = game.n_players, game.n_levels
        self.levels: list[NDArray[np.int64]] = []
        self.values: list[float] = []
        """Everything that was requested on this batch, in order."""

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        samples = self._game.samples(levels)
        found = samples[:, : samples.shape[1] // 2][:, self._part].mean(1, dtype=np.float64)
        self.levels += list(levels)
        self.values += found.tolist()
        return found

    def on(self, part: slice) -> ValueGame:
        """The game on some samples of the batch."""
        return ValueGame(self._game, self.base, part=part)

    def redraw(self, index: int) -> ValueGame:
        """The game on a fresh batch, as :class:`~hwsmpq.contribution.game.Redrawable` has it."""
        assert self._fresh is not None
        return ValueGame(self._fresh(index), self.base)


def _value_game(prepared: Prepared, batch: Samples, name: str, base: int) -> ValueGame:
    run = prepared.run
    part = run.parts[0]

    def fresh(index: int) -> MemoizedGame:
        generator = torch.Generator().manual_seed((run.settings.seed << 32) + index)
        return _game(prepared, part.take(torch.randperm(len(part), generator=generator)[: len(batch)]), name)

    return ValueGame(_game(prepared, batch, name), base, fresh)


def _estimate(prepared: Prepared, batch: Samples, name: str, base: int, stop: Stop) -> Table:
    """The table of any method."""
    run = prepared.run
    settings = run.settings
    game = _value_game(prepared, batch, name, base)
    if name in ESTIMATORS:
        table = ESTIMATORS[name](game, stop, settings.seed)
        return _over_samples(table, name, game, len(batch)) if name in ALONE else table
    request = Request(
        prepared.captured, prepared.ranges, run.scheme, run.judge, batch, run.ladder, run.value, settings.seed,
        settings.memory_mb,
    )
    table = SENSITIVITIES[name](request)
    base_value, top_value = ends(game)
    return replace(table, phi=table.phi - table.phi[:, [base]], floor_value=base_value, top_value=top_value)


def _over_samples(table: Table, name: str, game: ValueGame, n_samples: int) -> Table:
    """The table with those of parts of its batch for draws: what was evaluated tells them too."""
    bounds = [n_samples * i // N_BLOCKS for i in range(N_BLOCKS + 1)]
    parts = [game.on(slice(a, b)) for a, b in pairwise(bounds) if b > a]
    draws = np.stack([ESTIMATORS[name](part, Stop(MIN_DRAWS), 0).phi for part in parts])
    return replace(table, draws=draws, stderr=draws.std(axis=0, ddof=1) / np.sqrt(len(draws)), drawn="samples")


def _base_of(run: Run, contributions: Contributions) -> int:
    return run.ladder.names.index(contributions.start)


def _game(prepared: Prepared, batch: Samples, stage: str) -> MemoizedGame:
    run = prepared.run
    return evaluation_game(prepared, batch, lambda done, n: run.progress(f"contribute: {stage}", done, n))


def _by_name(prepared: Prepared, batch: Samples, table: Table, base: int) -> Contributions:
    run = prepared.run
    names, groups = run.ladder.names, prepared.network.group_names

    def named(array: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        return {g: dict(zip(names, map(float, row), strict=True)) for g, row in zip(groups, array, strict=True)}

    return Contributions(
        estimator=table.estimator,
        value=run.value,
        model_sha256=prepared.network.model_sha256,
        ladder=names,
        phi=named(table.phi),
        stderr=named(table.stderr),
        floor_value=table.floor_value,
        top_value=table.top_value,
        n_evaluations=table.n_evaluations,
        n_permutations=table.n_permutations,
        n_samples=len(batch),
        seed=run.settings.seed,
        base=names[base],
        draws=tuple(tuple(tuple(map(float, row)) for row in draw) for draw in table.draws),
        drawn=table.drawn,
    )
