"""A folder that is claimed for the network of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwsmpq import artifacts
from hwsmpq.engine.onnx_file import check_onnx_file
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import substitutes
from hwsmpq.lock import hold
from hwsmpq.model.agreement import tensors_of
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.outputs import pack
from hwsmpq.model.shapes import buckets, chunks, named
from hwsmpq.model.task import Task
from hwsmpq.types import REFERENCE, Network, Settings
from hwsmpq.types.constraints import groups_of, option

if TYPE_CHECKING:
    from hwsmpq.pipeline.run import Run


def claim(run: Run, task: Task) -> Captured:
    """The network of a run's task as its target runs it; from now on the folder belongs to it.

    Raises:
        HwsmpqError: the folder belongs to another model, or the target cannot take the shapes of its samples.
    """
    lock = hold(run.folder)
    captured = capture(task.model, task.calibration, task.input_names, task.ports, run.target.kinds)
    if any(captured.varying) and not run.target.takes_shapes:
        raise HwsmpqError(
            f"samples of the task have several shapes, and engines of {run.target.name} take one",
            f"the calibration data has {', '.join(map(named, buckets(task.calibration)))}",
            "pad or resize all samples to one shape, or take --target openvino-cpu, onnxruntime-cpu or onnx-qdq",
        )
    # Read as plain data: older versions described a network otherwise.
    path = run.path(Network)
    known = artifacts.read_envelope(path, Network)["payload"] if path.exists() else None
    if known is None:
        if captured.takes_one:
            run.notify(f"{task.name} takes one sample at a time: everything that runs it takes longer")
        _, some = next(chunks(tuple(x[:2] for x in task.evaluation.inputs), captured.at_once(2)))
        outputs = captured.graph(*some)
        task.judging(captured.form).check_outputs(pack(tensors_of(outputs)).detach())
        file = task.onnx_file
        if file and (reason := check_onnx_file(file, task.model, task.calibration)):
            run.notify(f"{file} was not compared with another reading of it: {reason}")
    elif known["model_sha256"] != captured.network.model_sha256:
        raise HwsmpqError(
            f"{run.folder} is the run folder of another model",
            f"it holds model {known['model_sha256'][:12]}, the task gives {captured.network.model_sha256[:12]}",
            "choose another folder with -o, or remove that one",
        )
    captured = captured.with_ties(run.target.ties(captured)).with_least_bits(run.target.least_weight_bits)
    captured = captured.with_excluded(_excluded(run, captured.network))
    runs = substitutes(run.target, captured.network, run.ladder)
    if artifacts.plain(captured.network) != known:
        run.artifacts.write(captured.network, {})
    if not run.artifacts.has(Settings) or run.read(Settings) != run.asked:
        run.artifacts.write(run.asked, {})
    del lock
    return captured.with_substitutes(runs)


def _excluded(run: Run, network: Network) -> dict[str, str]:
    """What excluded groups stay in: the top of the ladder where that is no quantization, else the reference."""
    stay = run.ladder.top if run.ladder[run.ladder.top].is_float else REFERENCE
    found = {
        group: stay for pattern in run.constraints.exclude
        for group in groups_of(network, pattern, option("exclude", pattern))
    }
    if len(found) == len(network.groups):
        raise HwsmpqError("no candidate is left", "all layers are excluded", "exclude fewer")
    return found
