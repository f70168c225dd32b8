"""What is told while a run works: how far it is, what the user should know, and what goes into the log."""

from __future__ import annotations

import logging
from typing import Protocol

LOGGER = logging.getLogger("hwsmpq")
"""The one that everything of the package goes to: warnings of what the user should know, and as information which
artifacts were made, and how long that took."""


class Progress(Protocol):
    """Told how far a stage is: (stage, done, total)."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def logged(message: str) -> None:
    """Log a warning; Python shows it on the error stream where logging is not set up otherwise."""
    LOGGER.warning("%s", message)


def unseen(stage: str, text: str) -> None:
    """Show nobody."""
