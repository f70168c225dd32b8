"""Weights alone in integers, rounded one input after the other, each making good what the ones before it cost.

GPTQ (Frantar, Ashkboos, Hoefler and Alistarh 2023, arXiv 2210.17323): what rounding an input's weights adds to the
squared error of a linear layer's outputs is taken back by the weights of the inputs that are still to come, as second
moments of the inputs say. Inputs are those that factors have divided (:mod:`hwsmpq.quantize.smooth`), and come in the
order of their size. One pass over the samples and no gradients: where activations are not quantized, there is nothing
else to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hwsmpq.model.tensors import get_tensor
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.train.blocks import Block
from hwsmpq.train.network import QuantizedNetwork
from hwsmpq.train.propagate import Propagation

DAMPING = 0.01
"""Of the mean second moment: added to each, as in the paper."""
TOGETHER = 128
"""Inputs whose updates reach the others in one product."""


@torch.no_grad()
def compensate(network: QuantizedNetwork, block: Block, samples: Propagation) -> list[Callable[[], None]]:
    """Round the weights of the linear layers of a block that are alone in integers; their scales stay as they are.

    Returns:
        What undoes it; nothing where there is no such layer.
    """
    undo: list[Callable[[], None]] = []
    for node, one in network.weight_only_layers(block).items():
        weight = get_tensor(network.graph, one.layer.weight_name)
        stored = one.stored_weight(weight)
        undo.append(partial(_restore, one, weight, weight.clone(), one.weight_scales))
        scales, axis = stored.spread().expand_as(weight), one.layer.channel_axis
        rows = [x.movedim(axis, 0) for x in (one.smoothed(weight), scales)]
        moments = samples.moments(block, node, one.input)
        found = round_compensated(rows[0], moments, rows[1], one.weight_levels)
        weight.copy_(one.unsmoothed(found.movedim(0, axis) * scales))
        one.weight_scales = tuple(stored.scales.flatten().tolist())
    return undo


@torch.no_grad()
def _restore(layer: QuantizedLayer, weight: Tensor, before: Tensor, scales: tuple[float, ...] | None) -> None:
    layer.weight_scales = scales
    weight.copy_(before)


def round_compensated(weight: Tensor, moments: Tensor, scales: Tensor, levels: int) -> Tensor:
    """Integers of a weight that minimise the squared error of its outputs, one input after the other.

    Args:
        weight: (n_outputs, n_inputs).
        moments: sum over samples of x x^T, (n_inputs, n_inputs).
        scales: of each entry, in the shape of the weight.
        levels: the largest integer; the least is its negative.
    """
    moments = moments.double()
    mean = moments.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    moments = moments + DAMPING * mean * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    order = moments.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments[order][:, order]))
    share = torch.linalg.cholesky(inverse, upper=True).float()
    left, scales = weight[:, order].clone(), scales[:, order]
    found = torch.empty_like(left)
    for start in range(0, left.shape[1], TOGETHER):
        some = slice(start, min(start + TOGETHER, left.shape[1]))
        errors = torch.zeros_like(left[:, some])
        for i in range(some.start, some.stop):
            found[:, i] = (left[:, i] / scales[:, i]).round().clamp(-levels, levels)
            error = (left[:, i] - found[:, i] * scales[:, i]) / share[i, i]
            left[:, i : some.stop] -= error[:, None] * share[i, i : some.stop]
            errors[:, i - start] = error
        left[:, some.stop :] -= errors @ share[some, some.stop :]
    return found[:, order.argsort()]
