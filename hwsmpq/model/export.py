"""A model as a functional graph that takes any number of samples: recorded where that can be done, else exported."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.decompose import decomposed
from hwsmpq.model.inputs import call
from hwsmpq.model.outputs import register
from hwsmpq.model.refusals import cannot_be_exported, does_not_run
from hwsmpq.model.state import State
from hwsmpq.model.tensors import set_parameter

EXPORT_BATCH = 2
OTHER_BATCHES = (3, 4, 8, 16, 32, 64)
"""That a model may be written for alone."""


class FixedBatch(HwsmpqError):
    """A model takes no number of samples but one."""


Varying = tuple[tuple[int, ...], ...]
"""Of every input, the dimensions besides that of the samples whose size is open."""


def exported(
    model: nn.Module, example: tuple[Tensor, ...], names: tuple[str, ...], state: State, n_rows: int, varying: Varying
) -> tuple[tuple[Tensor, ...], Any, fx.GraphModule]:
    """Copies of a sample, what the model gives for them, and its graph."""
    rows = tuple(x[:1].expand(n_rows, *x.shape[1:]).contiguous() for x in example)
    outputs = _run_once(model, rows, names, state)
    graph = _recorded(model, rows, names) if n_rows > 1 and not any(varying) else None
    if graph is None:
        state.restore()
        graph = _export(model, rows, names, varying)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    # Torch picks kernels of attention by whether gradients are wanted, and their layouts differ.
    for name, parameter in list(graph.named_parameters()):
        set_parameter(graph, name, parameter.detach())
    return rows, outputs, graph


def _recorded(model: nn.Module, rows: tuple[Tensor, ...], names: tuple[str, ...]) -> fx.GraphModule | None:
    """The graph as it was recorded; None where it has to be exported."""
    try:
        from hwsmpq.model.record import recorded
    except ImportError:  # it stands on private classes of torch, which another version may not have
        return None
    return recorded(model, rows, names)


def _run_once(model: nn.Module, rows: tuple[Tensor, ...], names: tuple[str, ...], state: State) -> Any:
    """What the model gives. It is left as it was in ``state``, but for what it kept of calls with other inputs.

    Raises:
        HwsmpqError: it does not run on these inputs, or on a single sample only.
    """

    def run(n: int) -> Any:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return call(model, tuple(x[:n].clone() for x in rows), names)

    try:
        outputs = run(len(rows[0]))
    except Exception as error:
        if len(rows[0]) > 1 and _runs(run, 1):
            raise _fixed_batch(model, f"it runs on one sample, and not on two: {str(error).strip()[:300]}") from error
        for n in OTHER_BATCHES:
            if _runs(lambda n: call(model, tuple(x[:1].expand(n, *x.shape[1:]).clone() for x in rows), names), n):
                raise _fixed_batch(model, f"it runs on {n} samples together, and neither on 1 nor on 2") from error
        raise does_not_run(model, rows, names, error) from error
    caches = state.changed()
    with suppress(Exception):  # the check of the graph says what is wrong with a sample alone
        run(1)
    caches += state.changed()
    state.forget(caches)
    state.restore()
    register(outputs)
    return outputs


def _runs(run: Callable[[int], Any], n: int) -> bool:
    try:
        with torch.no_grad():
            run(n)
    except Exception:
        return False
    return True


def _fixed_batch(model: nn.Module, why: str) -> FixedBatch:
    return FixedBatch(
        f"{type(model).__name__} fixes the batch size", why,
        "keep dimension 0 of inputs and outputs free: take its size from x.shape[0], not from a constant, as in"
        " x.reshape(x.shape[0], -1)",
    )


def open_sizes(varying: Varying, batch: torch.export.Dim | None) -> tuple[dict[int, Any], ...]:
    """What an export is told of the sizes of inputs: the number of samples, if it is open, and ``varying``."""
    samples = {} if batch is None else {0: batch}
    return tuple(samples | dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for dims in varying)


def _export(model: nn.Module, rows: tuple[Tensor, ...], names: tuple[str, ...], varying: Varying) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1, max=1 << 20) if len(rows[0]) > 1 else None
    args, kwargs = ((), dict(zip(names, rows, strict=True))) if names else (rows, {})
    sizes = open_sizes(varying, batch)
    shapes = dict(zip(names, sizes, strict=True)) if names else _as_taken(model, sizes)
    try:
        # Torch prints the graph of a failed export; the error below says what failed in one message.
        with redirect_stderr(io.StringIO()):
            exported = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
        graph = decomposed(exported)
    except Exception as error:
        text = str(error).strip()
        if "Constraints violated" in text:
            reasons = [line.strip(" -") for line in text.splitlines() if "batch" in line and "violated" not in line]
            if any(varying) and not reasons:
                raise _fixed_size(model, text) from error
            raise _fixed_batch(model, reasons[0].split(". ")[0] if reasons else text[:300]) from error
        raise cannot_be_exported(model, error) from error
    for node in list(graph.graph.nodes):
        if "assert" in str(node.target) and not node.users:
            graph.graph.erase_node(node)
    return graph


def _fixed_size(model: nn.Module, text: str) -> HwsmpqError:
    reasons = [line.strip(" -") for line in text.splitlines() if "size()" in line or "Dim.DYNAMIC" in line]
    return HwsmpqError(
        f"{type(model).__name__} fixes a size that differs between samples", (reasons or [text])[0][:300],
        "take sizes in it from x.shape, not from constants; or pad or resize all samples to one shape",
    )


def _as_taken(model: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """One a parameter of ``forward``; what ``*inputs`` takes is together, if it takes any."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    n = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL), len(shapes))
    return (*shapes[:n], shapes[n:]) if n < len(shapes) else shapes
