"""NudeNet's YOLOv8n (18 classes, 320 x 320), by mAP at IoU .5 against its own fp32 boxes: closeness, not accuracy.

The ONNX file comes from the PyPI package ``nudenet`` (install it with ``--no-deps``). Data below HWSMPQ_DATA:
``imagenet_val650`` and ``imagenet_calib200``, ordinary photographs, on which it finds faces, feet and the like.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert, box_iou

import hwsmpq
from _data import centre_crops, data_path, package_file
from hwsmpq.model.metrics import AveragePrecision
from hwsmpq.model.onnx_import import read_onnx

SIZE, LEAST_SCORE, N_BOXES, IOU = 320, 0.1, 20, 0.45


def candidates(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (n, 2100, 4) and scores (n, classes, 2100) of outputs (n, 4 + classes, 2100)."""
    return box_convert(outputs[:, :4].transpose(1, 2), "cxcywh", "xyxy"), outputs[:, 4:]


def decode(outputs: Tensor) -> Tensor:
    """Boxes (n, N_BOXES, 6) behind non-maximum suppression; a score of 0 is none."""
    found = outputs.new_zeros(len(outputs), N_BOXES, 6)
    for row, corners, scores in zip(found, *candidates(outputs), strict=True):
        best, classes = scores.max(0)
        here = torch.nonzero(best >= LEAST_SCORE)[:, 0]
        kept = here[batched_nms(corners[here], best[here], classes[here], IOU)][:N_BOXES]
        row[: len(kept)] = torch.cat([corners[kept], best[kept, None], classes[kept, None].float()], 1)
    return found


def misses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the labelled boxes of 1 - the best overlap times score; where there are none, the largest score."""
    losses = []
    for corners, scores, labels in zip(*candidates(outputs), targets, strict=True):
        labels = labels[labels[:, 4] >= 0]
        hits = (box_iou(labels[:, :4], corners) * scores[labels[:, 4].long()]).amax(1)
        losses.append((1 - hits).mean() if len(labels) else scores.max())
    return torch.stack(losses)


def images(folder: str) -> Tensor:
    files = sorted(path for path in Path(data_path(folder)).iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return centre_crops(files, SIZE, SIZE).div_(255)


def task() -> hwsmpq.Task:
    file = package_file("nudenet", "320n.onnx")
    network, photographs = read_onnx(file), images("imagenet_val650")
    with torch.no_grad():
        boxes = torch.cat([decode(network(part)) for part in photographs.split(10)])
    labels = torch.where(boxes[..., 4:5] > 0, boxes[..., [0, 1, 2, 3, 5]], -1.0)
    return hwsmpq.Task(
        file, images("imagenet_calib200"), (photographs, labels), metric=AveragePrecision(of=decode), loss=misses,
        name="nudenet_detector", preprocessing="RGB 0..1, shorter side 320, centre crop 320 x 320",
    )
