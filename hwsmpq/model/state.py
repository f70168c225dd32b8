"""What modules keep in attributes from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

REGISTERED = ("_parameters", "_buffers", "_modules")


class State:
    """The attributes of every module of a model at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._attributes = {
            module: dict(vars(module)) | {name: dict(vars(module)[name]) for name in REGISTERED}
            for module in model.modules()
        }

    def restore(self) -> None:
        """Give the modules these attributes again."""
        for module, attributes in self._attributes.items():
            vars(module).clear()
            vars(module).update(attributes | {name: dict(attributes[name]) for name in REGISTERED})

    def changed(self) -> list[tuple[nn.Module, str]]:
        """Modules and the attributes that are others now."""
        return [
            (module, name)
            for module, attributes in self._attributes.items() for name, value in vars(module).items()
            if name not in REGISTERED and not _same(attributes.get(name), value)
        ]

    def forget(self, caches: list[tuple[nn.Module, str]]) -> None:
        """Leave out attributes of objects that their classes have too, as modules are before their first call: what a
        call changes is what calls keep (ultralytics' anchors, for one batch size)."""
        for module, name in caches:
            if hasattr(type(module), name):
                self._attributes[module].pop(name, None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[State]:
    """The model in eval mode; afterwards the attributes of all its modules are as they were before. Gives these as they
    are in eval mode."""
    before = State(model)
    try:
        model.eval()
        yield State(model)
    finally:
        before.restore()


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, int | float | str | torch.Size) and type(a) is type(b) and a == b)
