"""The graph that is decomposed here against the one that torch decomposes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq.model.capture import _hash
from hwsmpq.model.decompose import decomposed


class Block(nn.Module):
    """In place after an addition and after a batch norm, dropout, flattening, a strided and padded shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5, inplace=True), nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu_(self.norm(self.conv(x)))
        y = y + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 1))
        y = functional.silu(y, inplace=True)
        return self.head(self.drop(torch.flatten(y, 1)))


class OwnMeans(nn.Module):
    """A batch norm of the batch's own means."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, torch.zeros(3), torch.ones(3), training=True).flatten(1)


class ThroughView(nn.Module):
    """Writes in place through a view of what is read later."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :1].relu_()
        return y.flatten(1)


class Chunked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second, third = x.chunk(3, 1)
        return (first + second * third).flatten(1)


class Flat(nn.Module):
    """Flattens what is flat, and more than what is behind the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).flatten(1).unsqueeze(1).flatten(0, 1)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))


class Pair(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).flatten(1)


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    shapes = tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in inputs)
    return torch.export.export(model.eval(), inputs, dynamic_shapes=shapes)


@pytest.mark.parametrize("network", [Block, OwnMeans, ThroughView, Chunked, Flat, Tokens, Pair])
def test_the_graph_is_torchs_own(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, n_inputs = network(), 2 if network is Pair else 1
    inputs = tuple(torch.randn(2, 3, 8, 8) for _ in range(n_inputs))
    graphs = [
        decomposed(_exported(model, inputs)),
        _exported(model, inputs).run_decompositions({}).module(check_guards=False),
    ]
    for graph in graphs:
        for node in list(graph.graph.nodes):  # checks of shapes, which capturing leaves out
            if "assert" in str(node.target):
                graph.graph.erase_node(node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
    assert _hash(graphs[0]) == _hash(graphs[1])
    others = tuple(torch.randn(5, 3, 8, 8) for _ in range(n_inputs))
    with torch.no_grad():
        assert torch.equal(graphs[0](*(x.clone() for x in others)), graphs[1](*(x.clone() for x in others)))


def test_common_operations_are_not_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(*args: object) -> None:
        raise AssertionError("torch decomposed it")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", traced)
    for network in (Block(), Tokens()):
        decomposed(_exported(network, (torch.randn(2, 3, 8, 8),)))
