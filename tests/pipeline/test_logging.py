"""One logger: what was made and what was as before."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny_task

from hwsmpq.pipeline.prepare.calibrate import calibrate
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Settings


def test_artifacts_that_are_made_or_were_there_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(target="onnx-qdq", ladder=("int8", "fp32"))
    with caplog.at_level(logging.INFO, logger="hwsmpq"):
        calibrate(Run(tmp_path, settings, tiny_task.task()))
        calibrate(Run(tmp_path, settings, tiny_task.task()))
    said = [record.getMessage() for record in caplog.records if record.name == "hwsmpq"]
    assert len(said) == 2 and "ranges.json made in" in said[0] and said[1].endswith("ranges.json is as it was")
