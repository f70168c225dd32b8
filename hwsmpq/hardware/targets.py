"""The known targets by name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import HERE, Device
from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
from hwsmpq.hardware.onnxruntime_cpu import OnnxruntimeCpuTarget
from hwsmpq.hardware.openvino_cpu import OpenvinoCpuTarget
from hwsmpq.hardware.remote import reach
from hwsmpq.hardware.target import Target
from hwsmpq.hardware.tensorrt.target import TensorrtRtxTarget, TensorrtTarget
from hwsmpq.hardware.torch_cuda import TorchCudaTarget
from hwsmpq.types import FLEXIBLE_TARGET, Settings

Maker = Callable[[str], Target]
"""Makes a target from what stands behind the colon of its name."""


def _plain(kind: type[Target]) -> Maker:
    def make(options: str) -> Target:
        if options:
            raise HwsmpqError(f"target {kind.name} takes no options", f"{options!r} was given", f"name it {kind.name}")
        return kind()

    return make


KINDS: dict[str, Maker] = {
    "openvino-cpu": OpenvinoCpuTarget,
    "onnxruntime-cpu": _plain(OnnxruntimeCpuTarget),
    "tensorrt": TensorrtTarget,
    "tensorrt-rtx": TensorrtRtxTarget,
    "torch-cuda": TorchCudaTarget,
    FLEXIBLE_TARGET: OnnxQdqTarget,
}
"""All known kinds of targets."""


def targets(device: str = "") -> dict[str, Target]:
    """One target of every kind by name, usable on this machine or not; those that a device may have, for a device."""
    found = {}
    for name, make in KINDS.items():
        target = make("")
        if target.anywhere or not device:
            found[name] = target.on(_device(device))
    return found


def get_target(name: str, device: str = "") -> Target:
    """The target of that name, for example ``openvino-cpu`` or ``tensorrt-rtx:sm89``.

    Args:
        device: a command that starts Python on the machine with its engines; empty is this machine.

    Raises:
        HwsmpqError: no such kind (lists the known ones), options that it does not know, or a target that runs on this
            machine only.
    """
    kind, _, options = name.partition(":")
    if kind not in KINDS:
        raise HwsmpqError(f"unknown target {name!r}", fix=f"one of {', '.join(sorted(KINDS))}")
    return KINDS[kind](options).on(_device(device))


def target_for(ladder: Collection[str], notify: Callable[[str], None] | None = None) -> str:
    """The usual target where it offers every precision of a ladder or no other would, else the one that writes any
    bits, which ``notify`` is told."""
    offered = get_target(Settings.target).native
    foreign = [name for name in ladder if name not in offered]
    if not foreign or any(name not in get_target(FLEXIBLE_TARGET).native for name in foreign):
        return Settings.target
    if notify:
        notify(
            f"target {FLEXIBLE_TARGET} is taken, since {Settings.target} has no {', '.join(foreign)}. BitOps and sizes"
            " are counted, and nothing is timed. --target names another one"
        )
    return FLEXIBLE_TARGET


def _device(command: str) -> Device:
    """The device that a command reaches; this machine for an empty one."""
    return reach(command) if command else HERE
