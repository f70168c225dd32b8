"""Activation ranges that were calibrated on another machine, or by TensorRT; and ranges for TensorRT."""

from __future__ import annotations

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
    missing = sorted({name for name in names.values() if name not in magnitudes})
    if missing:
        raise HwsmpqError(
            f"{file} lacks {len(missing)} of {len(set(names.values()))} tensors, such as {', '.join(missing[:3])}",
            f"it has {len(magnitudes)}, such as {', '.join(list(magnitudes)[:3])}",
            "give the cache of this ONNX file: its tensors are matched by name",
        )
    ranges = {
        layer: TensorRange(-magnitudes[name], magnitudes[name], {CACHE_BITS: (-magnitudes[name], magnitudes[name])})
        for layer, name in names.items()
    }
    digest = artifacts.file_digest(file)
    found = Ranges(run.network.model_sha256, digest, run.scheme.name, OBSERVER, 0, ranges)
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
    clips = {layer: ranges.layers[layer].clip[CACHE_BITS] for layer in ranges.layers}
    names = tensor_names(run)
    write_bytes(file, write_cache({names[layer]: max(map(abs, clip)) for layer, clip in clips.items()}).encode())
    return ranges


def tensor_names(run: Run) -> dict[str, str]:
    """Layer -> name of its input in the task's ONNX file, or in the one that is written for a network in torch."""
    import onnx

    from hwsmpq.model.onnx_import import OnnxModule
    from hwsmpq.quantize.onnx_export import export_onnx

    if isinstance(run.task.model, OnnxModule):
        read = run.task.model.inputs_by_weight
        if all(layer.weight_name in read for layer in run.network.layers):
            return {layer.name: read[layer.weight_name] for layer in run.network.layers}
    nodes = {node.name: node for node in onnx.load_model_from_string(export_onnx(run.captured)).graph.node}
    return {layer.name: nodes[layer.name].input[0] for layer in run.network.layers}
