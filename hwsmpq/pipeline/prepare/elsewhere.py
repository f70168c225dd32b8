"""Costs that were measured on another machine: a cost table from there, or what ``trtexec`` alone has profiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwsmpq import artifacts
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import fit
from hwsmpq.hardware.loads import describe
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.hardware.tensorrt.trtexec import cost_table, import_engine
from hwsmpq.hardware.tensorrt.trtexec_kit import emit
from hwsmpq.pipeline.prepare.profile import loads_of
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import CostTable


@holding
def import_table(run: Run, file: Path) -> CostTable:
    """Take a cost table that was measured on another machine, for a network of the same architecture.

    Raises:
        HwsmpqError: it was measured for another network, target, ladder, batch or number of threads.
    """
    table, architecture = artifacts.read(file, CostTable), artifacts.architecture_digest(run.network)
    same = table.model_sha256 == run.network.model_sha256  # older versions hashed architectures otherwise
    wanted = {
        "network": (architecture if same else table.architecture, architecture),
        "target": (table.target, run.target.name),
        "ladder": (",".join(table.ladder), ",".join(run.ladder.names)),
        "inputs": (table.machine.get("inputs"), describe(loads_of(run))),
        "number of threads": (table.machine.get("n_threads", "1"), str(run.settings.threads)),
        "number of streams": (table.machine.get("n_streams", "1"), str(run.settings.streams)),
    }
    for what, (found, asked) in wanted.items():
        if found != asked:
            raise HwsmpqError(
                f"{file} was measured for another {what}", f"it has {found}, this run {asked}",
                "take a table of this network, or change --target, --ladder, --batch or --threads to what it has",
            )
    fit(table, run.network)
    run.artifacts.write(table, {artifacts.IMPORTED: artifacts.file_digest(file)})
    return table


@holding
def emit_profile(run: Run, folder: Path) -> Path:
    """Write a folder to profile the network with on a machine that has ``trtexec``.

    Raises:
        HwsmpqError: the target is no TensorRT, or the folder is not empty.
    """
    _require_tensorrt(run)
    prepared = prepare(run)
    mixtures = draw_mixtures(prepared.network, run.ladder, run.settings.n_mixtures, run.settings.seed)
    emit(folder, prepared.network, run.ladder, mixtures, prepared.builder.write_onnx)
    return folder


@holding
def import_profile(run: Run, files: Sequence[Path]) -> CostTable:
    """Make the cost table of the run from profiles taken elsewhere.

    Args:
        files: layer information and profile of one engine after the other, as ``trtexec --exportLayerInfo
            --exportProfile`` writes them: a uniform engine a precision of the ladder, and mixtures.

    Raises:
        HwsmpqError: the target is no TensorRT, a file cannot be read, or the files do not cover the ladder.
    """
    _require_tensorrt(run)
    if len(files) % 2:
        raise HwsmpqError(
            f"{len(files)} file(s) are no pairs", "every engine has its layer information and its profile",
            "give both of each engine, one engine after the other",
        )
    network = prepare(run).network
    engines = [import_engine(layers, profile) for layers, profile in zip(files[::2], files[1::2], strict=True)]
    machine = next((dict(engine.machine) for engine in engines if engine.machine), run.target.machine())
    table = cost_table(engines, network, run.ladder, run.target.name, machine)
    run.artifacts.write(table, {artifacts.IMPORTED: artifacts.digest([*map(artifacts.file_digest, files)])})
    return table


def _require_tensorrt(run: Run) -> None:
    if not run.target.name.startswith("tensorrt"):
        raise HwsmpqError(
            f"target {run.target.name} is not profiled by trtexec", "trtexec times engines of TensorRT",
            "name the device, for example --target tensorrt:sm87",
        )
