"""What training and reconstruction made of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwsmpq.errors import HwsmpqError
from hwsmpq.types.measured import Ranges
from hwsmpq.types.precision import Assignment


@dataclass(frozen=True)
class Recipe:
    """How to train: epochs over the training samples, the first learning rate (it falls to 0 along a cosine)."""

    n_epochs: int = 10
    learning_rate: float = 0.01
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise HwsmpqError(f"{name} is {getattr(self, name)}", "it must be at least 1", "raise it")
        for name, most in {"n_epochs": 10**6, "batch_size": 10**6, "seed": 2**31 - 1}.items():
            if not 0 <= getattr(self, name) <= most:
                raise HwsmpqError(f"{name} is {getattr(self, name)}", f"it must be 0 to {most}", "change it")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise HwsmpqError(
                f"a learning rate of {self.learning_rate}", "it must be a positive number", "for example 0.01"
            )


@dataclass(frozen=True)
class Trained:
    """Weights and ranges that replace those of the network in the engine of one assignment.

    The weights lie in a file of their own, with SHA-256 ``weights_sha256``; ``ranges`` hold the learned steps.
    ``data`` says in words what was trained on; ``losses`` are the means of the objective, one an epoch; ``held_out``
    those over samples that only judged, before the first epoch and after every one. The weights are those of the least.
    """

    model_sha256: str
    assignment: Assignment
    recipe: Recipe
    objective: str
    data: str
    n_samples: int
    losses: tuple[float, ...]
    ranges: Ranges
    weights_sha256: str
    held_out: tuple[float, ...] = ()

    @property
    def best_epoch(self) -> int:
        """Whose weights were kept, from 1; 0 is the start."""
        return self.held_out.index(min(self.held_out)) if self.held_out else len(self.losses)


@dataclass(frozen=True)
class Reconstruction:
    """How to reconstruct: iterations a block, or as many as fit into ``minutes`` for all blocks together."""

    n_iterations: int = 400
    minutes: float | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in {"n_iterations": 10**6, "batch_size": 10**6, "seed": 2**31 - 1}.items():
            least = 0 if name == "seed" else 1
            if not least <= getattr(self, name) <= most:
                raise HwsmpqError(f"{name} is {getattr(self, name)}", f"it must be {least} to {most}", "change it")
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise HwsmpqError(f"{self.minutes} minutes", "it must be a positive number", "for example 10")


@dataclass(frozen=True)
class BlockOutcome:
    """What reconstruction made of one block.

    Errors are those of the block's outputs on samples that it did not learn from: squared, relative to the variance of
    the outputs. What did not lower the error is not kept.
    """

    layers: tuple[str, ...]
    n_iterations: int
    error_before: float
    error_after: float
    seconds: float

    @property
    def is_kept(self) -> bool:
        return self.error_after < self.error_before


@dataclass(frozen=True)
class Reconstructed:
    """Weights on their grid, biases and steps that replace those of the network in the engine of one assignment.

    The weights lie in a file of their own, with SHA-256 ``weights_sha256``; ``ranges`` hold the learned steps.
    """

    model_sha256: str
    assignment: Assignment
    recipe: Reconstruction
    n_samples: int
    blocks: tuple[BlockOutcome, ...]
    ranges: Ranges
    weights_sha256: str
