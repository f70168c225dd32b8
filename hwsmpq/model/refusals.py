"""Why a model does not run or cannot be exported, and the line to change."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError

MOST = 300
"""Characters that are quoted of an error."""
TOO_SMALL = ("can't be greater than actual input size", "Output size is too small", "Padding size should be less than")
"""What torch says where a window, or a padding by what is there, is larger than what it is laid over."""
OF_OTHER_TYPES = ("dtype", "scalar type", "should be the same")
DEPENDS_ON_DATA = ("data-dependent", "control flow", "dynamic shape operator")


def check_module(model: nn.Module) -> None:
    """Refuse modules that are scripted or traced, which hold no Python code to export.

    Raises:
        HwsmpqError: the model is one, or holds one (names it).
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise _scripted("the model is a ScriptModule")
    held = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if held is not None:
        raise _scripted(f"{type(model).__name__} holds a ScriptModule ({held})")


def does_not_run(
    model: nn.Module, rows: Sequence[Tensor], names: Sequence[str], error: Exception
) -> HwsmpqError:
    """The error of a model that fails on its inputs.

    Args:
        rows: what it was called with.
        names: of the arguments that they are; none where they are positional.
        error: that it raised.
    """
    said = f"{type(error).__name__}: {str(error).strip()[:MOST]}"
    called = "it was called with " + ", ".join(
        f"{name} " * bool(name) + f"{tuple(x.shape)} {_name(x.dtype)}"
        for name, x in zip(names or [""] * len(rows), rows, strict=True)
    )
    what = f"{type(model).__name__} does not run on its inputs: {said}"
    unfit = _unfit(model, rows, names)
    if unfit:
        parameters = ", ".join(_parameters(model))
        return HwsmpqError(
            f"{type(model).__name__} does not take these inputs: {unfit}", called,
            f"give one tensor an argument: a tuple in the order of forward({parameters}), or a dict by these names",
        )
    other = next((x.dtype for x in rows if x.is_floating_point() and x.dtype != torch.float32), None)
    if other is not None:
        return HwsmpqError(
            what, f"its inputs are {_name(other)}, its weights float32", "give float32 inputs: x = x.float()"
        )
    if any(text in str(error) for text in TOO_SMALL):
        return HwsmpqError(
            what, f"its inputs are too small: {called}",
            "give samples as large as those that it was trained with, of calibration and evaluation alike",
        )
    if any(text in str(error) for text in OF_OTHER_TYPES):
        return HwsmpqError(
            what, called, "give features as x.float() and indices as x.long(), as its first operations take them"
        )
    return HwsmpqError(
        what, called, "give inputs as the model takes them: one tensor an argument, float32 or integers, n rows each,"
        " or a dict of them by the names of the arguments",
    )


def cannot_be_exported(model: nn.Module, error: Exception) -> HwsmpqError:
    """The error of a model that runs, and whose graph torch cannot take."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summary = next(iter(lines), type(error).__name__)
    where = next((line for line in reversed(lines) if "File " in line or "aten." in line), type(error).__name__)
    fix = "write the operation or the line named above with operations of torch alone"
    if any(text in str(error) for text in DEPENDS_ON_DATA):
        fix = (
            "remove the branch or loop that depends on values of tensors: torch.where computes both sides and chooses,"
            " and sizes come from x.shape"
        )
    return HwsmpqError(f"{type(model).__name__} cannot be exported: {summary[:MOST]}", where[:MOST], fix)


def _scripted(what: str) -> HwsmpqError:
    return HwsmpqError(
        what, "torch.export takes the Python code of modules, which it does not hold",
        "give the nn.Module that it was scripted or traced from",
    )


def _unfit(model: nn.Module, rows: Sequence[Tensor], names: Sequence[str]) -> str:
    """What the signature of ``forward`` says against the inputs; empty where they fit it."""
    try:
        inspect.signature(model.forward).bind(*(() if names else rows), **dict(zip(names, rows, strict=False)))
    except TypeError as error:
        return str(error)
    return ""


def _parameters(model: nn.Module) -> list[str]:
    """Arguments of ``forward`` that have no default."""
    parameters = inspect.signature(model.forward).parameters.values()
    return [str(p).partition(":")[0] for p in parameters if p.default is p.empty]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
