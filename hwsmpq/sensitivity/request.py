"""What every sensitivity method is asked, and the parts of an answer that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.parts import Samples
from hwsmpq.model.shapes import Rows, chunks
from hwsmpq.model.task import Task
from hwsmpq.model.values import per_sample
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import PRECISIONS, REFERENCE, Assignment, Ladder, Layer, Precision, Ranges

GRADIENT_COPIES = 4
"""Tensors that gradients of gradients keep for each one of the forward pass, about."""

Loss = Callable[[Tensor, Rows], Tensor]
"""(outputs of some rows, those rows) -> differentiable losses, shape (n_rows,)."""


@dataclass(frozen=True, eq=False)
class Request:
    """A network and the samples that score it.

    Attributes:
        value: name of the value function that contributions are in, see :mod:`hwsmpq.model.values`.
        batch_size: most samples in memory together where gradients are taken; fewer if ``memory_mb`` asks for it.
            Labels that the method draws (values ``kl`` and ``mse``) depend on it.
    """

    captured: Captured
    ranges: Ranges
    scheme: Scheme
    task: Task
    samples: Samples
    ladder: Ladder
    value: str = "loss"
    seed: int = 0
    memory_mb: int = 1024
    batch_size: int = 32

    def precisions_of(self, layer: Layer) -> tuple[Precision, ...]:
        """What a layer runs in at every precision of the ladder."""
        return tuple(PRECISIONS[name] for name in self._levels[self.captured.network.group_of(layer.name)])

    @cached_property
    def _levels(self) -> dict[str, tuple[str, ...]]:
        return self.captured.network.levels(self.ladder.names)

    def evaluator(self, value: str) -> Evaluator:
        simulator = Simulator(self.captured, self.ranges, self.scheme, self.memory_mb)
        return Evaluator(simulator, self.task, self.samples, value, self.captured.network.uniform(REFERENCE))

    def values(self, assignments: list[Assignment], value: str) -> NDArray[np.float64]:
        """Values of every sample, (n_assignments, n_samples)."""
        return self.evaluator(value)(assignments)[:, : len(self.samples)].astype(np.float64)

    def ends(self) -> tuple[float, float]:
        """Mean values of the all-floor and of the all-top assignment, in two evaluations."""
        network = self.captured.network
        floor, top = self.values([network.uniform(self.ladder.floor), network.uniform(self.ladder.top)], self.value)
        return float(floor.mean()), float(top.mean())

    def batches(self) -> Iterator[tuple[Rows, tuple[Tensor, ...]]]:
        """The inputs, a few samples of one shape at a time, with which they are."""
        sample_bytes = GRADIENT_COPIES * max(1, self.captured.activation_bytes)
        size = max(1, min(self.batch_size, self.memory_mb * 2**20 // sample_bytes))
        return chunks(self.samples.inputs, self.captured.at_once(size))

    def loss(self) -> Loss:
        """The differentiable loss whose expected curvature is that of the negative value.

        Value ``loss`` (and ``soft`` and ``metric``): the task's loss at the labels. ``kl``: cross-entropy at
        labels drawn from the network's own softmax. ``mse``: outputs times a standard normal draw, scaled so that half
        the expected squared derivative is the mean squared change of the outputs.

        Raises:
            HwsmpqError: from the loss, if it has no gradient.
        """
        targets = self.samples.targets

        def drawn(rows: Rows) -> torch.Generator:
            first = rows.start if isinstance(rows, slice) else int(rows[0])
            return torch.Generator().manual_seed((self.seed << 32) + first)

        def of_outputs(one: Callable[[Tensor, torch.Generator], Tensor], with_classes: bool) -> Loss:
            def total(outputs: Tensor, rows: Rows) -> Tensor:
                generator = drawn(rows)
                compared = self.task.compared(outputs, with_classes)
                return torch.stack([weight**0.5 * one(tensor, generator) for weight, tensor in compared]).sum(0)

            return total

        def kl(outputs: Tensor, generator: torch.Generator) -> Tensor:
            p = outputs.detach().softmax(1).movedim(1, -1)
            labels = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator).reshape(p.shape[:-1])
            losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
            return losses.reshape(len(outputs), -1).sum(1)

        def mse(outputs: Tensor, generator: torch.Generator) -> Tensor:
            noise = torch.randn(outputs.shape, generator=generator)
            n_elements = outputs[0].numel()
            return (outputs * noise).reshape(len(outputs), -1).sum(1) * (2 / n_elements) ** 0.5

        def of_task(outputs: Tensor, rows: Rows) -> Tensor:
            losses = per_sample(self.task.loss, outputs, targets[rows], "loss")
            if not losses.requires_grad:
                raise HwsmpqError(
                    "the task's loss has no gradient", "a gradient-based sensitivity differentiates it",
                    "write loss= in differentiable torch operations, or take an output distance instead",
                )
            return losses

        label_free = {"kl": of_outputs(kl, True), "mse": of_outputs(mse, False)}
        return label_free.get(self.value, of_task)


def contributions(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (..., n_levels) of the damage done as gains over the floor: half the difference, as in a second-order
    expansion of the loss."""
    return (scores[..., :1] - scores) / 2
