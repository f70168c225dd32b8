"""Graphs that are recorded, or exported and taken out of place, against those that torch exports and decomposes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from hwsmpq.model.capture import _hash, capture
from hwsmpq.model.decompose import decomposed
from hwsmpq.model.record import recorded


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


class OfTheBatch(nn.Module):
    """Has the number of samples among its arguments."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x[:1].expand(len(x), 3, 8, 8)


class OfTheData(nn.Module):
    """Multiplies by a number that torch does not see being read."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.detach().numpy().max())


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Elsewhere(nn.Module):
    """Adds a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.added = [torch.ones(8)]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.added[0]


def _inputs(network: type[nn.Module], n: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(n, 3, 8, 8) for _ in range(2 if network is Pair else 1))


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    shapes = tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in inputs)
    return torch.export.export(model.eval(), inputs, dynamic_shapes=shapes)


def _assert_same(graphs: tuple[fx.GraphModule, fx.GraphModule], others: tuple[Tensor, ...]) -> None:
    for graph in graphs:
        for node in list(graph.graph.nodes):  # checks of shapes, which capturing leaves out
            if "assert" in str(node.target):
                graph.graph.erase_node(node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
    assert _hash(graphs[0]) == _hash(graphs[1])
    with torch.no_grad():
        first, second = (pytree.tree_leaves(graph(*(x.clone() for x in others))) for graph in graphs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("network", [Block, Tokens])
def test_a_recorded_graph_is_the_one_that_torch_exports(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = network().eval(), _inputs(network, 2)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    graph = recorded(model, inputs, ())
    assert graph is not None
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    exported = _exported(model, inputs).run_decompositions({}).module(check_guards=False)
    _assert_same((graph, exported), _inputs(network, 5))


@pytest.mark.parametrize(
    "network", [OwnMeans, ThroughView, Chunked, Flat, Pair, OfTheBatch, OfTheData, Branches, Elsewhere]
)
def test_what_needs_more_is_not_recorded(network: type[nn.Module]) -> None:
    assert recorded(network().eval(), _inputs(network, 2), ()) is None


@pytest.mark.parametrize("network", [Block, OwnMeans, ThroughView, Chunked, Flat, Pair])
def test_an_exported_graph_is_torchs_own(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, inputs = network(), _inputs(network, 2)
    graphs = (
        decomposed(_exported(model, inputs)),
        _exported(model, inputs).run_decompositions({}).module(check_guards=False),
    )
    _assert_same(graphs, _inputs(network, 5))


def test_a_recorded_network_needs_no_compiler() -> None:
    """Importing torch's takes longer than all else that captures a small network."""
    code = (
        "import sys, torch\nfrom torch import nn\nfrom hwsmpq.model.capture import capture\n"
        "capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (torch.randn(3, 3, 8, 8),))\n"
        "sys.exit(any(name in sys.modules for name in ('torch._dynamo', 'sympy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_torch_without_what_recording_stands_on_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = Block().eval(), _inputs(Block, 2)
    networks = [capture(model, inputs).network]
    monkeypatch.setitem(sys.modules, "hwsmpq.model.record", None)
    networks.append(capture(model, inputs).network)
    assert len({network.model_sha256 for network in networks}) == 1
    assert networks[0].reads[-1].tensor != networks[1].reads[-1].tensor  # a recorded graph has names of its own
