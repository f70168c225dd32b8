"""The check that an ONNX file was read right: ONNX Runtime computes the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hwsmpq.device.onnxruntime.session import open_session, refusal
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.agreement import allowed, relative_error, tensors_of

if TYPE_CHECKING:
    from hwsmpq.model.onnx_import import OnnxModule

N_SAMPLES = 3
RESOLUTION = 2.0**-22
"""Twice that of a float32 next to 1. ONNX Runtime's sigmoid is as exact as that, and gives 0 where 1e-8 is right."""
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def check_onnx_file(path: Path, model: OnnxModule, samples: tuple[Tensor, ...]) -> str | None:
    """Compare the network that was read from a file with what ONNX Runtime makes of the file, sample by sample.

    Returns:
        Why they could not be compared, or None if they agree.

    Raises:
        HwsmpqError: they differ (by how much).
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return "the onnxruntime package is not installed"

    def network(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return tensors_of(model(*inputs))

    rows = tuple(x[:N_SAMPLES] for x in samples)
    try:
        session = open_session(path)
        ports = session.get_inputs()
        are_calls = model.are_calls(rows)
        found = []
        for i in range(len(rows[0])):
            given = [(x[i] if are_calls else x[i : i + 1]).numpy() for x in rows]
            found.append(session.run(None, {
                port.name: x.astype(TYPES.get(port.type, x.dtype)) for port, x in zip(ports, given, strict=True)
            }))
    except Exception as error:
        return f"ONNX Runtime does not run it ({refusal(error)})"
    samples = [tuple(x[i : i + 1] for x in rows) for i in range(len(rows[0]))]
    with torch.no_grad():
        expected = [network(sample) for sample in samples]
        pairs = [
            (one, [torch.from_numpy(np.asarray(y)[None] if are_calls else np.asarray(y)) for y in other][: len(one)])
            for one, other in zip(expected, found, strict=True)
        ]
        error = max(relative_error(*_apart(one, other)) for one, other in pairs)
        if error > 0 and error > max(allowed(network, sample, rounding=True) for sample in samples):
            raise HwsmpqError(
                f"{path} was read as another network: its outputs differ by {error:.1%} from ONNX Runtime's",
                "an operator is read wrong", "report the file, or give the network as PyTorch code",
            )
    return None


def _apart(expected: list[Tensor], found: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs that are not the same but for the resolution of floats."""
    pairs = [
        (x, y) for x, y in zip(expected, found, strict=True)
        if x.shape != y.shape or not torch.allclose(x.double(), y.double(), 0.0, RESOLUTION, equal_nan=True)
    ]
    return [x for x, _ in pairs], [y for _, y in pairs]
