"""Whether what is asked of a run can be done at all, before anything is made."""

from __future__ import annotations

from hwsmpq.contribution.estimators import ESTIMATORS
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import Target
from hwsmpq.model.values import VALUES
from hwsmpq.pipeline.evaluate.forked import CAN_FORK
from hwsmpq.quantize.histogram import OBSERVERS
from hwsmpq.sensitivity.registry import SENSITIVITIES
from hwsmpq.types import Ladder, Settings


def check_settings(
    settings: Settings, target: Target, ladder: Ladder, workers: int, ray_address: str | None
) -> None:
    """Args: as of :class:`hwsmpq.pipeline.run.Run`, with the target and ladder that follow from the settings.

    Raises:
        HwsmpqError: unknown names, options that exclude each other, or a target that cannot be used or lacks a
            precision of the ladder.
    """
    foreign = [name for name in ladder.names if name not in target.native]
    if foreign:
        raise HwsmpqError(
            f"target {target.name} has no {', '.join(foreign)}" + (" here" if target.has_latency else ""),
            target.why_not(foreign[0]) or f"it offers {', '.join(target.native[-8:])}",
            "change --ladder, or take --target onnx-qdq for BitOps and size budgets without a latency claim",
        )
    if settings.evaluate == "engine" and not target.has_latency:
        raise HwsmpqError(
            f"target {target.name} builds no engine that runs here", "--evaluate engine needs one",
            "take --evaluate simulator, or a target that measures latency",
        )
    if settings.evaluate == "engine" and (workers > 1 or ray_address):
        raise HwsmpqError(
            "--evaluate engine cannot be spread over workers", "engines are built by the process that owns the run",
            "leave out --workers and --ray, or take --evaluate simulator",
        )
    if workers > 1 and ray_address is None and not CAN_FORK:
        raise HwsmpqError(
            "--workers needs Linux", "other systems cannot copy a process",
            "leave it out, or name a cluster with --ray",
        )
    named = {"observer": OBSERVERS, "value": VALUES, "estimator": (*ESTIMATORS, *SENSITIVITIES)}
    for name, known in named.items():
        if getattr(settings, name) not in (None, *known):
            raise HwsmpqError(f"unknown {name} {getattr(settings, name)!r}", fix=f"one of {', '.join(known)}")
    reason = target.unavailable()
    if reason:
        where, option = ("on the device", " --device COMMAND") if settings.device else ("here", "")
        raise HwsmpqError(
            f"target {target.name} cannot be used {where}", reason, f"`hwsmpq targets{option}` lists what can",
        )
