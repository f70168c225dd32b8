"""NNCF's ways to quantize an OpenVINO model, with the calibration and search samples that this project gets too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peer_networks import Network
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task

ACCURACY_CONTROL, OVERFLOW_FIX = "_accuracy_control", "_overflow_fix"
MATCHED = tuple(f"nncf{fix}{control}" for fix in ("", OVERFLOW_FIX) for control in ("", ACCURACY_CONTROL))
"""Tools that a plan of ours is matched to. With the overflow fix all weights take half of the range: what NNCF offers
for processors whose int8 kernels saturate, where its default, which halves the first layer's only, costs accuracy."""
TOOLS = (*MATCHED, "nncf_minmax")
FILE = "model.xml"
Row = list[NDArray[Any]]


def require() -> None:
    """Load NNCF, which takes seconds that are no search time.

    Raises:
        HwsmpqError: it is not installed.
    """
    if find_spec("nncf") is None:
        raise HwsmpqError("NNCF cannot be compared with", "it is not installed", "pip install '.[peers]'")
    import nncf  # noqa: F401


def quantize(
    tool: str, onnx: Path, folder: Path, network: Network, task: Task, search_part: Samples, reference: Tensor,
    quick: bool,
) -> None:
    """Quantize the fp32 model ``onnx`` and write the OpenVINO model into ``folder``.

    Args:
        search_part: what accuracy control may look at.
        reference: outputs of the fp32 engine on it.
        quick: let accuracy control put back one operation at most.
    """
    import nncf
    import openvino
    from nncf.parameters import ModelType
    from nncf.quantization.advanced_parameters import (
        AdvancedAccuracyRestorerParameters,
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
        RestoreMode,
    )

    # Not Core.read_model: it skips conversion passes without which depthwise layers stay in fp32.
    model = openvino.convert_model(onnx)
    advanced = AdvancedQuantizationParameters(disable_bias_correction=tool == "nncf_minmax")
    if OVERFLOW_FIX in tool:
        advanced.overflow_fix = OverflowFix.ENABLE
    if network.per_tensor:
        advanced.weights_quantization_params = QuantizationParameters(per_channel=False)
    common: dict[str, Any] = {
        "subset_size": len(task.calibration[0]),
        "model_type": ModelType.TRANSFORMER if network.transformer else None,
    }
    calibration = nncf.Dataset(rows(task.calibration))
    if tool.endswith(ACCURACY_CONTROL):
        items = list(zip(rows(search_part.inputs), range(len(search_part)), strict=True))
        criterion, largest = network.control
        # What is put back gets its weights as they were before SmoothQuant, but goes on reading smoothed inputs, which
        # destroys the network. Where inputs are smoothed, only activations are put back.
        restorer = AdvancedAccuracyRestorerParameters(
            restore_mode=RestoreMode.ONLY_ACTIVATIONS if network.transformer else RestoreMode.ACTIVATIONS_AND_WEIGHTS,
            **({"max_num_iterations": 1} if quick else {}),
        )
        quantized = nncf.quantize_with_accuracy_control(
            model, calibration, nncf.Dataset(items, lambda item: item[0]),
            Validation(network, task, search_part, reference, criterion), max_drop=largest,
            advanced_quantization_parameters=advanced,
            advanced_accuracy_restorer_parameters=restorer, **common,
        )
    else:
        quantized = nncf.quantize(model, calibration, advanced_parameters=advanced, **common)
    openvino.save_model(quantized, folder / FILE, compress_to_fp16=False)


class Validation:
    """What accuracy control is told of a model: the mean metric, or one minus the mean distance, and every sample's."""

    def __init__(
        self, network: Network, task: Task, samples: Samples, reference: Tensor, criterion: str
    ) -> None:
        self._network, self._task, self._samples = network, task, samples
        self._reference, self._criterion = reference, criterion

    def __call__(self, compiled: Any, items: Iterable[tuple[Row, int]]) -> tuple[float, list[float]]:
        outputs, indices = [], []
        for inputs, index in items:
            outputs.append(torch.from_numpy(np.array(compiled(inputs)[0])))
            indices.append(index)
        index, found = torch.tensor(indices), torch.cat(outputs)
        if self._criterion == "metric":
            scores = self._task.metric(found, self._samples.targets[index]).double()
        else:
            # Accuracy control divides by the metric of the fp32 model, which must not be 0.
            scores = 1 - self._network.distance(self._reference[index], found).double()
        return float(scores.mean()), scores.tolist()


def rows(inputs: Sequence[Tensor]) -> list[Row]:
    """Every sample as the inputs of an engine of batch size 1."""
    return [[x[i : i + 1].numpy() for x in inputs] for i in range(len(inputs[0]))]
