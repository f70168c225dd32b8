"""Tasks found by file, by module and in torchvision, and the errors a user meets there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import models, transforms

from hwsmpq.cli.app import QUICKSTART
from hwsmpq.errors import HwsmpqError
from hwsmpq.model import samples
from hwsmpq.model.load import load_task
from hwsmpq.model.samples import read_images

TASK = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from hwsmpq.model.task import Task

@dataclass
class Shape:
    classes: int = 5

def task():
    import task_helper
    x = torch.randn(40, 3)
    return Task(torch.nn.Linear(3, Shape().classes), x, (x, torch.zeros(40, dtype=torch.long)), name=task_helper.NAME)
"""


def write(folder: Path, text: str) -> str:
    path = folder / "my_task.py"
    path.write_text(text)
    return str(path)


def test_file_with_a_dataclass_and_a_late_import_of_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "task_helper.py").write_text("NAME = 'mine'\n")
    before = list(sys.path)
    task = load_task(write(tmp_path, TASK))
    assert (task.name, len(task.evaluation)) == ("mine", 40)
    assert sys.path == before


def test_module() -> None:
    assert len(load_task(QUICKSTART).evaluation) == 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_by_that_name", "cannot be loaded\n  why: ModuleNotFoundError"),
        ("def task(:", "cannot be loaded\n  why: SyntaxError"),
        ("x = 1", r"defines no task\(\)"),
        ("task = 3", r"defines no task\(\)"),
        ("def task(): return 3", "gave a int"),
        ("def task(): return open('/no/such/file')", "cannot be loaded\n  why: FileNotFoundError"),
        ("from hwsmpq.errors import HwsmpqError\ndef task(): raise HwsmpqError('own words')", "^own words"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        load_task(write(tmp_path, text))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/file.py", "no task file no/such/file.py"),
        ("resnet18", "unknown task 'resnet18'"),
        ("hwsmpq.nowhere:task", "unknown task .*nowhere"),
        ("hwsmpq.quickstart.task:nothing", "unknown task .*nothing"),
        (":task", "unknown task ':task'"),
        ("os:getcwd", "gave a str"),
        ("os:chdir", "os:chdir failed\n  why: TypeError"),
        ("torchvision:resnet19", "no model 'resnet19'"),
        ("torchvision:resnet18", "need --data imagefolder:DIR"),
    ],
)
def test_unknown_tasks(spec: str, message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        load_task(spec)


def test_data_and_weights_are_for_torchvision_only(tmp_path: Path) -> None:
    for options in ({"data": "imagefolder:x"}, {"weights": tmp_path / "w.pth"}):
        with pytest.raises(HwsmpqError, match="goes with torchvision:NAME"):
            load_task(QUICKSTART, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a random ResNet-18 and 16 images a class, the second class lighter."""
    root = tmp_path_factory.mktemp("torchvision")
    for label, name in enumerate(("dark", "light")):
        (root / "images" / name).mkdir(parents=True)
        for i in range(16):
            Image.new("RGB", (24, 32), (40 + 150 * label + i,) * 3).save(root / "images" / name / f"{i}.png")
    torch.save(models.resnet18(num_classes=2).state_dict(), root / "weights.pth")
    return root


def test_torchvision_with_local_weights_and_a_folder(folder: Path) -> None:
    task = load_task("torchvision:resnet18", f"imagefolder:{folder / 'images'}", folder / "weights.pth")
    state = torch.load(folder / "weights.pth", weights_only=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in task.model.state_dict().items())
    assert not task.model.training and task.name == "resnet18"
    assert task.calibration[0].shape == (8, 3, 224, 224)
    assert task.evaluation.inputs[0].shape == (24, 3, 224, 224)
    assert torch.equal((task.evaluation.inputs[0].mean((1, 2, 3)) > 0).long(), task.evaluation.targets)
    seen = {x.numpy().tobytes() for x in task.calibration[0]}
    assert seen.isdisjoint(x.numpy().tobytes() for x in task.evaluation.inputs[0])


def test_images_of_all_classes_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every, n_classes = read_images(folder / "images", transforms.ToTensor())
    monkeypatch.setattr(samples, "MOST_IMAGES", 12)
    few, _ = read_images(folder / "images", transforms.ToTensor())
    assert n_classes == 2 and len(every.labels) == 24 and set(few.labels.tolist()) == {0, 1}
    drawn = torch.cat((every.calibration["inputs"], every.inputs["inputs"]))
    assert torch.equal(torch.cat((few.calibration["inputs"], few.inputs["inputs"])), drawn[:12])


def test_torchvision_own_weights_need_a_folder_for_every_class(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "get_model", lambda name, weights: models.resnet18())
    with pytest.raises(HwsmpqError, match="has 2 sub-folders, torchvision:resnet18 1000 classes"):
        load_task("torchvision:resnet18", f"imagefolder:{folder / 'images'}")


def test_torchvision_errors_name_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    images = f"imagefolder:{folder / 'images'}"
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "foreign.pth")
    torch.save(models.resnet18(num_classes=3).state_dict(), tmp_path / "three.pth")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "broken.png").write_bytes(b"no image")
    for data, weights, message in (
        (images, tmp_path / "foreign.pth", "no weights for torchvision:resnet18"),
        (images, tmp_path / "missing.pth", "no weights for torchvision:resnet18"),
        (images, tmp_path / "three.pth", "no weights for torchvision:resnet18 with 2 classes"),
        (f"imagefolder:{tmp_path / 'nowhere'}", folder / "weights.pth", "no image folder at .*nowhere"),
        (f"imagefolder:{tmp_path / 'images'}", folder / "weights.pth", r"broken\.png cannot be read"),
        (f"folder:{tmp_path}", None, "need --data imagefolder:DIR"),
    ):
        with pytest.raises(HwsmpqError, match=message):
            load_task("torchvision:resnet18", data, weights)
