"""The stage that estimates contributions, and the cheap scores that are computed beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.contribution.estimators import ESTIMATORS, estimator_for
from hwsmpq.contribution.game import ends
from hwsmpq.contribution.growing import ADDS_UP, BOTH_ENDS, again
from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.contribution.stop import MIN_DRAWS, Aim, Stop
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

SINGLE = "one-at-a-time"
CHEAP = (SINGLE, "fisher")
"""Sensitivity methods whose plans are raced beside those of the contributions."""
DRAWS_PER_PAIR = {"permutation": 2, "paper-like": 2, "regression": 4}
"""Draws that take the place of one antithetic pair, where a draw is a single walk, or one coalition of every size."""

CONTRIBUTING = 0.7
"""Share of what is left of a budget of time after which no further draws are begun."""
MOST_BATCHES = 4
"""Batches that contributions may grow to."""


@dataclass(frozen=True)
class Purpose:
    """The plan that contributions are for; ``suffice`` says of draws (n_draws, n_groups, n_precisions) whether they do,
    and ``budgets`` is what both rest on."""

    aim: Aim
    suffice: Callable[[NDArray[np.float64]], bool] | None
    budgets: object


@holding
def contribute(run: Run, purpose: Purpose | None = None) -> Contributions:
    """Contributions of every (group, precision) on a fixed batch of the search part; resumes from the memo.

    Args:
        purpose: what is measured may depend on it, and when the sampling ends. Without one, contributions that were
            made for a plan are taken as they are.
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
            stable=purpose.suffice if purpose else None,
            aim=purpose.aim if purpose else None,
        )
        base = live_base(prepared, batch, _game(prepared, batch, "floor check"))
        return _by_name(prepared, batch, _estimate(prepared, batch, settings.estimator, base, stop), base)

    inputs = run.inputs(Contributions, until=purpose.budgets if purpose else None)
    made_from = run.artifacts.made_from(Contributions)
    if purpose is None and made_from and all(made_from.get(name) == inputs[name] for name in inputs if name != "until"):
        return run.read(Contributions)
    return run.stage(Contributions, make, until=purpose.budgets if purpose else None)


@holding
def scores(run: Run, contributions: Contributions) -> Scores:
    """Tables of the cheap sensitivity methods, on the batch and from the base of the contributions, but for what these
    are by themselves."""
    prepared = prepare(run)
    batch, base = run.score_batch, _base_of(run, contributions)
    methods = [name for name in CHEAP if (name, contributions.estimator) != (SINGLE, ADDS_UP)]

    def make() -> Scores:
        tables, skipped = [], {}
        for name in methods:
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

    return run.stage(Scores, make, base=base, methods=methods)


def observed(prepared: Prepared, contributions: Contributions) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(assignments (n, n_groups), values (n,)) on the score batch that the contributions were estimated from, in order
    of request.

    The estimator is played again on the memo, which holds all of them unless it was deleted.
    """
    run = prepared.run
    game = _value_game(prepared, run.score_batch, run.settings.estimator, _base_of(run, contributions))
    n_draws = len(contributions.draws)
    if contributions.estimator in (ADDS_UP, BOTH_ENDS):
        table = table_of(prepared, contributions)
        again(game, None if contributions.estimator == ADDS_UP else np.isfinite(table))
    elif n_draws and run.settings.estimator in ESTIMATORS:
        estimator_for(run.settings.estimator, game)(game, Stop(n_draws), contributions.seed)
    return np.array(game.levels).reshape(-1, game.n_players), np.array(game.values)


class ValueGame:
    """The game of the mean value; the metric, which is stored beside it, is left aside.

    Args:
        fresh: gives the game on the n-th batch that is drawn by chance.
        more: give it on the batches that follow.
    """

    def __init__(
        self, game: MemoizedGame, base: int, fresh: Callable[[int], MemoizedGame] | None = None,
        more: Sequence[Callable[[], MemoizedGame]] = (),
    ) -> None:
        self._games, self.base, self._fresh = [lambda: game, *map(cache, more)], base, fresh
        self.n_players, self.n_levels, self.n_batches = game.n_players, game.n_levels, len(self._games)
        self.levels: list[NDArray[np.int64]] = []
        self.values: list[float] = []
        """Everything that was requested on this batch, in order."""

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(self.samples(levels, 0).mean(1))

    def samples(self, levels: NDArray[np.int64], batch: int) -> NDArray[np.float64]:
        """As :class:`~hwsmpq.contribution.blocks.Sampled` has it."""
        rows = self._games[batch]().samples(levels).astype(np.float64)
        found = rows[:, : rows.shape[1] // 2]
        if batch == 0:
            self.levels += list(levels)
            self.values += found.mean(1).tolist()
        return found

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

    n = len(batch)
    more = [
        partial(_game, prepared, part.take(slice(start, start + n)), name)
        for start in range(n, min(len(part) - n, n * (MOST_BATCHES - 1)) + 1, n)
    ]
    return ValueGame(_game(prepared, batch, name), base, fresh, more)


def _estimate(prepared: Prepared, batch: Samples, name: str, base: int, stop: Stop) -> Table:
    """The table of any method."""
    run = prepared.run
    settings = run.settings
    game = _value_game(prepared, batch, name, base)
    if name in ESTIMATORS:
        return estimator_for(name, game)(game, stop, settings.seed)
    request = Request(
        prepared.captured, prepared.ranges, run.scheme, run.judge, batch, run.ladder, run.value, settings.seed,
        settings.memory_mb,
    )
    table = SENSITIVITIES[name](request)
    base_value, top_value = ends(game)
    return replace(table, phi=table.phi - table.phi[:, [base]], floor_value=base_value, top_value=top_value)


def table_of(prepared: Prepared, contributions: Contributions) -> NDArray[np.float64]:
    """Phi (n_groups, n_precisions) in the order of network and ladder, NaN where it was not measured."""
    phi, names = contributions.phi, prepared.run.ladder.names
    return np.array([[phi[group].get(name, np.nan) for name in names] for group in prepared.network.group_names])


def _base_of(run: Run, contributions: Contributions) -> int:
    return run.ladder.names.index(contributions.start)


def _game(prepared: Prepared, batch: Samples, stage: str) -> MemoizedGame:
    run = prepared.run
    return evaluation_game(prepared, batch, lambda done, n: run.progress(f"contribute: {stage}", done, n))


def _by_name(prepared: Prepared, batch: Samples, table: Table, base: int) -> Contributions:
    run = prepared.run
    names, groups = run.ladder.names, prepared.network.group_names

    def named(array: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        return {
            group: {name: float(one) for name, one in zip(names, row, strict=True) if np.isfinite(one)}
            for group, row in zip(groups, array, strict=True)
        }

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
        draws=tuple(
            tuple(tuple(float(one) if np.isfinite(one) else None for one in row) for row in draw)
            for draw in table.draws
        ),
        drawn=table.drawn,
    )
