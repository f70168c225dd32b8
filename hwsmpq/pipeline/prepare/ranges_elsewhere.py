"""Activation ranges that were calibrated on another machine, or by TensorRT; and ranges for TensorRT."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from hwsmpq import artifacts
from hwsmpq.artifacts import write_bytes
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.prepare.calibrate import calibrate, mismatch
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.quantize.calibration_cache import read_cache, write_cache
from hwsmpq.types import Ranges, TensorRange

CACHE_BITS = 8
OBSERVER = "TensorRT calibration cache"


@holding
def import_ranges(run: Run, file: Path) -> Ranges:
    """Take ranges that another run calibrated for the same weights. No calibration sample is read.

    Raises:
        HwsmpqError: they are of another network or scheme, or lack a bit-width of the ladder.
    """
    ranges = artifacts.read(file, Ranges)
    reason = mismatch(run, ranges)
    if reason:
        raise HwsmpqError(
            f"{file} does not fit this run", reason,
            "take ranges of the same weights, or change --target or --ladder to what they are for",
        )
    run.artifacts.write(ranges, {artifacts.IMPORTED: artifacts.file_digest(file)})
    return ranges


@holding
def import_cache(run: Run, file: Path) -> Ranges:
    """Take ranges from a calibration cache of TensorRT, which has symmetric ranges of 8 bits.

    Tensors go by the names of the task's own ONNX file, or of the one that hwsmpq writes for a network in torch.

    Raises:
        HwsmpqError: the file is no cache, lacks tensors, or the target or ladder needs other ranges.
    """
    if not run.scheme.signed_activations or run.integer_bits != [CACHE_BITS]:
        raise HwsmpqError(
            "a calibration cache holds symmetric ranges of 8 bits",
            f"target {run.target.name} with the ladder {','.join(run.ladder.names)} needs other ones",
            "take a TensorRT target and activations of 8 bits, or calibrate from samples",
        )
    magnitudes, names = read_cache(file.read_text(encoding="utf-8", errors="replace")), tensor_names(run)
    wanted = {*chain(*names.values())}
    missing = sorted(wanted - magnitudes.keys())
    if missing:
        raise HwsmpqError(
            f"{file} lacks {len(missing)} of {len(wanted)} tensors, such as {', '.join(missing[:3])}",
            f"it has {len(magnitudes)}, such as {', '.join(list(magnitudes)[:3])}",
            "give the cache of this ONNX file: its tensors are matched by name",
        )
    def symmetric(size: float) -> TensorRange:
        return TensorRange(-size, size, {CACHE_BITS: (-size, size)})

    layers, operands = (
        {layer: symmetric(magnitudes[read[index]]) for layer, read in names.items() if len(read) > index}
        for index in (0, 1)
    )
    digest = artifacts.file_digest(file)
    found = Ranges(run.network.model_sha256, digest, run.scheme.name, OBSERVER, 0, layers, operands=operands)
    run.artifacts.write(found, {artifacts.IMPORTED: digest})
    return found


@holding
def export_cache(run: Run, file: Path) -> Ranges:
    """Write the ranges of 8 bits as a calibration cache of TensorRT. It has no place for smoothing, and none for shifts
    of biases: ``--no-smooth --no-correct-bias`` calibrates without them.

    Raises:
        HwsmpqError: no activation of the ladder has 8 bits.
    """
    ranges = calibrate(run)
    if CACHE_BITS not in run.integer_bits:
        raise HwsmpqError(
            "no precision of the ladder has activations of 8 bits", "a calibration cache holds nothing else",
            "add int8 to --ladder",
        )
    found = {
        name: max(map(abs, of[layer].clip[CACHE_BITS]))
        for layer, read in tensor_names(run).items()
        for name, of in zip(read, (ranges.layers, ranges.operands), strict=False)
    }
    write_bytes(file, write_cache(found).encode())
    return ranges


def tensor_names(run: Run) -> dict[str, tuple[str, ...]]:
    """Layer -> names of what it reads in the task's ONNX file, or in the one that is written for a network in torch."""
    import onnx

    from hwsmpq.model.onnx_import import OnnxModule
    from hwsmpq.quantize.onnx_export import export_onnx

    if isinstance(run.task.model, OnnxModule):
        read = run.task.model.inputs_by_weight
        if all(layer.weight_name in read for layer in run.network.layers):
            return {layer.name: (read[layer.weight_name],) for layer in run.network.layers}
    nodes = {node.name: node for node in onnx.load_model_from_string(export_onnx(run.captured)).graph.node}
    return {layer.name: tuple(nodes[layer.name].input[: len(layer.tensors)]) for layer in run.network.layers}
