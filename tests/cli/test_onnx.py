"""An ONNX file with arrays as the task of a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_task import images, network, task

from cli.console import Cli
from hwsmpq.model.load import load_task
from tests.model.test_onnx_import import export


def test_the_command_line_takes_the_file_with_arrays(cli: Cli, tmp_path: Path) -> None:
    known, onnx_file = task(), export(network(), images(2, seed=0), tmp_path / "tiny.onnx", dynamo=True)
    inputs, labels = known.evaluation.inputs[0], known.evaluation.targets
    samples = tmp_path / "samples.npz"
    np.savez(samples, calibration=known.calibration[0], inputs=inputs, labels=labels)
    result = cli("inspect", onnx_file, "--data", f"npz:{samples}", "-o", tmp_path / "run")
    assert result.code == 0 and "4 layers in 4 groups" in result.out
    assert load_task(str(onnx_file), f"npz:{samples}").name == "tiny"
    cli("inspect", onnx_file, "-o", tmp_path / "none").assert_one_message("need --data npz:FILE")
    np.savez(samples, inputs=np.array([None], dtype=object))
    cli("inspect", onnx_file, "--data", f"npz:{samples}", "-o", tmp_path / "none").assert_one_message("no samples in")
