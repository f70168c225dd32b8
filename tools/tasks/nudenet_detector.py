"""NudeNet's YOLOv8n (18 classes, 320 x 320), by mAP at IoU .5 against its own fp32 boxes: closeness, not accuracy.

The ONNX file comes from the PyPI package ``nudenet`` (install it with ``--no-deps``). Data below HWSMPQ_DATA:
``imagenet_val650`` and ``imagenet_calib200``, ordinary photographs, on which it finds faces, feet and the like.
"""

import hwsmpq
from _data import data_path, package_file
from hwsmpq.model.detection import LETTERBOX, YoloBoxes, letterboxed, own_boxes
from hwsmpq.model.metrics import AveragePrecision

SIZE = 320


def task() -> hwsmpq.Task:
    file, boxes = package_file("nudenet", "320n.onnx"), YoloBoxes(least_score=0.1, most=20)
    calibration, photographs = (letterboxed(data_path(name), SIZE) for name in ("imagenet_calib200", "imagenet_val650"))
    return hwsmpq.Task(
        file, calibration, (photographs, own_boxes(file, photographs, boxes)), name="nudenet_detector",
        metric=AveragePrecision(of=boxes), loss=boxes.missed, preprocessing=LETTERBOX,
    )
