"""Make calibration/: the ranges of the example tasks as the toolkit writes them, and the samples they come from.

    python tools/make_calibration.py [EXAMPLE ...]

Needs what the examples need: their data in HWSMPQ_DATA, and the packages with their weights.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TASKS = Path(__file__).parent / "tasks"
sys.path.insert(0, str(TASKS))

from _data import data_path  # noqa: E402
from hwsmpq.folder import Folder  # noqa: E402
from hwsmpq.model.parts import tensors_sha256  # noqa: E402
from hwsmpq.pipeline.prepare.calibrate import calibrate  # noqa: E402
from hwsmpq.pipeline.run import Run  # noqa: E402
from hwsmpq.types import Ranges, Settings  # noqa: E402

FOLDER = Path(__file__).parents[1] / "calibration"
EXAMPLES: dict[str, tuple[str, Callable[[int], list[str]]]] = {
    "quickstart": (
        "hwsmpq.quickstart.task:task", lambda n: [f"digits.safetensors, calibration[{i}]" for i in range(n)]
    ),
    "cifar_resnet20": (
        str(TASKS / "cifar_resnet20.py"), lambda n: [f"cifar10_jpeg/train5000.npz, x[{i}]" for i in range(n)]
    ),
    "efficientnet_lite0": (
        str(TASKS / "efficientnet_lite0.py"),
        lambda n: [f"imagenet_calib200/{file.name}" for file in sorted(data_path("imagenet_calib200").glob("*.jpg"))],
    ),
    "minilm_stsb": (
        str(TASKS / "minilm_stsb.py"), lambda n: [f"stsb/dev.csv, calibration pair {i}" for i in range(n)]
    ),
}
"""Task, and what its calibration samples are called, in order."""
TARGET = "onnx-qdq"
"""Its scheme (unsigned activations, weights of the full range) is that of both CPU targets on processors with VNNI."""


def main() -> None:
    for name in sys.argv[1:] or EXAMPLES:
        task, names_of = EXAMPLES[name]
        with tempfile.TemporaryDirectory(prefix="hwsmpq-") as folder:
            run = Run(folder, Settings(task, target=TARGET, ladder=("int8", "fp32")), notify=print)
            ranges = calibrate(run)
            target = FOLDER / name
            target.mkdir(parents=True, exist_ok=True)
            (target / "ranges.json").write_bytes(Folder(folder).path(Ranges).read_bytes())
        samples = run.task.calibration
        names = names_of(ranges.n_samples)
        with open(target / "samples.csv", "w", newline="") as handle:
            rows = csv.writer(handle, lineterminator="\n")
            rows.writerow(("sample", "sha256"))
            for i, sample in enumerate(names):
                rows.writerow((sample, tensors_sha256(tuple(x[i : i + 1] for x in samples))))
        print(f"{target}: {len(ranges.layers)} layers, {ranges.n_samples} samples", flush=True)


if __name__ == "__main__":
    main()
