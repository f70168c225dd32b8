"""Every group alone: at the top first, at the base too where effects do not add up, and on more samples where a plan
still depends on them."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.blocks import Sampled, effects, means
from hwsmpq.contribution.game import Game, options
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table, over_samples

ADDS_UP = "single effects, which add up"
"""Name of the table where nothing but the top was needed."""
BOTH_ENDS = "growing from both ends"
GROWTH = 1.25
"""Both ends take two walks. Where most groups are in doubt, more samples for all of them gained nothing over a race of
whole plans (ResNet-20, w3a3 to w8a8)."""
N_MIXTURES = 4
"""Assignments that sums of effects are compared with."""
ROUNDING = 1e-9
"""Of what a mixture loses: no interaction."""


def growing(game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table:
    """Contributions that end where the plan does not need them any more.

    1. Every group alone, all others at the top: ``n_players * (n_levels - 1) + 2`` evaluations.
    2. Where the values of a few mixtures lie as near to the sum of these effects as the samples leave open, they are
       the contributions: in an additive game all marginal gains of a group are the same.
    3. Else every group alone with all others at the base too, at levels that the best plan may contain. The mean of
       both ends is the Shapley value where no more than pairs interact (see :func:`both_ends`).
    4. Levels in which the best plans differ, for contributions as other samples may give them, are measured on the
       next batch of samples, until there are none, or ``GROWTH * n_draws`` walks would have taken as many evaluations.

    Without an aim, mixtures are random, no level is left out, and there is no further batch. Draws are blocks of
    samples, in which a level that was not measured is NaN. Errors are those of the samples: where effects do not add
    up, interactions of three and more groups are not in them.

    Raises:
        HwsmpqError: a value is not finite.
    """
    options(game)
    started, n_players, top = time.monotonic(), game.n_players, game.n_levels - 1
    everything = np.ones((n_players, game.n_levels), dtype=bool)
    of_ends, (from_top,), n_single = effects(game, [top], everything)
    if stop.aim is None:
        rows = np.random.default_rng(seed).integers(game.n_levels, size=(N_MIXTURES, n_players))
    else:
        rows = np.unique(stop.aim.plans(from_top), axis=0)[:N_MIXTURES]
    n_evaluations = n_single + len(rows)
    if _adds_up(from_top, of_ends[:, 1], rows, means(game, rows)):
        return over_samples(ADDS_UP, from_top, of_ends, n_evaluations)
    cells = everything if stop.aim is None else stop.aim.may_contain(from_top)
    _, (from_base,), n_new = effects(game, [game.base], cells, of_ends=of_ends)
    n_evaluations += n_new
    draws = (from_top + from_base) / 2
    n_batches = game.n_batches if isinstance(game, Sampled) and stop.aim else 1
    n_walks = np.inf if stop.n_draws is None else GROWTH * stop.n_draws
    most = min(np.inf if stop.n_evaluations is None else stop.n_evaluations, n_walks * n_single)
    for batch in range(1, n_batches):
        assert stop.aim is not None
        if progress is not None:
            progress(batch, n_batches)
        if stop.adaptive and stop.reached(draws, time.monotonic() - started):
            break
        doubtful = _in_doubt(stop.aim.plans(draws), cells)
        # One evaluation a level and end, the base of every group at the top, and both ends.
        n_most = 2 * int(doubtful.sum()) + int(doubtful.any(axis=1).sum()) + 2
        if not doubtful.any() or n_evaluations + n_most > most:
            break
        _, gains, n_new = effects(game, [game.base, top], doubtful, batch)
        n_evaluations += n_new
        draws = np.concatenate([draws, gains.mean(axis=0)])
    return over_samples(BOTH_ENDS, draws, of_ends, n_evaluations)


def again(game: Game, cells: NDArray[np.bool_] | None) -> None:
    """Request once more what a table was made from on the first batch, but for the mixtures.

    Args:
        cells: what was measured at the base too; None where nothing was.
    """
    of_ends, _, _ = effects(game, [game.n_levels - 1], np.ones((game.n_players, game.n_levels), dtype=bool))
    if cells is not None:
        effects(game, [game.base], cells, of_ends=of_ends)


def _adds_up(
    from_top: NDArray[np.float64], of_top: NDArray[np.float64], rows: NDArray[np.int64], found: NDArray[np.float64]
) -> bool:
    """Whether mixtures ``rows`` (n, n_players) with values ``found`` (n_blocks, n) are the sum of single effects, as
    far as the samples tell what that sum is."""
    lost = (from_top - from_top[:, :, [-1]])[:, np.arange(rows.shape[1]), rows].sum(axis=2)
    residual = (found - of_top[:, None] - lost).mean(axis=0)
    error = lost.std(axis=0, ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else np.zeros(len(rows))
    return bool(np.sqrt(np.mean(residual**2)) <= np.sqrt(np.mean(error**2)) + ROUNDING * np.abs(lost).max())


def _in_doubt(plans: NDArray[np.int64], cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The levels of groups that ``plans`` (n, n_players) take in several, (n_players, n_levels)."""
    seen = (plans[:, :, None] == np.arange(cells.shape[1])).any(axis=0)
    return np.asarray(seen & cells & (seen.sum(axis=1, keepdims=True) > 1))
