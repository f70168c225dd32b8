"""Look at tensors of the network while samples run through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from hwsmpq.model.capture import Captured
from hwsmpq.model.runner import GraphRunner
from hwsmpq.quantize.heap import keep_freed_memory
from hwsmpq.quantize.layer import channels_last

See = Callable[[Tensor], None]


def watch(
    captured: Captured, inputs: tuple[Tensor, ...], batch_size: int, see: Mapping[str, Sequence[See]],
    progress: Callable[[int], None],
) -> None:
    """Run samples through the network, in batches where it takes them, and show some of its tensors to those who want
    to see them. Images are in channels_last, which takes .7 of the CPU time on EfficientNet-Lite0.

    Args:
        inputs: samples, (n, ...) an argument of the model.
        see: what looks at a tensor, by its name; called with every batch of it.
        progress: called with the samples done.
    """

    def show(node: fx.Node, args: tuple[object, ...], result: object) -> None:
        for one in see.get(node.name, ()):
            assert isinstance(result, Tensor)
            one(result)

    keep_freed_memory()
    runner, n = GraphRunner(captured.graph, show), len(inputs[0])
    batch_size = captured.at_once(batch_size)
    with torch.inference_mode():
        for start in range(0, n, batch_size):
            runner.run(*(channels_last(x[start : start + batch_size]) for x in inputs))
            progress(min(start + batch_size, n))
