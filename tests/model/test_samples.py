"""Samples from files: which array is what, and networks of Hugging Face and ONNX files that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.model.load import load_task
from hwsmpq.model.samples import read_arrays, read_texts
from tests.model.test_onnx_import import export

RNG = np.random.default_rng(0)
IDS, MASK, LABELS = RNG.integers(3, 50, (40, 6)), np.ones((40, 6), np.int64), RNG.integers(2, size=40)


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_arrays_under_any_names(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    data = read_arrays(saved(file, input_ids=IDS, attention_mask=MASK, labels=LABELS))
    assert list(data.inputs) == ["input_ids", "attention_mask"] and len(data.labels) == 30
    assert np.array_equal(data.calibration["input_ids"], IDS[:10])
    assert np.array_equal(data.inputs["input_ids"], IDS[10:])
    pixels = IDS.astype(np.float32)
    data = read_arrays(saved(file, pixels=pixels, calibration=pixels[:3], classes=LABELS))
    assert list(data.inputs) == ["pixels"] and len(data.calibration["pixels"]) == 3
    assert np.array_equal(data.labels, LABELS)
    data = read_arrays(saved(file, a=IDS, b=MASK, calibration_a=IDS[:4], calibration_b=MASK[:4], y=LABELS))
    assert {k: len(x) for k, x in data.calibration.items()} == {"a": 4, "b": 4}


@pytest.mark.parametrize(("arrays", "message"), [
    ({"x": IDS}, "no labels in"), ({"labels": LABELS}, "no inputs in"),
    ({"a": IDS, "b": MASK, "calibration_a": IDS, "labels": LABELS}, "no calibration_b in"),
])
def test_arrays_that_do_not_say_what_they_are(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match=message):
        read_arrays(saved(tmp_path / "x.npz", **arrays))
    with pytest.raises(HwsmpqError, match=r"(?s)no samples in .*none\.npz.*No such file"):
        read_arrays(tmp_path / "none.npz")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.a(first) - self.b(second)


def test_arrays_of_an_onnx_file_are_matched_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(40, 6), torch.randn(40, 3)
    path = tmp_path / "two.onnx"
    batch = {0: "n"}
    torch.onnx.export(
        Two().eval(), (first[:2], second[:2]), path, dynamo=True, verbose=False, input_names=["first", "second"],
        dynamic_shapes=(batch, batch),
    )
    file = saved(tmp_path / "x.npz", second=second.numpy(), first=first.numpy(), labels=LABELS)
    task = load_task(str(path), f"npz:{file}")
    assert [x.shape[1] for x in task.evaluation.inputs] == [6, 3]
    saved(file, second=second.numpy(), other=first.numpy(), labels=LABELS)
    with pytest.raises(HwsmpqError, match=r"(?s)hold second, other, the network takes first, second"):
        load_task(str(path), f"npz:{file}")


def test_an_onnx_file_with_a_folder_of_images(tmp_path: Path) -> None:
    for label in ("dark", "light"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(20):
            grey = 30 + 150 * (label == "light") + i
            Image.new("RGB", (40, 50), (grey,) * 3).save(tmp_path / "images" / label / f"{i}.png")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    path = export(net, torch.randn(2, 3, 24, 32), tmp_path / "net.onnx", dynamo=True)
    task = load_task(str(path), f"imagefolder:{tmp_path / 'images'}")
    assert task.evaluation.inputs[0].shape == (30, 3, 24, 32) and "CenterCrop" in task.preprocessing
    assert torch.equal((task.evaluation.inputs[0].mean((1, 2, 3)) > 0).long(), task.evaluation.targets)
    flat = export(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "flat.onnx", dynamo=True)
    with pytest.raises(HwsmpqError, match="does not take images"):
        load_task(str(flat), f"imagefolder:{tmp_path / 'images'}")


def test_texts(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text('first,second,label\n"a, b",c,1\nd,e,0\n')
    texts, labels = read_texts(file)
    assert texts == [["a, b", "d"], ["c", "e"]] and labels.tolist() == [1, 0] and labels.dtype == torch.int64
    file.write_text("text,label\na,0.5\n")
    assert read_texts(file)[1].dtype == torch.float32
    for text, message in (("text\na\n", "has the columns text"), ("text,label\na,good\n", "no numbers"),
                          ("text,label\na\n", "and line 2 others")):
        file.write_text(text)
        with pytest.raises(HwsmpqError, match=message):
            read_texts(file)


def test_a_network_of_hugging_face_from_its_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra zoo)")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50,
        max_position_embeddings=16,
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    (tmp_path / "texts.csv").write_text("text,label\n" + "good film,1\nbad bad film,0\n" * 20)
    task = load_task(f"hf:{tmp_path / 'bert'}", f"csv:{tmp_path / 'texts.csv'}")
    assert {"input_ids", "attention_mask"} <= set(task.input_names) and task.evaluation.inputs[0].shape == (30, 5)
    captured = capture(task.model, task.calibration, task.input_names)
    rows = tuple(x[:3] for x in task.evaluation.inputs)
    with torch.no_grad():
        expected = model(**dict(zip(task.input_names, rows, strict=True))).logits
    torch.testing.assert_close(captured.graph(*rows).detach(), expected)
    assert captured.form.names == ("logits",)
    file = saved(tmp_path / "x.npz", input_ids=IDS, attention_mask=MASK, labels=LABELS)
    assert load_task(f"hf:{tmp_path / 'bert'}", f"npz:{file}").input_names == ("input_ids", "attention_mask")
    with pytest.raises(HwsmpqError, match=r"no config\.json"):
        load_task(f"hf:{tmp_path}", f"npz:{file}")
    with pytest.raises(HwsmpqError, match="needs --data"):
        load_task(f"hf:{tmp_path / 'bert'}")
