"""What tasks of detectors share: images as YOLO networks take them, boxes of what these give, and labels by a network
itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
GREY = 114
"""What Ultralytics fills letterboxes with, of 255."""
LETTERBOX = "RGB 0..1, scaled (bilinear) so that it fits, in the middle of a square filled with 114 / 255"
"""How :func:`letterboxed` prepares images, for ``preprocessing=`` of a task."""
AT_ONCE = 8


def letterboxed(folder: Path, size: int, most: int | None = None) -> Tensor:
    """The images of a folder, by name, as YOLO networks take them (:data:`LETTERBOX`): (n, 3, size, size).

    Args:
        most: images that are read.

    Raises:
        HwsmpqError: it holds none.
    """
    from PIL import Image

    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)[:most]
    if not files:
        raise HwsmpqError(f"no images in {folder}", f"none of its files ends in {', '.join(IMAGES)}", "name another")
    images = torch.empty(len(files), 3, size, size)
    for image, file in zip(images, files, strict=True):
        with Image.open(file) as opened:
            scale = size / max(opened.size)
            width, height = (max(1, round(scale * side)) for side in opened.size)
            small = opened.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        whole = Image.new("RGB", (size, size), (GREY, GREY, GREY))
        whole.paste(small, ((size - width) // 2, (size - height) // 2))
        pixels = torch.frombuffer(bytearray(whole.tobytes()), dtype=torch.uint8)
        image.copy_(pixels.reshape(size, size, 3).permute(2, 0, 1)).div_(255)
    return images


class YoloBoxes:
    """Boxes of what a YOLO network gives, for :class:`hwsmpq.model.metrics.AveragePrecision`, and a loss to go with it.

    Outputs are centre, width, height and scores of every place: (n, 4 + classes, places), as of YOLOv8, or
    (n, places, 5 + classes) as of YOLOv5, where a score counts as often as that of any object.

    Args:
        least_score: of a box that counts.
        most: boxes of an image.
        iou: of boxes of one class, above which the one with the lower score is left out (non-maximum suppression).
    """

    def __init__(self, least_score: float = 0.25, most: int = 100, iou: float = 0.45) -> None:
        self.least_score, self.most, self.iou = least_score, most, iou

    def __call__(self, outputs: Tensor) -> Tensor:
        """Boxes (n, most, 6): left, top, right, bottom, score, class; a score of 0 is none."""
        from torchvision.ops import batched_nms

        found = outputs.new_zeros(len(outputs), self.most, 6)
        for row, corners, scores in zip(found, *_places(outputs), strict=True):
            best, classes = scores.max(0)
            here = torch.nonzero(best >= self.least_score)[:, 0]
            kept = here[batched_nms(corners[here], best[here], classes[here], self.iou)][: self.most]
            row[: len(kept)] = torch.cat([corners[kept], best[kept, None], classes[kept, None].float()], 1)
        return found

    def missed(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """A loss, (n,): the mean over the labelled boxes of 1 - the best overlap times score; where an image has none,
        the largest score."""
        from torchvision.ops import box_iou

        losses = []
        for corners, scores, boxes in zip(*_places(outputs), labels, strict=True):
            boxes = boxes[boxes[:, 4] >= 0]
            hits = (box_iou(boxes[:, :4], corners) * scores[boxes[:, 4].long()]).amax(1)
            losses.append((1 - hits).mean() if len(boxes) else scores.max())
        return torch.stack(losses)


def _places(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (n, places, 4) and scores (n, classes, places)."""
    from torchvision.ops import box_convert

    if outputs.ndim != 3:
        raise HwsmpqError(
            f"outputs of shape {tuple(outputs.shape)} are none of a YOLO network",
            "these are (n, 4 + classes, places) or (n, places, 5 + classes)",
            "export the network without its last step (nms=False), or give AveragePrecision(of=) a decoder of your own",
        )
    if outputs.shape[1] > outputs.shape[2]:
        outputs = outputs.transpose(1, 2)
        boxes, scores = outputs[:, :4], outputs[:, 5:] * outputs[:, 4:5]
    else:
        boxes, scores = outputs[:, :4], outputs[:, 4:]
    return box_convert(boxes.transpose(1, 2), "cxcywh", "xyxy"), scores


def own_boxes(model: nn.Module | str | Path, images: Tensor, boxes: Any) -> Tensor:
    """Labels (n, m, 5) that are what a network itself finds in full precision: agreement with them says how close an
    engine is to the network, and not how right either is.

    Args:
        model: the network, or its ONNX file.
        boxes: makes (n, m, 6) of its outputs, such as :class:`YoloBoxes`.
    """
    if not isinstance(model, nn.Module):
        from hwsmpq.model.onnx_import import read_onnx

        model = read_onnx(Path(model))
    with torch.no_grad():
        found = torch.cat([boxes(model.eval()(part)) for part in images.split(AT_ONCE)])
    return torch.where(found[..., 4:5] > 0, found[..., [0, 1, 2, 3, 5]], -1.0)
