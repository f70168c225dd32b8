"""Images, boxes and labels of detectors, against what is worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.detection import YoloBoxes, letterboxed, own_boxes
from hwsmpq.model.metrics import AveragePrecision

BOXES = YoloBoxes(least_score=0.3, most=4)


def outputs() -> Tensor:
    """Ten places of an image (1, 4 + 2, 10): a box of class 1, a worse one over it, one of class 0 over it, one that is
    too weak, and one elsewhere."""
    found = torch.zeros(1, 6, 10)
    found[0, :, 0] = torch.tensor([10, 10, 8, 8, 0.1, 0.9])
    found[0, :, 1] = torch.tensor([10, 11, 8, 8, 0.1, 0.8])
    found[0, :, 2] = torch.tensor([10, 10, 8, 8, 0.7, 0.1])
    found[0, :, 3] = torch.tensor([30, 30, 4, 2, 0.2, 0.2])
    found[0, :, 4] = torch.tensor([50, 30, 4, 2, 0.4, 0.2])
    return found


def test_boxes_are_decoded_and_overlapping_ones_of_a_class_left_out() -> None:
    expected = torch.tensor([
        [6, 6, 14, 14, 0.9, 1], [6, 6, 14, 14, 0.7, 0], [48, 29, 52, 31, 0.4, 0], [0, 0, 0, 0, 0, 0],
    ])
    torch.testing.assert_close(BOXES(outputs())[0], expected)


def test_scores_of_yolov5_count_as_often_as_that_of_an_object() -> None:
    new = outputs()
    old = torch.cat([new[:, :4], torch.full((1, 1, 10), 0.5), 2 * new[:, 4:]], 1).transpose(1, 2)
    torch.testing.assert_close(BOXES(old), BOXES(new))


def test_the_loss_is_what_boxes_lack_of_their_labels() -> None:
    # Half of the first label is covered by the box of score .9; the second label is found exactly, with .4.
    labels = torch.tensor([[[6, 6, 14, 22, 1], [48, 29, 52, 31, 0], [0, 0, 0, 0, -1]]], dtype=torch.float32)
    best = max(0.9 * 64 / 128, 0.8 * 64 / 128)
    assert float(BOXES.missed(outputs(), labels)) == pytest.approx(1 - (best + 0.4) / 2)
    none = torch.full((1, 3, 5), -1.0)
    assert float(BOXES.missed(outputs(), none)) == pytest.approx(0.9)


class Found(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return outputs().expand(len(images), -1, -1)


def test_a_network_agrees_with_its_own_boxes() -> None:
    labels = own_boxes(Found(), torch.zeros(11, 3, 8, 8), BOXES)
    assert labels.shape == (11, 4, 5) and (labels[:, :, 4] >= 0).sum() == 33
    metric = AveragePrecision(of=BOXES)
    assert metric.compute(metric.reduce(outputs().expand(11, -1, -1), labels).numpy()) == pytest.approx(1.0)


def test_images_are_scaled_to_fit_into_grey(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "b.png")
    Image.new("RGB", (10, 40), (0, 0, 255)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    tall, wide = letterboxed(tmp_path, 16)
    assert tall[:, :, 6:10].equal(torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 16, 4))
    assert wide[:, 4:12].equal(torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 8, 16))
    for grey in (tall[:, :, :6], tall[:, :, 10:], wide[:, :4], wide[:, 12:]):
        assert (grey == 114 / 255).all()
    assert len(letterboxed(tmp_path, 16, most=1)) == 1


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match=r"\(2, 10\) are none of a YOLO network"):
        BOXES(torch.zeros(2, 10))
    with pytest.raises(HwsmpqError, match="no images in"):
        letterboxed(tmp_path, 16)
