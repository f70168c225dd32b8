"""Weights that take the place of the network's in the plan's engine: reconstructed, or trained."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from hwsmpq import artifacts
from hwsmpq.artifacts import file_digest
from hwsmpq.engine.build import Builder
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.network import QuantizedNetwork
from hwsmpq.types import Plan, Ranges, Reconstructed, Trained

WEIGHTS_FILE = "weights.safetensors"
CHECKPOINT_FILE = "checkpoint.pt"
OF_ONE_CALL = {Trained: ("samples", "recipe", "objective"), Reconstructed: ("samples", "recipe", "trained_on")}
"""What one training or reconstruction of a plan asked for; another counts for the plan as well."""

Learned = Trained | Reconstructed


def reconstructed(prepared: Prepared, plan: Plan) -> Reconstructed | None:
    """What was reconstructed for a plan; None if nothing was, or only for another plan."""
    return prepared.run.read(Reconstructed) if _is_for(prepared, plan, Reconstructed, ()) else None


def trained(prepared: Prepared, plan: Plan) -> Trained | None:
    """What was trained for a plan, beginning with what is reconstructed for it now; None if nothing was."""
    without = () if reconstructed(prepared, plan) else (Reconstructed,)
    return prepared.run.read(Trained) if _is_for(prepared, plan, Trained, without) else None


def learned(prepared: Prepared, plan: Plan) -> Learned | None:
    """What the plan's engine is built from; None stands for the network as it came."""
    return trained(prepared, plan) or reconstructed(prepared, plan)


def starting_point(prepared: Prepared, result: Learned | None) -> tuple[Captured, Ranges]:
    """The network with learned weights, and the ranges that belong to them."""
    if result is None:
        return prepared.captured, prepared.ranges
    path = weights_file(prepared.run, type(result))
    if not path.is_file() or file_digest(path) != result.weights_sha256:
        made = prepared.run.path(type(result))
        verb = "finetune" if isinstance(result, Trained) else "reconstruct"
        raise HwsmpqError(
            f"{path} is missing or was changed after it was written", f"its hash is not that in {made}",
            f"delete {made} and run `hwsmpq {verb}` again",
        )
    return prepared.captured.with_weights(load_file(path)), result.ranges


def builder_of(prepared: Prepared, plan: Plan) -> Builder:
    """Builds the plan's engine, of learned weights if there are any for it."""
    result = learned(prepared, plan)
    return prepared.builder if result is None else prepared.run.builder_with(*starting_point(prepared, result))


def simulator_of(prepared: Prepared, plan: Plan) -> Simulator:
    """Simulates the plan, with learned weights if there are any for it."""
    run, result = prepared.run, learned(prepared, plan)
    if result is None:
        return prepared.simulator
    return Simulator(*starting_point(prepared, result), run.scheme, run.settings.memory_mb)


def store_weights(run: Run, kind: type[Learned], network: QuantizedNetwork) -> str:
    """Write the weights that belong to an artifact, and remove its checkpoint; the hash of the file."""
    path = weights_file(run, kind)
    artifacts.write_bytes(path, save(network.weights()))
    checkpoint_file(run, kind).unlink(missing_ok=True)
    return file_digest(path)


def weights_file(run: Run, kind: type[Learned]) -> Path:
    return run.path(kind).parent / WEIGHTS_FILE


def checkpoint_file(run: Run, kind: type[Learned]) -> Path:
    return run.path(kind).parent / CHECKPOINT_FILE


def _is_for(prepared: Prepared, plan: Plan, kind: type[Learned], without: tuple[type, ...]) -> bool:
    run, of_others = prepared.run, dict.fromkeys(OF_ONE_CALL[kind])
    wanted = run.inputs(kind, without, assignment=prepared.network.realise(plan.assignment), **of_others)
    recorded = run.artifacts.made_from(kind)
    return all(recorded.get(name) == wanted[name] for name in wanted.keys() - of_others)
