"""Value functions: what an assignment is worth on each sample of a fixed batch (higher is better)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.metrics import SetMetric, pseudo_values
from hwsmpq.model.parts import Samples
from hwsmpq.model.shapes import Rows
from hwsmpq.model.task import Task

VALUES = ("soft", "loss", "metric", "kl", "mse")


class Value(Protocol):
    """(outputs of some rows, those rows) -> values, shape (n_rows,)."""

    def __call__(self, outputs: Tensor, rows: Rows) -> Tensor: ...


def kl_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(outputs)) in nats over dimension 1, shape (n,)."""
    p, q = reference.log_softmax(1), outputs.log_softmax(1)
    return (p.exp() * (p - q)).flatten(1).sum(1)


def mean_squared_distance(reference: Tensor, outputs: Tensor) -> Tensor:
    """Mean over all output elements of the squared difference, shape (n,)."""
    return (outputs - reference).square().reshape(len(outputs), -1).mean(1)


def outputs_kl(task: Task, reference: Tensor, outputs: Tensor) -> Tensor:
    """The KL divergences of all outputs that the task compares, by their weights, shape (n,).

    Raises:
        HwsmpqError: none of them has classes in dimension 1.
    """
    pairs = zip(task.compared(reference, True), task.compared(outputs, True), strict=True)
    return torch.stack([weight * kl_divergence(p.float(), q.float()) for (weight, p), (_, q) in pairs]).sum(0)


def outputs_distance(task: Task, reference: Tensor, outputs: Tensor) -> Tensor:
    """The mean squared distances of all outputs that the task compares, by their weights, shape (n,)."""
    pairs = zip(task.compared(reference), task.compared(outputs), strict=True)
    return torch.stack([weight * mean_squared_distance(x, y) for (weight, x), (_, y) in pairs]).sum(0)


def value_function(name: str, task: Task, samples: Samples, reference: Callable[[], Tensor]) -> Value:
    """The value function by name.

    Args:
        name: ``loss`` (negative loss of the task), ``metric``, ``kl`` (negative KL to the reference outputs) or ``mse``
            (negative mean squared distance to them, for outputs without classes); the last two need no labels, and
            add up over all outputs that the task compares.
            ``soft`` is the mean of ``loss`` and ``kl``: half of every label's weight goes to what the reference
            answers, which is less noisy than the label and, unlike ``kl`` alone, still knows what is right.
        reference: gives the outputs of the reference network for all of ``samples``; called only if needed.

    Raises:
        HwsmpqError: no such value function, or ``kl`` for outputs without classes.
    """
    if name not in VALUES:
        raise HwsmpqError(f"unknown value function {name!r}", fix=f"one of {', '.join(VALUES)}")
    targets = samples.targets
    if name == "soft":
        loss, kl = (value_function(part, task, samples, reference) for part in ("loss", "kl"))
        return lambda outputs, rows: (loss(outputs, rows) + kl(outputs, rows)) / 2
    if name in ("kl", "mse"):
        distance = outputs_kl if name == "kl" else outputs_distance
        if name == "kl" and not task.is_classification:
            raise HwsmpqError(
                "the value kl cannot judge this task", "its outputs are not taken for logits of classes",
                "take the value loss, metric or mse, or give the task classification=True",
            )
        expected = reference()
        task.compared(expected, with_classes=name == "kl")  # refuses now what it would refuse later
        return lambda outputs, rows: -distance(task, expected[rows].to(outputs.device), outputs)
    if name == "metric":
        if isinstance(task.metric, SetMetric):
            raise HwsmpqError(
                "the value metric cannot judge this task", "its metric is one of a whole set, and scores no sample",
                "take the value loss, kl or mse",
            )
        return lambda outputs, rows: per_sample(task.metric, outputs, targets[rows].to(outputs.device), "metric")
    return lambda outputs, rows: -per_sample(task.loss, outputs, targets[rows].to(outputs.device), "loss")


def per_sample(function: Any, outputs: Tensor, targets: Tensor, role: str) -> Tensor:
    """Apply a user's metric or loss and check that it gives one number a sample. A metric over a set of samples gives
    numbers whose mean is that of all of these; see :func:`hwsmpq.model.metrics.pseudo_values`."""
    if isinstance(function, SetMetric):
        return pseudo_values(function, function.reduce(outputs, targets))
    try:
        result = function(outputs, targets)
    except IndexError as error:
        label = re.search(r"Target (-?\d+) is out of bounds", str(error))
        if label is None:
            raise
        raise HwsmpqError(
            f"the task's {role} refuses the label {label[1]}", f"the network gives outputs of {tuple(outputs.shape)}",
            "correct the labels; or leave that one out, if it stands for none:"
            f" cross_entropy(outputs, targets, ignore_index={label[1]}, reduction='none') in {role}=",
        ) from error
    if not isinstance(result, torch.Tensor) or result.shape != (len(targets),):
        found = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise HwsmpqError(
            f"the task's {role} gave {found} for {len(targets)} samples",
            "it must give one number a sample, so that paired errors can be stated",
            f"return a tensor of shape (n,) from {role}="
            + ", or give an object with update, compute and reset for a metric of the whole set" * (role == "metric"),
        )
    return result.float()
