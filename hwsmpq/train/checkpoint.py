"""What an interrupted training goes on from."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hwsmpq.artifacts import write_bytes
from hwsmpq.errors import HwsmpqError


def store(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write what goes on.

    Args:
        identity: of everything that the training depends on.
    """
    buffer = io.BytesIO()
    torch.save({"identity": identity, **state}, buffer)
    write_bytes(path, buffer.getvalue())


def go_on(path: Path | None, identity: str, restore: Callable[[dict[str, Any]], None]) -> None:
    """Restore what a checkpoint of the same identity holds, if there is one.

    Raises:
        HwsmpqError: it cannot be read.
    """
    if path is None or not path.exists():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] == identity:
            restore(state)
    except Exception as error:
        raise HwsmpqError(
            f"{path} cannot be read", f"{type(error).__name__}: {str(error)[:200]}",
            "delete it: the training then begins anew",
        ) from error


def check_device(device: str) -> None:
    """Raises:
        HwsmpqError: there is no such device here.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise HwsmpqError(f"no device {device!r}", str(error).splitlines()[0], "take cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise HwsmpqError(f"no device {device!r}", "torch finds no CUDA device here", "take --train-on cpu")
