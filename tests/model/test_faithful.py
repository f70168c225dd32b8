"""What is captured is the network: random or batch-dependent outputs and wrong graphs are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq.errors import HwsmpqError
from hwsmpq.model import capture as capturing
from hwsmpq.model.capture import capture
from hwsmpq.model.faithful import check_faithful


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.between, self.b = nn.Linear(16, 32), between, nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))


class Dropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=True)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class AcrossTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Counter(nn.Module):
    """Keeps state from call to call, in a Python number that an export sees once; it has to be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.n = 0.5
        return (x + self.n).abs()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (Dropout(), r"(?s)other outputs every time.*%.*dropout.* in between"),
        (Noise(), r"(?s)other outputs every time.*%.*randn_like.* in between"),
        (AcrossTheBatch(), r"(?s)depends on the other samples.*%.*in between"),
        (nn.BatchNorm1d(32, track_running_stats=False), "not on one alone"),
        (Counter(), r"not the network: its outputs differ by [\d.]+%"),
    ],
)
def test_is_refused_by_name(between: nn.Module, message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        capture(Net(between), (torch.randn(4, 16),))


def test_batch_norm_without_running_statistics_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(HwsmpqError, match=r"(?s)depends on the other samples.*batch_norm.* in 2"):
        capture(model, (torch.randn(4, 3, 8, 8),))


def test_a_wrong_fold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fold_wrongly(graph: torch.fx.GraphModule) -> None:
        weight = graph.get_parameter("0.weight").detach()  # the model's own tensor
        graph.get_submodule("0").weight = nn.Parameter(1.001 * weight)

    monkeypatch.setattr(capturing, "fold_batch_norm", fold_wrongly)
    with pytest.raises(HwsmpqError, match=r"not the network: its outputs differ by 0\.\d%"):
        capture(nn.Sequential(nn.Linear(8, 8, bias=False)), (torch.randn(4, 8),))


def test_what_is_faithful_is_captured_and_left_as_it_was() -> None:
    """Also with outputs that are infinite (masked logits), and a network that amplifies rounding."""

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x < 0, -torch.inf)

    class Amplifies(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(2e3 * x)

    for between in (Masked(), Amplifies(), nn.BatchNorm1d(32)):
        model = Net(nn.Identity()) if isinstance(between, Masked) else Net(between)
        model = nn.Sequential(model, between).train() if isinstance(between, Masked) else model.train()
        state = torch.get_rng_state()
        capture(model, (torch.randn(4, 16, generator=torch.Generator().manual_seed(0)),))
        assert model.training
        assert torch.equal(torch.get_rng_state(), state)


class Squeezed(nn.Module):
    """Drops all dimensions of size 1, also that of the samples when they are one."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3), keepdim=True).squeeze()).squeeze()


@pytest.mark.parametrize("n_outputs", [1, 5])
def test_what_is_squeezed_keeps_its_samples(n_outputs: int) -> None:
    model, x = Squeezed(n_outputs).eval(), torch.randn(4, 3, 6, 6)
    graph = capture(model, (x,)).graph
    torch.testing.assert_close(graph(x), model(x))
    torch.testing.assert_close(graph(x[:1]), model(x)[:1])


def test_outputs_of_other_shapes_are_said_to_be_that() -> None:
    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(0, keepdim=True)

    graph = torch.fx.symbolic_trace(Pooled())
    with pytest.raises(HwsmpqError, match="other shapes"):
        check_faithful("it", lambda inputs: [Pooled()(*inputs)], graph, (torch.randn(3, 4),))
