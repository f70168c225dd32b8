"""Sensitivity from curvature: average Hessian trace times squared weight error (HAWQ-V2, arXiv 1911.03852)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hwsmpq.contribution.table import Table, sampled
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.agreement import tensors_of
from hwsmpq.model.outputs import pack
from hwsmpq.model.runner import GraphRunner
from hwsmpq.model.tensors import get_tensor
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.sensitivity.request import Request, contributions
from hwsmpq.types import Layer

N_PRODUCTS = 12


@torch.enable_grad()
def hessian(request: Request, n_products: int = N_PRODUCTS) -> Table:
    """Half the reduction of (trace of the Hessian / number of weights) * ||Q(W) - W||^2 over the floor.

    The Hessian is that of the mean loss in the weights of one layer. Traces come from Hutchinson's estimator with
    Rademacher vectors drawn for all layers together; standard errors are over them. Activations play no part, so that
    precisions of equal weight bits tie, as do all of products of activations.

    Cost in evaluations: one forward and one backward pass, two passes a product, and both ends of the ladder.

    Raises:
        HwsmpqError: fewer than two products, or the task's loss has no gradient.
    """
    if n_products < 2:
        raise HwsmpqError(f"{n_products} Hessian product(s) give no standard error", fix="use 2 or more")
    network = request.captured.network
    traces = traces_of_layers(request, n_products)
    scores = np.zeros((n_products, len(network.groups), len(request.ladder.names)))
    for name, samples in traces.items():
        layer = next(layer for layer in network.weighted if layer.weight_name == name)
        group = network.group_names.index(network.group_of(layer.name))
        average = samples / get_tensor(request.captured.graph, name).numel()
        scores[:, group] += average[:, None] * _squared_errors(request, layer)
    return sampled("hessian", "probes", contributions(scores), request.ends(), 2 + 2 * n_products + 2)


def traces_of_layers(request: Request, n_products: int) -> dict[str, NDArray[np.float64]]:
    """Samples (n_products,) of the trace of each weight's Hessian block, by name of the weight."""
    names = list(dict.fromkeys(layer.weight_name for layer in request.captured.network.weighted))
    loss, n = request.loss(), len(request.samples)
    totals = np.zeros((n_products, len(names)))
    for rows, inputs in request.batches():
        leaves = {name: get_tensor(request.captured.graph, name).detach().requires_grad_() for name in names}
        runner, weights = GraphRunner(request.captured.graph, tensors=leaves), list(leaves.values())
        # The fused attention kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            outputs = pack(tensors_of(runner.run(*inputs)))
            gradients = torch.autograd.grad(
                loss(outputs, rows).sum() / n, weights, create_graph=True, materialize_grads=True
            )
        for product in range(n_products):
            vectors = _rademacher(weights, (request.seed << 32) + product)
            dot = sum((g * v).sum() for g, v in zip(gradients, vectors, strict=True))
            assert isinstance(dot, Tensor)
            if not dot.requires_grad:
                continue  # the loss is linear in the weights
            products = torch.autograd.grad(dot, weights, retain_graph=True, materialize_grads=True)
            totals[product] += [float((v * h).sum()) for v, h in zip(vectors, products, strict=True)]
    return {name: totals[:, i] for i, name in enumerate(names)}


def _rademacher(weights: list[Tensor], seed: int) -> list[Tensor]:
    """The same vectors for every batch of samples."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 2, w.shape, generator=generator).to(w.dtype).mul_(2).sub_(1) for w in weights]


def _squared_errors(request: Request, layer: Layer) -> NDArray[np.float64]:
    """||Q(W) - W||^2 at every precision of the ladder, (n_levels,)."""
    weight = request.captured.weight_of(layer)
    changes = [
        QuantizedLayer.of(layer, precision, request.ranges, request.scheme).weight_change(weight)
        for precision in request.precisions_of(layer)
    ]
    return np.array([float(change.double().square().sum()) for change in changes])
