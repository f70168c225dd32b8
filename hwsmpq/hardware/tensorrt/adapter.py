"""The one place that imports TensorRT: ``tensorrt`` (10.x, 11.x) and ``tensorrt_rtx``, which share their interface.

Networks are strongly typed: every type stands in the ONNX file, as Q/DQ and Cast nodes, and nothing else decides it.
Building with TensorRT-RTX needs no GPU; building with classic TensorRT is untested.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsmpq.artifacts import write_bytes
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.tensorrt.inspector import parse_inspector
from hwsmpq.hardware.tensorrt.kernels import Kernel, parse_listing
from hwsmpq.hardware.tensorrt.loaded import LoadedEngine
from hwsmpq.hardware.tensorrt.log import MAX_REASON, logger

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True, eq=False)
class Built:
    """A serialized engine, the kernels in it, and how long the build took."""

    plan: bytes
    kernels: tuple[Kernel, ...]
    seconds: float


def missing(flavour: str) -> str | None:
    """What to install to use a flavour of TensorRT, or None."""
    if importlib.util.find_spec(MODULES[flavour]) is not None:
        return None
    return f"the {MODULES[flavour]} package is not installed (pip install 'hwsmpq[{flavour}]')"


def load_module(flavour: str) -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        HwsmpqError: it is not installed, or a library that it needs is missing.
    """
    reason = missing(flavour)
    if reason:
        raise HwsmpqError(f"{flavour} cannot be used here", reason, "install it, or choose another --target")
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:
        raise HwsmpqError(
            f"{MODULES[flavour]} cannot be imported", str(error)[:300], "install it again, with the libraries it names"
        ) from error


def build_engine(
    module: Any, onnx: Path, capability: str | None, tf32: bool = False, timing_cache: Path | None = None
) -> Built:
    """Build the engine of a Q/DQ ONNX file.

    Args:
        module: from :func:`load_module`.
        capability: compute capability to build for (``sm89``); None builds for the GPU that is here.
        tf32: whether products of fp32 may be rounded to TF32.
        timing_cache: file that keeps what earlier builds measured, so that they choose alike (classic TensorRT).

    Raises:
        HwsmpqError: the parser or the builder refuses the network (names the operation), or the device.
    """
    log = logger(module)
    log.reason()
    log.listing = ""
    start = time.perf_counter()
    builder = module.Builder(log)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, log)
    if not parser.parse(onnx.read_bytes()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise _refused(onnx, " ".join(f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors))
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    (config.set_flag if tf32 else config.clear_flag)(module.BuilderFlag.TF32)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(module.ComputeCapability, capability.upper()), 0)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(onnx, log.reason())
    if timing_cache is not None:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    seconds = time.perf_counter() - start
    data = bytes(plan)
    if log.listing:
        return Built(data, parse_listing(log.listing), seconds)
    return Built(data, parse_inspector(LoadedEngine(data, module).inspector_json()), seconds)


def _refused(onnx: Path, reason: str) -> HwsmpqError:
    return HwsmpqError(
        f"TensorRT refuses {onnx}", reason[:MAX_REASON],
        "replace the operation it names, change --ladder, or choose another --target",
    )
