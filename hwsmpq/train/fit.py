"""The training loop: SGD with momentum and a cosine schedule, stored after every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.train.checkpoint import check_device, go_on, store
from hwsmpq.train.network import QuantizedNetwork
from hwsmpq.types import Recipe

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
LARGEST_GRADIENT = 5.0
"""Norm that gradients are clipped to: without batch norm, which is folded, a low-bit network can take off."""
RATES = {"weights": 1.0, "others": 1.0, "alphas": 100.0}
"""Learning rate of every kind of parameter, relative to the recipe's. The gradient of an alpha is a share of the
loss, small beside those of weights; EdMIPS too gives alphas a rate of their own."""

PATIENCE = 4
"""Epochs."""

Objective = Callable[[Tensor, Samples], Tensor]
"""(outputs (n, ...), the samples that they are of, on the same device) -> the scalar that is minimised."""


@dataclass(frozen=True)
class Course:
    """The mean objective of every epoch, and that of held-out samples before the first and after every one."""

    losses: tuple[float, ...]
    held_out: tuple[float, ...]


def fit(
    network: QuantizedNetwork, samples: Samples, objective: Objective, recipe: Recipe, device: str = "cpu",
    checkpoint: Path | None = None, identity: str = "", progress: Callable[[int, int], None] | None = None,
    held_out: Samples | None = None,
) -> Course:
    """Train a network in place, and leave it on the CPU.

    With samples held out, the network ends as it was after the epoch that judged them best, or as it began; training
    ends early after :data:`PATIENCE` epochs that were no better.

    An interrupted training that is started again with the same arguments goes on after its last finished epoch, and
    ends as if it had not been interrupted, bit for bit on the same machine with as many threads.

    Args:
        checkpoint: where to keep what goes on; not kept by default.
        identity: of everything the training depends on; a checkpoint of another one is not gone on with.
        progress: called with (epochs done, epochs in all).

    Raises:
        HwsmpqError: the training diverged, the device is not there, or the checkpoint cannot be read.
    """
    check_device(device)
    network.to(device)
    optimizer = torch.optim.SGD(
        [
            {"params": parameters, "rate": RATES[kind], "weight_decay": WEIGHT_DECAY if kind == "weights" else 0.0}
            for kind, parameters in network.parameter_groups()
        ],
        lr=recipe.learning_rate, momentum=MOMENTUM,
    )
    losses: list[float] = []
    judged: list[float] = []
    best: dict[str, Tensor] = {}

    def restore(state: dict[str, Any]) -> None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        losses.extend(state["losses"])
        judged.extend(state["judged"])
        best.update(state["best"])

    def judge() -> None:
        """Keep the network where held-out samples say that it is the best so far."""
        if held_out is not None:
            judged.append(_mean(network, held_out, objective, recipe.batch_size, device))
            if judged[-1] <= min(judged):
                best.update({name: x.detach().cpu().clone() for name, x in network.state_dict().items()})

    go_on(checkpoint, identity, restore)
    if not judged:
        judge()
    n_batches = math.ceil(len(samples) / recipe.batch_size)
    for epoch in range(len(losses), recipe.n_epochs):
        if judged and len(judged) - 1 - judged.index(min(judged)) >= PATIENCE:
            break
        if progress:
            progress(epoch, recipe.n_epochs)
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed((recipe.seed << 20) + epoch))
        total = 0.0
        for n_done, index in enumerate(order.split(recipe.batch_size)):
            share = (epoch * n_batches + n_done) / (recipe.n_epochs * n_batches)
            _step(optimizer, recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share)))
            batch = _placed(samples.take(index), device)
            loss = objective(network(*batch.inputs), batch)
            if not bool(torch.isfinite(loss)):
                raise HwsmpqError(
                    f"the training diverged in epoch {epoch + 1}", "its objective is no longer finite",
                    "lower the learning rate, or raise the floor of the ladder and search again",
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            network.constrain()
            total += float(loss.detach()) * len(index)
        losses.append(total / len(samples))
        judge()
        if checkpoint is not None:
            store(checkpoint, identity, {
                "losses": losses, "network": network.state_dict(), "optimizer": optimizer.state_dict(),
                "judged": judged, "best": best,
            })
    if progress:
        progress(recipe.n_epochs, recipe.n_epochs)
    network.to("cpu")
    if best:
        network.load_state_dict(best)
    return Course(tuple(losses), tuple(judged))


@torch.no_grad()
def _mean(network: QuantizedNetwork, samples: Samples, objective: Objective, batch_size: int, device: str) -> float:
    """The mean objective over samples."""
    total = 0.0
    for index in torch.arange(len(samples)).split(batch_size):
        batch = _placed(samples.take(index), device)
        total += float(objective(network(*batch.inputs), batch)) * len(index)
    return total / len(samples)


def _placed(taken: Samples, device: str) -> Samples:
    return Samples(tuple(x[:].to(device) for x in taken.inputs), taken.targets[:].to(device))


def _step(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]
