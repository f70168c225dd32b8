"""ONNX's LSTM and GRU, in torch. They stay in full precision: their products are no layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError


def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Any = None, h: Tensor | None = None,
    c: Tensor | None = None, p: Any = None, *, hidden_size: int, direction: str = "forward", layout: int = 0,
    activations: Any = None, **others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(Y, Y_h, Y_c). Gates are i, o, f, c here and i, f, c, o in torch. ``x`` is (steps, batch, inputs)."""
    _check("LSTM", lengths, layout, direction, p, others, activations, ["Sigmoid", "Tanh", "Tanh"])
    weights = _weights(w, r, b, (0, 2, 3, 1))
    start = [_start(state, x, len(w), hidden_size) for state in (h, c)]
    y, last_h, last_c = torch.lstm(
        x, start, weights, b is not None, 1, 0.0, False, direction == "bidirectional", False
    )
    return _by_direction(y, len(w)), last_h, last_c


def gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Any = None, h: Tensor | None = None, *,
    hidden_size: int, direction: str = "forward", layout: int = 0, linear_before_reset: int = 0,
    activations: Any = None, **others: Any,
) -> tuple[Tensor, Tensor]:
    """(Y, Y_h). Gates are z, r, h here and r, z, h in torch. ``x`` is (steps, batch, inputs)."""
    _check("GRU", lengths, layout, direction, None, others, activations, ["Sigmoid", "Tanh"])
    if not linear_before_reset:
        raise _not_read("GRU", "resets before the product (linear_before_reset=0)")
    weights = _weights(w, r, b, (1, 0, 2))
    y, last = torch.gru(
        x, _start(h, x, len(w), hidden_size), weights, b is not None, 1, 0.0, False, direction == "bidirectional", False
    )
    return _by_direction(y, len(w)), last


def _weights(w: Tensor, r: Tensor, b: Tensor | None, order: tuple[int, ...]) -> list[Tensor]:
    """Torch's parameters of every direction, its gates in torch's order."""
    found = []
    for direction in range(w.shape[0]):
        found += [_ordered(w[direction], order), _ordered(r[direction], order)]
        if b is not None:
            found += [_ordered(half, order) for half in b[direction].chunk(2)]
    return found


def _ordered(parameter: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = parameter.chunk(len(order))
    return torch.cat([gates[i] for i in order])


def _start(state: Tensor | None, x: Tensor, n_directions: int, n: int) -> Tensor:
    return x.new_zeros(n_directions, x.shape[1], n) if state is None else state


def _by_direction(y: Tensor, n_directions: int) -> Tensor:
    """(steps, batch, directions * n) -> (steps, directions, batch, n)."""
    steps, batch, _ = y.shape
    return y.reshape(steps, batch, n_directions, -1).transpose(1, 2)


def _check(
    operator: str, lengths: Any, layout: int, direction: str, peepholes: Any, others: dict[str, Any],
    activations: Any, usual: list[str],
) -> None:
    if lengths is not None:
        raise _not_read(operator, "has sequences of several lengths")
    if layout:
        raise _not_read(operator, "has the batch first (layout=1)")
    if direction == "reverse":
        raise _not_read(operator, "runs backwards only")
    if peepholes is not None:
        raise _not_read(operator, "has peepholes")
    if activations and list(activations) not in (usual, usual * 2):
        raise _not_read(operator, f"has activations {', '.join(activations)}")
    if any(value for name, value in others.items() if name in ("clip", "input_forget")):
        raise _not_read(operator, "clips or couples its gates")


def _not_read(operator: str, form: str) -> HwsmpqError:
    return HwsmpqError(f"a {operator} that {form} is not read", "torch has none", "export the network without it")
