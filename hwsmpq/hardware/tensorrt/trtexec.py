"""Engines that were built and timed by ``trtexec`` on another machine, and the cost table that they make.

The files are self-describing: the layer information (``--exportLayerInfo`` at detailed verbosity) says which precision
every layer ran in, the profile (``--exportProfile``) how long every kernel took, the times (``--exportTimes``) how long
the engine did. What writes them is in :mod:`hwsmpq.hardware.tensorrt.trtexec_kit`. Checked with recorded files of
TensorRT 8, 10.14 and 11.0; untested on a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsmpq.artifacts import architecture_digest
from hwsmpq.device.tensorrt import attribution
from hwsmpq.device.tensorrt.inspector import parse_inspector
from hwsmpq.device.tensorrt.kernels import Kernel, realised
from hwsmpq.device.timing import spread
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import Assignment, CostTable, EngineTiming, Ladder, Measurement, Network

LAYERS, PROFILE, TIMES, LOG = ".layers.json", ".profile.json", ".times.json", ".log"
"""What the files of an engine are called after its name."""
LOGGED = {
    "device": (r"Selected Device: (.+)", "{}"),
    "compute_capability": (r"Compute Capability: ([\d.]+)", "{}"),
    "runtime": (r"TensorRT version: ([\d.]+)", "tensorrt {}"),
}
"""What trtexec logs of the machine, and how a target writes it, by the key of ``Target.machine``."""


@dataclass(frozen=True)
class ImportedEngine:
    """An engine that was built and timed elsewhere.

    Attributes:
        path: the file of its layer information.
        kernels: its kernels.
        kernel_ms: median milliseconds of every kernel that was timed, by name.
        total: one inference; a single sample without spread where it is only known as the sum of the kernels.
        machine: what its log says of the machine; empty without a log.
    """

    path: Path
    kernels: tuple[Kernel, ...]
    kernel_ms: Mapping[str, float]
    total: Measurement
    machine: Mapping[str, str]

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        """Precision name that every layer ran in.

        Raises:
            HwsmpqError: a layer cannot be found in the engine.
        """
        with _naming(self.path):
            return {layer: realised(self.kernels, layer) for layer in layers}

    def layer_ms(self, layers: Sequence[str]) -> dict[str, float]:
        """Milliseconds a layer, and what belongs to none; see :func:`hwsmpq.device.tensorrt.attribution.layer_ms`.

        Raises:
            HwsmpqError: a layer cannot be found in the engine, or was not timed.
        """
        with _naming(self.path):
            return attribution.layer_ms(self.kernel_ms, self.kernels, layers)


def import_engine(layers_json: Path, profile_json: Path) -> ImportedEngine:
    """Read an engine from its layer information and profile, and its times and log where they lie beside these.

    Raises:
        HwsmpqError: a file cannot be read, or the two are not of one engine.
    """
    text = _text(layers_json)
    with _naming(layers_json):
        kernels = parse_inspector(text)
    _, kernel_ms = read_profile(profile_json)
    if not kernel_ms.keys() & {kernel.name for kernel in kernels}:
        raise HwsmpqError(
            f"{profile_json} does not belong to {layers_json}", "they have no kernel in common",
            "give the two files of one run of trtexec",
        )
    stem = str(layers_json).removesuffix(LAYERS)
    times_json, log = Path(stem + TIMES), Path(stem + LOG)
    if times_json.is_file():
        times = np.array(read_times(times_json))
        total = Measurement(float(np.median(times)), spread(times), len(times))
    else:
        total = Measurement(sum(kernel_ms.values()), 0.0, 1)
    return ImportedEngine(layers_json, kernels, kernel_ms, total, read_machine(log) if log.is_file() else {})


def read_profile(path: Path) -> tuple[int, dict[str, float]]:
    """Number of runs, and milliseconds a kernel in the median run (in the mean one of a version without medians).

    Raises:
        HwsmpqError: the file cannot be read or is no profile.
    """
    try:
        header, *entries = _json(path)
        kernel_ms: dict[str, float] = {}
        for entry in entries:
            ms = entry["medianMs"] if "medianMs" in entry else entry["averageMs"]
            kernel_ms[entry["name"]] = kernel_ms.get(entry["name"], 0.0) + float(ms)
        return int(header["count"]), kernel_ms
    except (KeyError, TypeError, ValueError) as error:
        raise HwsmpqError(
            f"{path} is no profile of trtexec", f"{type(error).__name__}: {error}",
            "give the file that `trtexec --exportProfile=` wrote",
        ) from error


def read_times(path: Path) -> list[float]:
    """Milliseconds that the GPU computed, an inference.

    Raises:
        HwsmpqError: the file cannot be read or holds no times.
    """
    try:
        times = [float(entry["computeMs"]) for entry in _json(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise HwsmpqError(
            f"{path} has no times of trtexec", f"{type(error).__name__}: {error}",
            "give the file that `trtexec --exportTimes=` wrote",
        ) from error
    if not times:
        raise HwsmpqError(f"{path} has no times", "it lists no inference", "run trtexec again")
    return times


def read_machine(log: Path) -> dict[str, str]:
    """Device, compute capability and version of TensorRT from what trtexec logged.

    Raises:
        HwsmpqError: the file cannot be read.
    """
    text = _text(log)
    found = {key: re.search(pattern, text) for key, (pattern, _) in LOGGED.items()}
    return {key: LOGGED[key][1].format(match[1]) for key, match in found.items() if match}


def cost_table(
    engines: Sequence[ImportedEngine],
    network: Network,
    ladder: Ladder,
    target: str,
    machine: Mapping[str, str],
) -> CostTable:
    """The cost table of engines from one machine: a uniform one a precision of the ladder, the others mixtures.

    An engine is uniform at a precision if every layer runs in what its group runs when that is asked for.

    Raises:
        HwsmpqError: no engine is uniform at a precision (names a layer and what it ran in), an engine is neither
            uniform nor a mixture of the ladder, or the engines were timed on different machines.
    """
    machines = [dict(engine.machine) for engine in engines if engine.machine]
    other = next((found for found in machines if found != machines[0]), None)
    if other is not None:
        raise HwsmpqError(
            "the engines were timed on different machines", f"{machines[0]} and {other}",
            "profile all of them on one machine",
        )
    layers = [layer.name for layer in network.layers]
    ran = [engine.realised(layers) for engine in engines]
    uniform = {name: _uniform(engines, ran, network, name) for name in ladder.names}
    group_ms: dict[str, dict[str, float]] = {group: {} for group in network.group_names}
    for name, index in uniform.items():
        layer_ms = engines[index].layer_ms(layers)
        for group in network.groups:
            group_ms[group.name][name] = sum(layer_ms[layer] for layer in group.layers)
    reference = engines[uniform[ladder.top]].total
    mixtures = [
        EngineTiming(_mixture(engine, precisions, network, ladder), engine.total, reference)
        for index, (engine, precisions) in enumerate(zip(engines, ran, strict=True))
        if index not in uniform.values()
    ]
    uniform_ms = {name: engines[index].total for name, index in uniform.items()}
    return CostTable(
        target, dict(machine), network.model_sha256, ladder.names, group_ms, uniform_ms, tuple(mixtures),
        architecture=architecture_digest(network),
    )


def _uniform(
    engines: Sequence[ImportedEngine], ran: Sequence[Mapping[str, str]], network: Network, precision: str
) -> int:
    """Index of the engine that is uniform at a precision; ``ran`` are the precisions of each one's layers."""
    asked = network.uniform(precision)
    wanted = {layer: asked[group.name] for group in network.groups for layer in group.layers}
    odd = [[layer for layer, name in wanted.items() if precisions[layer] != name] for precisions in ran]
    closest = min(range(len(engines)), key=lambda index: len(odd[index]), default=None)
    if closest is None:
        raise HwsmpqError("there are no engines", fix="give the layer information and the profile of at least two")
    if odd[closest]:
        layer = odd[closest][0]
        raise HwsmpqError(
            f"no engine runs every layer in {precision}",
            f"{engines[closest].path}, the closest, ran layer {layer!r} in {ran[closest][layer]} instead of "
            f"{wanted[layer]} ({len(odd[closest])} such layers)",
            f"add the files of the engine that is {precision} throughout",
        )
    return closest


def _mixture(
    engine: ImportedEngine, precisions: Mapping[str, str], network: Network, ladder: Ladder
) -> Assignment:
    """Precision of every group of an engine."""
    assignment: Assignment = {}
    levels = network.levels(ladder.names)
    for group in network.groups:
        allowed = levels[group.name]
        first = precisions[group.layers[0]]
        odd = [layer for layer in group.layers if precisions[layer] not in allowed or precisions[layer] != first]
        if odd:
            raise HwsmpqError(
                f"{engine.path} is no mixture of the ladder {','.join(ladder.names)}",
                f"it ran layer {odd[0]!r} of group {group.name!r} in {precisions[odd[0]]}",
                "leave its files out, or give a ladder with that precision",
            )
        assignment[group.name] = first
    return assignment


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file into errors that speak of what it holds."""
    try:
        yield
    except HwsmpqError as error:
        raise HwsmpqError(f"{path}: {error.what}", error.why, error.fix) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HwsmpqError(f"cannot read {path}", str(error), "check the path") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise HwsmpqError(f"{path} is not JSON", str(error), "export it again with trtexec") from error
