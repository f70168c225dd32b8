"""The interface of every estimator."""

from __future__ import annotations

from typing import Protocol

from hwsmpq.contribution.game import Game
from hwsmpq.contribution.stop import Progress, Stop
from hwsmpq.contribution.table import Table


class Estimator(Protocol):
    """Estimates the contributions of a game.

    A longer run repeats the requests of a shorter one with the same seed, then goes on. What an estimator calls a
    draw, and how many evaluations that takes, is its own; methods without randomness take what they need, whatever
    the stop.

    Raises:
        HwsmpqError: the game does not fit the estimator, or a value is not finite.
    """

    def __call__(self, game: Game, stop: Stop, seed: int, progress: Progress | None = None) -> Table: ...
