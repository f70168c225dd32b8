"""What groups gain alone, on blocks of samples: the spread over these is the noise of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hwsmpq.contribution.game import Game, finite, values

N_BLOCKS = 8
"""Parts of a batch."""


@runtime_checkable
class Sampled(Protocol):
    """A game whose values are means over samples, of which there are several batches of one size."""

    @property
    def n_batches(self) -> int: ...

    def samples(self, levels: NDArray[np.int64], batch: int) -> NDArray[np.float64]:
        """Values (n_assignments, n_samples) on a batch, of which the first is what the game is played on."""
        ...


def means(game: Game, levels: NDArray[np.int64], batch: int = 0) -> NDArray[np.float64]:
    """Values (n_blocks, n_assignments) on blocks of a batch; one block where the game does not tell samples apart.

    Raises:
        HwsmpqError: a value is not finite.
    """
    if not isinstance(game, Sampled):
        return values(game, levels)[None]
    samples = game.samples(levels, batch)
    finite(samples.mean(1), levels)
    return np.stack([block.mean(1) for block in np.array_split(samples, min(N_BLOCKS, samples.shape[1]), axis=1)])


def effects(
    game: Game, crowds: Sequence[int], cells: NDArray[np.bool_], batch: int = 0,
    of_ends: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """What single groups gain over the base while all others are at one level, in one request.

    Args:
        crowds: these levels, of which each is the base or the top.
        cells: levels (n_players, n_levels) that are asked for.
        of_ends: values (n_blocks, 2) of the all-base and of the all-top assignment, where they are known.

    Returns:
        These values; gains (n_crowds, n_blocks, n_players, n_levels), NaN where they were not asked for; and the
        number of evaluations.
    """
    n, top = game.n_players, game.n_levels - 1
    asked = cells.copy()
    asked[:, game.base] = cells.any(axis=1)
    places = [np.nonzero(asked & (np.arange(top + 1) != crowd)) for crowd in crowds]
    rows = [np.full((len(groups), n), crowd) for crowd, (groups, _) in zip(crowds, places, strict=True)]
    for row, (groups, levels) in zip(rows, places, strict=True):
        row[np.arange(len(groups)), groups] = levels
    if of_ends is None:
        rows = [np.repeat([[game.base], [top]], n, axis=1), *rows]
    requested = np.concatenate(rows)
    found = means(game, requested, batch)
    if of_ends is None:
        of_ends, found = found[:, :2], found[:, 2:]
    gains = np.full((len(crowds), len(found), n, top + 1), np.nan)
    bounds = np.cumsum([len(groups) for groups, _ in places])[:-1]
    for reached, crowd, place, part in zip(gains, crowds, places, np.split(found, bounds, axis=1), strict=True):
        reached[:, :, crowd] = of_ends[:, [int(crowd != game.base)]]
        reached[:, place[0], place[1]] = part
        reached -= reached[:, :, [game.base]].copy()
        reached[:, ~asked] = np.nan
    return of_ends, gains, len(requested)
