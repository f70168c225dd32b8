"""A batch as data sets, loaders and users give it, taken apart into inputs and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError

LABELS = ("labels", "label", "targets", "target", "y")
"""Names of what is no input."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of all inputs and of the targets; ``names`` are those of the inputs where they have some."""

    names: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])


def parts_of(batch: Any, role: str, keep: tuple[str, ...] | None = None) -> Batch:
    """A batch as inputs by name or by place, and targets.

    Args:
        keep: of inputs alone: names that are inputs, also where they are called like labels. Others are taken out.

    Raises:
        HwsmpqError: it has no target where one is needed, or holds something else than tensors.
    """
    if keep is not None:
        return _batch(batch, role, None, keep)
    if isinstance(batch, Mapping):
        label = next((name for name in LABELS if name in batch), None)
        if label is None:
            raise HwsmpqError(
                f"the {role} data has {', '.join(map(str, batch))} and no labels",
                "every sample is judged by its label",
                f"give them under the name {LABELS[0]}, or as (inputs, labels)",
            )
        return _batch({name: x for name, x in batch.items() if name != label}, role, batch[label], tuple(batch))
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise HwsmpqError(
            f"the {role} data gives samples without labels", "every sample is judged by its label",
            f"give (inputs, labels), for example {role}=DataLoader(TensorDataset(x, y))",
        )
    *inputs, targets = batch
    if len(inputs) > 1 or not isinstance(inputs[0], Mapping):
        return _batch(inputs[0] if len(inputs) == 1 else tuple(inputs), role, targets, ())
    # Labels stand beside: of what is named, only what a tokenizer calls so is none of the model's inputs.
    return _batch(inputs[0], role, targets, tuple(name for name in inputs[0] if name != LABELS[0]))


def unlabelled(batch: Any, role: str, n_inputs: int) -> Batch:
    """A batch as inputs, of which it may hold more parts: labels."""
    if isinstance(batch, tuple | list) and batch and (len(batch) > n_inputs or isinstance(batch[0], Mapping)):
        batch = batch[0] if isinstance(batch[0], Mapping | tuple | list) else tuple(batch[:n_inputs])
    return _batch(batch, role, None, ())


def _batch(inputs: Any, role: str, targets: Any, keep: tuple[str, ...]) -> Batch:
    names: tuple[str, ...] = ()
    if isinstance(inputs, Mapping):
        inputs = {str(name): x for name, x in inputs.items() if name in keep or name not in LABELS}
        names, inputs = tuple(inputs), tuple(inputs.values())
    elif not isinstance(inputs, tuple | list):
        inputs = (inputs,)
    if not inputs:
        raise HwsmpqError(f"the {role} data is empty", fix=f"give {role} samples with n >= 1 rows")
    found = tuple(as_rows(x, f"{role} data (input {i})") for i, x in enumerate(inputs))
    return Batch(names, found, None if targets is None else as_rows(targets, f"labels of the {role} data"))


def as_rows(given: Any, what: str) -> Tensor:
    """A tensor of samples.

    Raises:
        HwsmpqError: it cannot be one.
    """
    if isinstance(given, Tensor):
        return given
    try:
        return torch.as_tensor(np.asarray(given) if isinstance(given, list | tuple | np.generic) else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HwsmpqError(
            f"the {what} is a {type(given).__name__}", str(error).partition("\n")[0][:200],
            "give a tensor or an array with one row a sample; pad what differs in length",
        ) from error
