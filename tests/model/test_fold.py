"""Batch norm folded against the original network: the float outputs must not move."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.fold import BATCH_NORM

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def randomise_norms(model: nn.Module) -> nn.Module:
    """Statistics far from the identity, so that a fold left out or done twice shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, NORMS):
                assert norm.running_mean is not None and norm.running_var is not None
                norm.running_mean.normal_(0, 0.5, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5, generator=generator)
                    norm.bias.normal_(0, 0.5, generator=generator)
    return model.eval()


def captured_equals(model: nn.Module, *shape: int, n: int = 3) -> Captured:
    """Capture and compare with the original on a batch size other than the exported one."""
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    captured = capture(model, (x,))
    with torch.no_grad():
        expected, found = model(x), captured.graph(x)
    error = float((found - expected).norm() / expected.norm())
    assert error < 2e-5, error
    return captured


def n_norms(captured: Captured) -> int:
    return sum(n.target is BATCH_NORM for n in captured.graph.graph.nodes)


@pytest.mark.parametrize(
    ("name", "n_layers"), [("resnet18", 21), ("mobilenet_v2", 53), ("shufflenet_v2_x0_5", 57)]
)
def test_networks_fold_completely(name: str, n_layers: int) -> None:
    torch.manual_seed(0)
    model = randomise_norms(models.get_model(name, num_classes=10))
    captured = captured_equals(model, 3, 32, 32)
    assert n_norms(captured) == 0
    owners = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {layer.name for layer in captured.network.layers} == owners
    assert len(owners) == n_layers


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), (3, 9)),
        (nn.Conv2d(4, 6, 3, groups=2, padding="same"), nn.BatchNorm2d(6), (4, 7, 7)),
        (nn.Conv3d(2, 6, 3, padding="same", bias=False), nn.BatchNorm3d(6), (2, 4, 4, 4)),
        (nn.ConvTranspose2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), (3, 5, 5)),
        (nn.ConvTranspose2d(3, 6, 3, stride=2), nn.BatchNorm2d(6, affine=False), (3, 5, 5)),
        (nn.Linear(5, 6), nn.BatchNorm1d(6), (5,)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_every_kind_folds(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    captured = captured_equals(randomise_norms(nn.Sequential(layer, norm, nn.ReLU())), *shape)
    assert n_norms(captured) == 0
    (found,) = captured.network.layers
    assert found.n_biases == 6
    assert captured.network.n_other_params == 0


class Shared(nn.Module):
    """Two 3x3 convolutions with a batch norm each; subclasses say what they share and how they are wired."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_b(self.b(self.norm_a(self.a(x)).relu()))


class SharedBias(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.b.bias = self.a.bias


class SharedBiasReversed(SharedBias):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm_a(self.a(self.norm_b(self.b(x)).relu()))


class SharedBiasOneNorm(SharedBias):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.norm_b(self.b(x)).relu())


class SharedWeight(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = self.a.weight


class CalledTwice(Shared):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm_b(self.a(self.norm_a(self.a(x)).relu()))


class ReadTwice(Shared):
    """The convolution's own output is read beside its batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(self.norm_a(y).relu() + y)


class NormFirst(Shared):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm_a(x))


class TwoWeightsOneOwner(nn.Module):
    """Weights that are plain parameters of one module, which also has an unrelated ``bias``."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.randn(4, 4, 3, 3))
        self.bias = nn.Parameter(torch.randn(4, 1, 1))
        self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_a(torch.conv2d(x, self.w1)).relu()
        return self.norm_b(torch.conv2d(y, self.w2)) + self.bias


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (SharedBias, 0),
        (SharedBiasReversed, 0),
        (SharedBiasOneNorm, 0),
        (TwoWeightsOneOwner, 0),
        (SharedWeight, 2),
        (CalledTwice, 2),
        (ReadTwice, 1),
        (NormFirst, 1),
    ],
)
def test_sharing_is_respected(model: type[nn.Module], kept: int) -> None:
    torch.manual_seed(0)
    assert n_norms(captured_equals(randomise_norms(model()), 4, 8, 8)) == kept


def test_a_computed_gamma_folds_and_one_of_the_data_stays() -> None:
    class Computed(Shared):
        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm_a
            return nn.functional.batch_norm(
                self.a(x), norm.running_mean, norm.running_var, norm.weight.abs() + 0.1, norm.bias
            )

    class OfData(Shared):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * x.amax((2, 3), keepdim=True)

    assert operations(captured_equals(randomise_norms(Computed()), 4, 8, 8)) == {"conv2d"}
    assert operations(captured_equals(randomise_norms(OfData()), 4, 8, 8)) == {"conv2d", "amax", "mul"}


class TokenNorm(nn.Module):
    """A linear layer over the last axis, a batch norm over axis 1."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(length, length), nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x)).flatten(1)


@pytest.mark.parametrize(("channels", "length"), [(6, 6), (4, 6)])
def test_a_norm_along_another_axis_stays(channels: int, length: int) -> None:
    assert n_norms(captured_equals(randomise_norms(TokenNorm(channels, length)), channels, length)) == 1


def test_grouped_transposed_convolutions_fold() -> None:
    up = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    captured = captured_equals(randomise_norms(nn.Sequential(up, nn.BatchNorm2d(6), nn.ReLU())), 4, 5, 5)
    assert n_norms(captured) == 0


class Twice(nn.Module):
    """One convolution whose result two batch norms read, or which runs twice with a batch norm each."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again, self.conv = again, nn.Conv2d(3, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.first(y).relu() - self.second(self.conv(x + 1) if self.again else y)


@pytest.mark.parametrize("again", [False, True])
def test_a_convolution_under_several_norms_stays_as_it_is(again: bool) -> None:
    assert n_norms(captured_equals(randomise_norms(Twice(again)), 3, 6, 6)) == 2


class Arithmetic(nn.Module):
    """A batch norm as arithmetic on one constant a channel, then a scale of the branch."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.layer = layer
        for name in ("mean", "variance", "weight", "bias", "gamma"):
            self.register_buffer(name, torch.rand(shape, generator=generator) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = (self.layer(x) - self.mean) / (self.variance + 1e-5).sqrt() * self.weight + self.bias
        return self.gamma * y


def operations(captured: Captured) -> set[str]:
    return {str(n.target).split(".")[1] for n in captured.graph.graph.nodes if n.op == "call_function"}


def test_a_frozen_batch_norm_folds() -> None:
    norm = FrozenBatchNorm2d(6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_(0, 0.5)
    captured = captured_equals(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm, nn.ReLU()), 3, 6, 6)
    assert operations(captured) == {"conv2d", "relu"} and captured.network.n_other_params == 0


@pytest.mark.parametrize(
    ("layer", "constants", "shape"),
    [(nn.Conv2d(3, 6, 3), (6, 1, 1), (3, 7, 7)), (nn.Linear(5, 6, bias=False), (6,), (4, 5))],
    ids=["conv", "linear"],
)
def test_constants_a_channel_fold(layer: nn.Module, constants: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assert len(operations(captured_equals(Arithmetic(layer, constants), *shape))) == 1


@pytest.mark.parametrize("constants", [(1, 5, 5), (6, 5, 5), (5,)])
def test_constants_of_another_shape_stay(constants: tuple[int, ...]) -> None:
    assert len(operations(captured_equals(Arithmetic(nn.Conv2d(3, 6, 3), constants), 3, 7, 7))) > 1
