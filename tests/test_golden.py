"""The written Q/DQ file of a mixed assignment, and the plan, of three tiny networks: as they were recorded.

Weights and samples are small integers times powers of two, so that no processor draws or folds them otherwise.
Structure and assignments are compared as they are, tensors by their sum, their product with a fixed vector and their
largest magnitude, to four digits of the largest of these. ``python tests/test_golden.py`` records anew.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import hwsmpq
from hwsmpq.model.capture import capture
from hwsmpq.quantize.bias import _found
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Precision

torch.set_num_threads(1)
FOLDER = Path(__file__).with_name("golden")
PRECISIONS = ("w4a8", "int8", "w3a5", "fp8", "fp32", "w8a16", "w4a4", "bf16")
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[-+]\d+)?")
N_CLASSES = 5
BITOPS = {"residual": 9e5, "depthwise": 9e4, "attention": 9e5}


class Residual(nn.Module):
    """Convolutions with batch norm, an identity branch, a transposed convolution."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=0.25))
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0.25)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0.25)
        self.up, self.head = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Linear(4, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + x).relu()
        return self.head(self.up(x).relu().mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise separable convolutions, the first padded on two sides only."""

    shape = (3, 9, 9)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6, eps=0.25)
        self.depth, self.norm1 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6, eps=0.25)
        self.point, self.norm2 = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8, eps=0.25)
        self.head = nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.norm0(self.stem(functional.pad(x, (0, 1, 0, 1)))))
        x = functional.relu6(self.norm1(self.depth(x)))
        return self.head(self.norm2(self.point(x)).mean((2, 3)))


class Attention(nn.Module):
    """Linear layers on (n, tokens, d), three on one input with an outlying channel, which is smoothed."""

    shape = (6, 64)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)
        self.query, self.key, self.value = nn.Linear(64, 8), nn.Linear(64, 8), nn.Linear(64, 8, bias=False)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 8
        x = functional.gelu(self.out(scores.softmax(-1) @ self.value(x)))
        return self.head(x.mean(1))


NETWORKS: dict[str, type[nn.Module]] = {"residual": Residual, "depthwise": Depthwise, "attention": Attention}


def integers(shape: tuple[int, ...], seed: int, largest: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).float()


def network(name: str) -> nn.Module:
    model = NETWORKS[name]().eval()
    with torch.no_grad():
        for seed, tensor in enumerate((*model.parameters(), *model.buffers())):
            if tensor.is_floating_point():
                fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 4
                tensor.copy_(integers(tuple(tensor.shape), seed) / 8 / 2 ** round(np.log2(fan_in) / 2))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.fill_(0.75)  # with eps, 1
                module.weight.abs_().add_(0.5)
            elif isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
                module.weight[::16] = 24
    return model


def write(name: str, file: Path) -> None:
    model, inputs = network(name), (integers((96, *NETWORKS[name].shape), 100) / 4,)  # type: ignore[attr-defined]
    captured, scheme = capture(model, inputs), get_scheme("tensorrt" if name == "residual" else "unsigned_activations")
    used = dict(zip(captured.network.group_names, PRECISIONS, strict=False))
    quantized = [Precision.parse(p) for p in ("w4a8", "int8", "w3a5", "fp8", "w4a4")]
    corrected = [p for p in quantized if p.name in ("w4a8", "w3a5")]
    # Rows that smoothing is judged by follow from the size of batches. Shifts are there whether they help or not, so
    # that accepting them is not left to rounding.
    ranges = calibrate(captured, inputs, scheme, [4, 5, 8], batch_size=8, smooth=quantized)
    some = tuple(x[:48] for x in inputs)
    ranges = replace(ranges, shifts=_found(captured, some, ranges, scheme, corrected, 8, lambda done: None))
    assert any(ranges.smoothed.values())
    write_qdq(export_onnx(captured), captured, used, ranges, scheme, file)


def described(file: Path) -> Iterator[str]:
    """The graph, line by line; values count by the place where they are first named, as their names are torch's."""
    model = onnx.load(file)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    places: dict[str, str] = {value.name: f"%{i}" for i, value in enumerate(model.graph.input)}
    for node in model.graph.node:
        operands = []
        for value in node.input:
            if value in constants and value not in places:
                places[value] = f"%{len(places)}"
                yield f"{places[value]} = {summary(constants[value])}"
            operands.append(places.get(value, "none"))
        for value in node.output:
            places[value] = f"%{len(places)}"
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kept = "".join(f" {key}={value}" for key, value in sorted(attributes.items()))
        layer = "".join(f" [{node.name} {p.value}]" for p in node.metadata_props if p.key == "hwsmpq.precision")
        yield f"{' '.join(places[v] for v in node.output)} = {node.op_type}({', '.join(operands)}){kept}{layer}"
    yield f"return {' '.join(places[value.name] for value in model.graph.output)}"


def summary(array: np.ndarray) -> str:
    values = array.astype(np.float64).ravel()
    weights = np.cos(np.arange(values.size))
    numbers = [values.sum(), values @ weights, np.abs(values).max(initial=0.0)]
    return f"{array.dtype}{list(array.shape)} {' '.join(f'{number:.7e}' for number in numbers)}"


def plan_of(name: str, folder: Path) -> Iterator[str]:
    model, inputs = network(name), integers((64, *NETWORKS[name].shape), 101) / 4  # type: ignore[attr-defined]
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    task = hwsmpq.Task(model, inputs[:16] + 0.25, (inputs, labels), name=name)
    hwsmpq.optimize(
        task, folder, target="onnx-qdq", ladder="w3a3,w4a8,fp32", bitops=BITOPS[name], n_score_samples=16, n_pairs=2,
        additive=True,
    )
    plan = json.loads((folder / "plan.json").read_text())["payload"]
    yield from (f"{group}: {precision}" for group, precision in plan["assignment"].items())
    yield f"bitops {plan['bitops']:.1f}"
    yield f"bytes {plan['size_mb'] * 1e6:.1f}"


def recorded(name: str, folder: Path) -> str:
    write(name, folder / "model.onnx")
    return "\n".join([*described(folder / "model.onnx"), "", *plan_of(name, folder / "run"), ""])


@pytest.mark.parametrize("name", NETWORKS)
def test_file_and_plan_are_as_recorded(name: str, tmp_path: Path) -> None:
    found, expected = recorded(name, tmp_path), (FOLDER / f"{name}.txt").read_text()
    assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
    for line, wanted in zip(found.splitlines(), expected.splitlines(), strict=True):
        numbers, known = (np.array([float(n) for n in NUMBER.findall(text)]) for text in (line, wanted))
        assert np.allclose(numbers, known, rtol=0, atol=1e-4 * np.abs(known).max(initial=0.0)), (line, wanted)


if __name__ == "__main__":
    for network_name in NETWORKS:
        with tempfile.TemporaryDirectory() as directory:
            (FOLDER / f"{network_name}.txt").write_text(recorded(network_name, Path(directory)))
