"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task
from hwsmpq.model.values import value_function
from hwsmpq.train.fit import Objective
from hwsmpq.train.network import QuantizedNetwork


def negative_value(name: str, task: Task, reference: QuantizedNetwork) -> Objective:
    """The negative mean of a value function; what it asks of the unquantized network, ``reference`` answers."""

    def minimised(outputs: Tensor, batch: Samples) -> Tensor:
        def answers() -> Tensor:
            with torch.no_grad():
                found: Tensor = reference(*batch.inputs)
            return found

        return -value_function(name, task, batch, answers)(outputs, slice(0, len(batch))).mean()

    return minimised
