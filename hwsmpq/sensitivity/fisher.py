"""Sensitivity from gradients: the empirical Fisher information in the direction of the quantization error.

The quadratic form is that of Fisher pruning (Theis et al. 2018, arXiv 1801.05787) and of block-wise reconstruction
(Li et al. 2021, BRECQ, arXiv 2102.05426), taken at the outputs of layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from hwsmpq.contribution.table import Table, sampled
from hwsmpq.model.agreement import tensors_of
from hwsmpq.model.outputs import pack
from hwsmpq.model.runner import GraphRunner
from hwsmpq.quantize.layer import QuantizedLayers
from hwsmpq.sensitivity.request import Request, contributions
from hwsmpq.types import REFERENCE


@torch.enable_grad()
def fisher(request: Request) -> Table:
    """Half the reduction of the squared directional derivative that a precision brings over the floor.

    score(g, b) = mean over samples of (sum over the outputs of the group's layers of dL/dy * delta_y)^2, where delta_y
    is the output with input and weight at b minus the output in fp32, both at the inputs of the fp32 network. Standard
    errors are over samples.

    Cost in evaluations: one forward and one backward pass, one pass over all layers a quantized precision, and both
    ends of the ladder.

    Raises:
        HwsmpqError: the task's loss has no gradient.
    """
    network, ladder = request.captured.network, request.ladder
    layers = QuantizedLayers(request.ranges, request.scheme)
    loss = request.loss()
    draws = np.zeros((len(request.samples), len(network.groups), len(ladder.names)))
    for rows, inputs in request.batches():
        recorder = _Recorder(request)
        runner = GraphRunner(request.captured.graph, recorder.see)
        outputs = pack(tensors_of(runner.run(*inputs)))
        gradients = torch.autograd.grad(loss(outputs, rows).sum(), recorder.outputs, allow_unused=True)
        with torch.no_grad():
            draws[rows] = _squared_derivatives(request, layers, recorder, gradients, len(inputs[0]))
    n_quantized = sum(name != REFERENCE for name in ladder.names)
    return sampled("fisher", "samples", contributions(draws), request.ends(), 2 + n_quantized + 2)


class _Recorder:
    """Keeps operands and output of every layer."""

    def __init__(self, request: Request) -> None:
        self._layers = set(request.captured.layer_nodes.values())
        self.nodes: list[fx.Node] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.outputs: list[Tensor] = []

    def see(self, node: fx.Node, args: tuple[Any, ...], y: Any) -> None:
        if node not in self._layers:
            return
        if not y.requires_grad:
            y.requires_grad_()  # a first layer whose weights are frozen
        self.nodes.append(node)
        self.arguments.append(args)
        self.outputs.append(y)


def _squared_derivatives(
    request: Request, layers: QuantizedLayers, recorder: _Recorder, gradients: tuple[Tensor | None, ...], n: int
) -> NDArray[np.float64]:
    """(n_samples, n_groups, n_levels)."""
    network, ladder = request.captured.network, request.ladder
    layer_of = {request.captured.layer_nodes[layer.name]: layer for layer in network.layers}
    derivative = torch.zeros(n, len(network.groups), len(ladder.names), dtype=torch.float64)
    for node, args, y, gradient in zip(recorder.nodes, recorder.arguments, recorder.outputs, gradients, strict=True):
        if gradient is None:
            continue
        layer = layer_of[node]
        group = network.group_names.index(network.group_of(layer.name))
        for level, precision in enumerate(request.precisions_of(layer)):
            if precision.name == REFERENCE:
                continue
            quantized = layers.at(layer, precision)
            change = quantized.result(node.target, quantized.inputs(args), args, node.kwargs) - y  # type: ignore[arg-type]
            # A network may put several rows a sample through a layer.
            derivative[:, group, level] += (gradient * change).reshape(n, -1).sum(1, dtype=torch.float64)
    return derivative.square().numpy()
