"""PP-OCRv4's text-box detector on rendered lines of text, by the IoU of its masks with its own fp32 masks: closeness,
not accuracy.

The ONNX file comes from the PyPI package ``rapidocr_onnxruntime`` (install it with ``--no-deps``). No data is needed.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

import hwsmpq
from _data import package_file
from hwsmpq.model.metrics import MeanIoU
from hwsmpq.model.onnx_import import read_onnx

SIZE, THRESHOLD, N_CALIBRATION, N_EVALUATION = 320, 0.3, 32, 120
WORDS = ("mixed", "precision", "measured", "solved", "built", "and", "proven", "layer", "by", "layer")


def page(seed: int) -> Tensor:
    """Lines of words at random places and sizes, as the network takes it: (3, SIZE, SIZE) in -1..1."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(x) for x in rng.integers(160, 256, 3)))
    draw, y = ImageDraw.Draw(image), int(rng.integers(5, 30))
    while y < SIZE - 30:
        font = ImageFont.load_default(size=int(rng.integers(14, 30)))
        ink = tuple(int(x) for x in rng.integers(0, 110, 3))
        draw.text((int(rng.integers(0, 60)), y), " ".join(rng.choice(WORDS, 3)), ink, font)
        y += int(rng.integers(35, 70))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


def as_logits(masks: Tensor) -> Tensor:
    """(n, 2, h, w), of which text is the larger where a mask (n, 1, h, w) is above the threshold."""
    return torch.cat([torch.full_like(masks, THRESHOLD), masks], 1)


def entropy(masks: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of masks, (n,)."""
    found = masks[:, 0].clamp(1e-6, 1 - 1e-6)
    return functional.binary_cross_entropy(found, targets.float(), reduction="none").flatten(1).mean(1)


def task() -> hwsmpq.Task:
    file = package_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx")
    pages = torch.stack([page(seed) for seed in range(N_CALIBRATION + N_EVALUATION)])
    network, evaluation = read_onnx(file), pages[N_CALIBRATION:]
    with torch.no_grad():
        masks = torch.cat([network(part) for part in evaluation.split(10)])
    return hwsmpq.Task(
        file, pages[:N_CALIBRATION], (evaluation, as_logits(masks).argmax(1)), metric=MeanIoU(of=as_logits),
        loss=entropy, name="ppocr_text_boxes", preprocessing="RGB as x / 127.5 - 1",
    )
