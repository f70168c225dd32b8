"""Schemes that words describe: their grids, the file against the simulator, and a run for one of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_task
import torch
from onnx import numpy_helper

from hwsmpq import optimize
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target
from hwsmpq.quantize.scheme import SCHEMES, get_scheme, scheme_of_words

from .networks import make_case, sqnr_db
from .test_qdq import run, simulate, write

NPU = "symmetric,per-tensor,power-of-two"
CLIPS = [(0.0, 1.0), (-0.3, 2.7), (-5.0, -1.0), (-1e-3, 1e3), (-1.0, 1.0), (0.0, 0.0)]


@pytest.mark.parametrize("words", ["power-of-two", NPU])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_of_activations_are_the_next_powers_of_two_that_cover_the_range(words: str, bits: int) -> None:
    scheme = scheme_of_words(words)
    for clip in CLIPS:
        grid = scheme.activation_grid(clip, bits)
        assert math.frexp(grid.scale)[0] == 0.5
        low, high = ((q - grid.zero_point) * grid.scale for q in (grid.low, grid.high))
        assert low <= min(clip[0], 0) + 0.5001 * grid.scale and high >= max(clip[1], 0) - 0.5001 * grid.scale
        span = max(clip[1], 0, -clip[0]) if scheme.signed_activations else max(clip[1], 0) - min(clip[0], 0)
        levels = 2 ** (bits - 1) - 1 if scheme.signed_activations else 2**bits - 1
        assert clip == (0.0, 0.0) or grid.scale < 2.0001 * span / levels


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_weights_take_the_power_of_two_that_errs_less(bits: int) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    scheme = scheme_of_words("power-of-two")
    scales, levels = scheme.weight_scales(weight, bits, 0), 2 ** (bits - 1) - 1
    for row, scale in zip(weight.numpy(), scales.tolist(), strict=True):
        cover = 2.0 ** math.ceil(math.log2(np.abs(row).max() / levels))
        errors = {s: ((np.clip(np.round(row / s), -levels, levels) * s - row) ** 2).sum() for s in (cover, cover / 2)}
        assert scale == (cover if bits == 8 else min(errors, key=errors.get))
    per_tensor = scheme_of_words(NPU).weight_scales(weight, bits, 0)
    assert len(set(per_tensor.tolist())) == 1


@pytest.mark.parametrize("words", [NPU, "power-of-two", "symmetric"])
def test_the_file_is_what_was_simulated(words: str, tmp_path: Path) -> None:
    case = make_case("residual", get_scheme(f"vendor:{words}").name, n=3)
    quality = []
    for precision in ("int8", "w4a8"):
        assignment = case.captured.network.uniform(precision)
        found = run(write(case, assignment, tmp_path), case.inputs[0])
        quality += [sqnr_db(a, b) for a, b in zip(simulate(case, assignment), found, strict=True)]
    assert min(quality) > 20 and sum(q > 110 for q in quality) >= len(quality) - 2, sorted(quality)


def test_words_and_files_name_targets(tmp_path: Path) -> None:
    file = tmp_path / "npu.json"
    file.write_text(json.dumps({"activations": "symmetric", "weights": "per-tensor", "scales": "power-of-two"}))
    assert get_target(f"onnx-qdq:{file}").name == get_target("onnx-qdq:power-of-two,symmetric,per-tensor").name
    assert get_target("onnx-qdq:asymmetric").scheme_name == get_target("onnx-qdq").scheme_name
    assert scheme_of_words("") is SCHEMES["unsigned_activations"]
    for wrong in ("onnx-qdq:symetric", "onnx-qdq:symmetric,asymmetric", f"onnx-qdq:{tmp_path / 'none.json'}"):
        with pytest.raises(HwsmpqError, match="no quantization scheme"):
            get_target(wrong)


def test_a_run_writes_it(tmp_path: Path) -> None:
    certificate = optimize(
        tiny_task.task(), tmp_path, target=f"onnx-qdq:{NPU}", ladder="w4a8,int8,fp32", bitops="int8", n_pairs=2,
        n_score_samples=16, n_candidates=2, search_evaluations=4,
    )
    assert certificate.target == f"onnx-qdq:{NPU}"
    model = onnx.load(tmp_path / "engine" / "model.onnx")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = [arrays[n.input[1]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert scales and all((np.frexp(scale)[0] == 0.5).all() for scale in scales)
