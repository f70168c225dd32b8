"""Samples on their way through two networks, block by block: the network as it is, and its quantized form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.quantize.layer import channels_last
from hwsmpq.train.blocks import Block
from hwsmpq.train.network import QuantizedNetwork
from hwsmpq.train.rounding import mixed

RUN_TOGETHER = 32
"""Samples, where nothing is learned."""


class Propagation:
    """What the current block reads in both networks, and what it is to give.

    Args:
        captured: the network as it is.
        inputs: (n, ...) an argument of the network.
        share_held_out: of the samples (the last ones), which only :meth:`error` sees.
    """

    def __init__(
        self, network: QuantizedNetwork, captured: Captured, inputs: tuple[Tensor, ...], share_held_out: float,
        device: str,
    ) -> None:
        self._network, self._graph, self._device = network, captured.graph, device
        self._names = [node.name for node in network.graph.graph.nodes if node.op == "placeholder"]
        self._inputs = inputs
        self._n = len(inputs[0])
        self._n_learned = self._n - max(round(share_held_out * self._n), 1)
        self._plain: Tensor | None = None
        self._quantized: Tensor | None = None
        self._targets: tuple[Tensor, ...] = ()
        self._scales: tuple[float, ...] = ()

    def enter(self, block: Block) -> None:
        """Compute what a block gives in the network as it is."""
        graph = self._graph.to(self._device)
        self._targets = self._collected(block, self._plain, slice(0, self._n), lambda env: block.run(graph, env))
        self._check_order(block, lambda env: block.run(graph, env))
        self._scales = tuple(1 / max(float(target.var()), 1e-30) for target in self._targets)
        graph.to("cpu")

    def leave(self, block: Block) -> None:
        """Go on to what the block gives now in either network."""
        self._quantized = self._outputs(block, slice(0, self._n))[0]
        self._plain = self._targets[0]

    def error(self, block: Block) -> float:
        """Mean squared error on the samples held out, relative to the variance of the outputs."""
        held_out = slice(self._n_learned, self._n)
        return float(self._error(self._outputs(block, held_out), held_out))

    def loss(self, block: Block, batch_size: int, drop: float) -> Tensor:
        """The same on samples drawn from the others, whose inputs are those of the unquantized network at random."""
        rows = torch.randperm(self._n_learned)[:batch_size]
        env = self._env(block, rows, self._quantized)
        if block.source is not None:
            plain = self._env(block, rows, self._plain)[block.source.name]
            env[block.source.name] = mixed(env[block.source.name], plain, drop)
        return self._error(self._network.run(block, env), rows)

    def moments(self, block: Block, layer: fx.Node, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum of x x^T over what a linear layer reads of the samples that are learned from, (n_inputs, n_inputs).

        Args:
            read: the input as the layer has it, of the tensor in full precision.
        """
        found: list[Tensor] = []

        def see(node: fx.Node, args: tuple[Any, ...]) -> None:
            if node is layer:
                x = read(args[0]).flatten(0, -2)
                found[:] = [x.T @ x + sum(found)]

        rows = slice(0, self._n_learned)
        self._collected(block, self._quantized, rows, lambda env: self._network.run(block, env, see))
        return found[0]

    def _error(self, outputs: tuple[Tensor, ...], rows: slice | Tensor) -> Tensor:
        errors = [
            (out - self._of(target, rows).to(out.device)).square().mean() * scale
            for out, target, scale in zip(outputs, self._targets, self._scales, strict=True)
        ]
        return torch.stack(errors).sum()

    def _outputs(self, block: Block, rows: slice) -> tuple[Tensor, ...]:
        return self._collected(block, self._quantized, rows, lambda env: self._network.run(block, env))

    def _env(self, block: Block, rows: slice | Tensor, source: Tensor | None) -> dict[str, Any]:
        read = {node.name for one in block.nodes for node in one.all_input_nodes}
        env = {n: self._placed(x[rows]) for n, x in zip(self._names, self._inputs, strict=True) if n in read}
        if block.source is not None:
            assert source is not None
            env[block.source.name] = self._placed(self._of(source, rows))
        return env

    def _of(self, x: Tensor, rows: slice | Tensor) -> Tensor:
        """What of a tensor belongs to samples, of which each has as many rows in it."""
        return x[rows] if len(x) == self._n else x.unflatten(0, (self._n, -1))[rows].flatten(0, 1)

    def _check_order(self, block: Block, run: Callable[[dict[str, Any]], tuple[Tensor, ...]]) -> None:
        """Raises:
            HwsmpqError: samples have several rows in what the block gives, and these do not lie one after the other.
        """
        if all(len(target) == self._n for target in self._targets):
            return
        rows = torch.tensor([self._n - 1, 0])
        with torch.no_grad():
            again = run(self._env(block, rows, self._plain))
        for y, target in zip(again, self._targets, strict=True):
            expected = self._of(target, rows) if len(target) % self._n == 0 else target
            near = 1e-2 * float(y.std())
            if expected.shape != y.shape or not torch.allclose(y.cpu(), expected, rtol=1e-2, atol=near):
                raise HwsmpqError(
                    f"samples cannot be told apart in {block.outputs[0].name}",
                    "their rows do not lie one sample after the other in it",
                    "have the network flatten samples with x.flatten(0, 1)",
                )

    def _placed(self, x: Tensor) -> Tensor:
        return channels_last(x.to(self._device))

    @torch.no_grad()
    def _collected(
        self, block: Block, source: Tensor | None, rows: slice, run: Callable[[dict[str, Any]], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Outputs, on the CPU, of samples that run in small batches."""
        starts = range(rows.start, rows.stop, RUN_TOGETHER)
        batches = [slice(start, min(start + RUN_TOGETHER, rows.stop)) for start in starts]
        parts = [run(self._env(block, batch, source)) for batch in batches]
        return tuple(torch.cat([y.cpu() for y in column]) for column in zip(*parts, strict=True))
