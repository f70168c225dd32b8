"""Look at tensors of the network while samples run through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from hwsmpq.model.capture import Captured

See = Callable[[Tensor], None]


class _Watcher(fx.Interpreter):
    def __init__(self, captured: Captured, see: Mapping[str, Sequence[See]]) -> None:
        super().__init__(captured.graph)
        self._see = see

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        for see in self._see.get(n.name, ()):
            assert isinstance(result, Tensor)
            see(result)
        return result


def watch(
    captured: Captured, inputs: tuple[Tensor, ...], batch_size: int, see: Mapping[str, Sequence[See]],
    progress: Callable[[int], None],
) -> None:
    """Run samples through the network in batches, and show some of its tensors to those who want to see them.

    Args:
        inputs: samples, (n, ...) an argument of the model.
        see: what looks at a tensor, by its name; called with every batch of it.
        progress: called with the samples done.
    """
    watcher, n = _Watcher(captured, see), len(inputs[0])
    with torch.inference_mode():
        for start in range(0, n, batch_size):
            watcher.run(*(x[start : start + batch_size] for x in inputs))
            progress(min(start + batch_size, n))
