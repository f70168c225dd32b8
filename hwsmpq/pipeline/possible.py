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
from hwsmpq.types.constraints import FORGOTTEN, of_precision
from hwsmpq.types.constraints import option as constraint


def check_settings(
    settings: Settings, target: Target, ladder: Ladder, workers: int, ray_address: str | None
) -> None:
    """Args: as of :class:`hwsmpq.pipeline.run.Run`, with the target and ladder that follow from the settings.

    Raises:
        HwsmpqError: unknown names, options that exclude each other, or a target that cannot be used or lacks a
            precision of the ladder or of a pin.
    """
    foreign = [name for name in ladder.names if name not in target.native]
    if foreign:
        raise HwsmpqError(
            _lacks(target, ", ".join(foreign)), _why(target, foreign[0]),
            "change --ladder, or take --target onnx-qdq for BitOps and size budgets without a latency claim",
        )
    for text in settings.constraints.pin:
        pinned = of_precision(text, "pin")[1].name
        if pinned not in target.native:
            raise HwsmpqError(
                f"{constraint('pin', text)}: {_lacks(target, pinned)}", _why(target, pinned),
                "name another precision." + FORGOTTEN,
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


def _lacks(target: Target, names: str) -> str:
    return f"target {target.name} has no {names}" + (" here" if target.has_latency else "")


def _why(target: Target, precision: str) -> str:
    return target.why_not(precision) or f"it offers {', '.join(target.native[-8:])}"
