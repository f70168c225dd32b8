"""The one place that imports TensorRT and builds with it: ``tensorrt`` (8.5 to 11.x) and ``tensorrt_rtx``, which share
their interface.

From 10.x on networks are strongly typed: every type stands in the ONNX file, as Q/DQ and Cast nodes, and nothing else
decides it. In 8.x explicit Q/DQ decides what is computed in int8, and constraints on layers what is computed in fp16
(see :mod:`hwsmpq.device.tensorrt.weak_typing`). Building with TensorRT-RTX needs no GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsmpq.device.files import write_bytes
from hwsmpq.device.tensorrt import weak_typing
from hwsmpq.device.tensorrt.inspector import parse_inspector
from hwsmpq.device.tensorrt.kernels import Kernel, parse_listing
from hwsmpq.device.tensorrt.loaded import Deserialized
from hwsmpq.device.tensorrt.log import MAX_REASON, logger
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCHES = (1, 8, 32)
"""Of a network that takes any number of samples: the fewest that its engine takes, those that it is tuned for, and the
most."""
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}


@dataclass(frozen=True, eq=False)
class Built:
    """A serialized engine, the kernels in it, and how it was built.

    Attributes:
        layers_json: what the engine inspector says of the engine; empty where the builder's log lists the kernels.
        notes: what is worth knowing of the build, such as constraints that could not be kept.
        warnings: what the builder warned of.
    """

    plan: bytes
    kernels: tuple[Kernel, ...]
    layers_json: str
    seconds: float
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def missing(flavour: str) -> str | None:
    """What to install to use a flavour of TensorRT, or None."""
    if importlib.util.find_spec(MODULES[flavour]) is not None:
        return None
    return f"the {MODULES[flavour]} package is not installed (pip install {PACKAGES[flavour]})"


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


def is_strongly_typed(module: Any) -> bool:
    """Whether the types of a network are those in its file."""
    return hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def build_engine(
    module: Any,
    onnx: Path,
    capability: str | None = None,
    tf32: bool = False,
    timing_cache: Path | None = None,
    layers: Mapping[str, str] | None = None,
) -> Built:
    """Build the engine of a Q/DQ ONNX file.

    Args:
        module: from :func:`load_module`.
        capability: compute capability to build for (``sm89``); None builds for the GPU that is here.
        tf32: whether products of fp32 may be rounded to TF32.
        timing_cache: file that keeps what earlier builds measured, so that they choose alike (classic TensorRT).
        layers: precision of every layer by its name, for versions whose networks are not strongly typed.

    Raises:
        HwsmpqError: the parser or the builder refuses the network (names the operation), or the device.
    """
    log = logger(module)
    log.start()
    start = time.perf_counter()
    try:
        builder = module.Builder(log)
    except TypeError as error:  # what the bindings make of a null pointer
        raise HwsmpqError(
            "TensorRT cannot build here", log.reason(), "check GPU and driver with `nvidia-smi`"
        ) from error
    strong = is_strongly_typed(module)
    flags = module.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED if strong else flags.EXPLICIT_BATCH))
    parser = module.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise _refused(onnx, " ".join(map(_described, errors)) + " " + log.reason())
    config = builder.create_builder_config()
    _add_profile(builder, network, config)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    (config.set_flag if tf32 else config.clear_flag)(module.BuilderFlag.TF32)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(module.ComputeCapability, capability.upper()), 0)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    notes: tuple[str, ...] = ()
    if strong:
        plan = builder.build_serialized_network(network, config)
    else:
        plan, notes = weak_typing.build(module, builder, network, config, layers or {}, log)
    if plan is None:
        raise _refused(onnx, log.reason())
    if timing_cache is not None:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    seconds, data = time.perf_counter() - start, bytes(plan)
    if log.listing:
        return Built(data, parse_listing(log.listing), "", seconds, notes, log.warnings)
    text = Deserialized(data, module).inspector_json()
    return Built(data, parse_inspector(text), text, seconds, notes, log.warnings)


def _add_profile(builder: Any, network: Any, config: Any) -> None:
    """Say how many samples a network is to take, where its file leaves that open."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    open_inputs = {tensor.name: tuple(tensor.shape)[1:] for tensor in inputs if tuple(tensor.shape)[:1] == (-1,)}
    if open_inputs:
        profile = builder.create_optimization_profile()
        for name, sizes in open_inputs.items():
            profile.set_shape(name, *((n, *sizes) for n in BATCHES))
        config.add_optimization_profile(profile)


def _described(error: Any) -> str:
    """A parser's error with the node that it speaks of; 8.x knows its number only."""
    if hasattr(error, "node_name"):
        return f"{error.node_name()} ({error.node_operator()}): {error.desc()}"
    return f"node {error.node()}: {error.desc()}"


def _refused(onnx: Path, reason: str) -> HwsmpqError:
    return HwsmpqError(
        f"TensorRT refuses {onnx}", reason[:MAX_REASON].strip(),
        "replace the operation it names, change --ladder, or choose another --target",
    )
