"""One command on a run folder: its settings, a stage under progress bars, and what is shown of it."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hwsmpq.cli import display
from hwsmpq.cli.options import absolute
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.types import Ladder, Settings


def settings_of(folder: Path, task: str | None, given: dict[str, Any], quiet: bool = False) -> Settings:
    """What the folder remembers, changed by what the command line says. Unless ``quiet``, a target that follows from
    the ladder is named."""
    from hwsmpq.hardware.targets import target_for

    run = Folder(folder)
    changes = {name: value for name, value in given.items() if value not in (None, [])}
    # The folder remembers them, and may be gone on with from anywhere.
    task = absolute(task) if task else task
    if "data" in changes:
        changes["data"] = absolute(changes["data"])
    if "weights" in changes:
        changes["weights"] = os.path.abspath(changes["weights"])
    kind, _, file = changes.get("target", "").partition(":")
    if file.endswith(".json"):
        changes["target"] = f"{kind}:{os.path.abspath(file)}"
    known = run.read(Settings) if run.has(Settings) else None
    if "ladder" in changes:
        changes["ladder"] = Ladder.parse(changes["ladder"]).names
        if "target" not in changes and (known is None or known.target == Settings.target):
            changes["target"] = target_for(changes["ladder"], None if quiet else display.notify)
    if known is not None:
        return replace(known, **({"task": task} if task else {}), **changes)
    if task is None:
        raise HwsmpqError(
            f"no task given, and {folder} remembers none",
            fix="name a task, for example `hwsmpq run task.py -o runs/mine`",
        )
    return Settings(task=task, **changes)


def given_of(values: dict[str, Any]) -> dict[str, Any]:
    """The options that are settings."""
    names = {f.name for f in fields(Settings)} - {"task"}
    return {name: value for name, value in values.items() if name in names}


def in_folder(values: dict[str, Any], work: Callable[[Any], Any], show: Callable[[Any], None] | None) -> None:
    """Open the run folder, do one stage under progress bars, and print its result."""
    from torch._logging import set_logs

    from hwsmpq.pipeline.run import Run

    # Torch logs its own view of a failing export; the error that follows says it in one message.
    set_logs(all=logging.ERROR)
    gc.freeze()  # what was imported
    gc.enable()
    settings = settings_of(values["out"], values["task"], given_of(values), quiet=values["json"])
    with display.progress_bars(not values["json"]) as progress:
        result = work(
            Run(
                values["out"], settings, progress=progress, notify=progress.notify, status=progress.status,
                workers=values.get("workers") or 0, ray_address=values.get("ray"),
            )
        )
    if values["json"]:
        display.show_json(result)
    elif show and result is not None:
        show(result)
