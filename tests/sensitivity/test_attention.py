"""Second derivatives through attention, whose fused kernels have none and whose plain kernel lays tensors out anew."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hwsmpq.sensitivity.hessian import traces_of_layers

from .test_sensitivity import request_of


class Attention(nn.Module):
    """Four numbers as two tokens of two; one head pair, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.head = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (2, 2))
        query, value = (f(tokens).unflatten(2, (2, 2)).transpose(1, 2) for f in (self.query, self.value))
        attended = nn.functional.scaled_dot_product_attention(query, query, value)
        return self.head(attended.transpose(1, 2).flatten(1))


def test_traces_through_attention_against_the_full_hessian() -> None:
    torch.manual_seed(0)
    request = request_of(Attention(), n=20)
    model, x, labels = request.task.model, request.samples.inputs[0], request.samples.targets
    weights = {n: p.detach() for n, p in model.named_parameters() if n.endswith("weight")}

    def loss(*values: Tensor) -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            outputs = torch.func.functional_call(model, dict(zip(weights, values, strict=True)), (x,))
        return nn.functional.cross_entropy(outputs, labels)

    full = torch.autograd.functional.hessian(loss, tuple(weights.values()))
    n_products = 400
    found = traces_of_layers(request, n_products)
    for i, (name, weight) in enumerate(weights.items()):
        exact = float(full[i][i].reshape(weight.numel(), weight.numel()).trace())
        assert abs(found[name].mean() - exact) < 4 * found[name].std(ddof=1) / np.sqrt(n_products), name
