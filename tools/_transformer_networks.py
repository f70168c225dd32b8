"""Networks of :mod:`bench_transformers`. What an engine takes does not depend on its weights; only MiniLM's are
trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _peer_networks import NETWORKS as PEER_NETWORKS
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer, vit_b_16

from hwsmpq.model.task import Task

N_CALIBRATION, N_EVALUATION = 16, 40


class DecoderBlock(nn.Module):
    """The matrix products of a decoder's block on the one row that a new token is. What attends to earlier rows has no
    weights, and is left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(self.first_norm(x)).chunk(3, dim=1)
        x = x + self.projection(value * torch.sigmoid(query * key))
        return x + self.contract(functional.gelu(self.expand(self.second_norm(x))))


def _random(model: nn.Module, *shape: int) -> Task:
    """A task of that network on random samples of a shape."""
    inputs = torch.randn(N_CALIBRATION + N_EVALUATION, *shape)
    labels = torch.zeros(N_EVALUATION, dtype=torch.long)
    return Task(model.eval(), inputs[:N_CALIBRATION], (inputs[N_CALIBRATION:], labels))


def _vit(quick: bool) -> Task:
    torch.manual_seed(0)
    model = VisionTransformer(64, 16, 4, 3, 192, 768) if quick else vit_b_16(weights=None)
    nn.init.normal_(model.heads.head.weight, std=0.02)  # zeros without training: every output would be one
    return _random(model, 3, model.image_size, model.image_size)


def _decoder(quick: bool) -> Task:
    torch.manual_seed(0)
    width, n_blocks = (256, 2) if quick else (1024, 6)
    return _random(nn.Sequential(*(DecoderBlock(width) for _ in range(n_blocks))), width)


NETWORKS: dict[str, Callable[[bool], Task]] = {
    "minilm": PEER_NETWORKS["minilm"].load, "vit": _vit, "decoder": _decoder,
}
"""Name -> task, smaller for a quick run: 64 rows an inference, 197, and 1."""
