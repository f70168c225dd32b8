"""The check that a captured graph is the network: same outputs, the same again, and the same for a sample alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.agreement import FLOOR, allowed, relative_error, tensors_of
from hwsmpq.model.runner import GraphRunner

N_SAMPLES = 3
SHOWN = 3
"""Places that a message names at most."""


def check_faithful(
    name: str, model: Callable[[tuple[Tensor, ...]], list[Tensor]], graph: fx.GraphModule, samples: tuple[Tensor, ...]
) -> None:
    """Compare a graph with the model that it was captured from, on a few samples in a batch and one by one.

    Args:
        name: of the model.
        model: inputs -> the outputs that ``graph`` gives too, in eval mode.
        samples: inputs with at least one row, of which :data:`N_SAMPLES` are used.

    Raises:
        HwsmpqError: the model's outputs are random or depend on the other samples of a batch, or the graph computes
            something else. Names what and by how much.
    """
    rows = tuple(x[:N_SAMPLES] for x in samples)

    def network(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return model(tuple(x.clone() for x in inputs))

    def captured(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return tensors_of(graph(*(x.clone() for x in inputs)))

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        expected = network(rows)
        tolerance = _Tolerance(network, rows)
        alone = [_with_samples(outputs, expected) for outputs in _alone(network, rows, name)]
        joined = [torch.cat(parts) for parts in zip(*alone, strict=True)]
        error = relative_error(expected, joined)
        if not tolerance.allows(error):
            again = relative_error(expected, network(rows))
            if not tolerance.allows(again):
                raise HwsmpqError(
                    f"{name} gives other outputs every time: two runs on the same samples differ by {again:.1%}",
                    f"something in it is random{_listed(_random(graph))}",
                    "make it deterministic in eval mode: functional dropout needs training=self.training",
                )
            raise HwsmpqError(
                f"{name}'s output for a sample depends on the other samples of the batch: it {_said(error)}",
                f"something mixes samples{_listed(_mixing(graph, rows))}",
                "keep samples apart: batch norm needs running statistics, and other operations leave dimension 0 alone",
            )
        for inputs, outputs in ((rows, expected), (tuple(x[:1] for x in rows), alone[0])):
            try:
                error = relative_error(outputs, captured(inputs))
            except RuntimeError as failure:
                raise HwsmpqError(
                    f"the captured graph of {name} does not run", str(failure).strip()[:300], "report the model"
                ) from failure
            if not tolerance.allows(error):
                raise HwsmpqError(
                    f"the captured graph of {name} is not the network: its outputs differ by {error:.1%}"
                    f" on {len(inputs[0])} sample{'s' * (len(inputs[0]) > 1)}",
                    "it was captured wrong, or the model keeps state from one call to the next",
                    "report the model; its own outputs are what counts",
                )


def _said(error: float) -> str:
    return f"differs by {error:.1%}" if math.isfinite(error) else "has other shapes, or is not finite in one of both"


class _Tolerance:
    """Knows how much two runs may differ; finds out only where it matters."""

    def __init__(self, network: Callable[[tuple[Tensor, ...]], list[Tensor]], rows: tuple[Tensor, ...]) -> None:
        self._network, self._rows = network, rows

    def allows(self, error: float) -> bool:
        # A network whose outputs are random has a response to everything: what is compared are single digits of it.
        return error <= FLOOR or error <= min(0.01, allowed(self._network, self._rows))


def _alone(
    network: Callable[[tuple[Tensor, ...]], list[Tensor]], rows: tuple[Tensor, ...], name: str
) -> Iterator[list[Tensor]]:
    for i in range(len(rows[0])):
        try:
            yield network(tuple(x[i : i + 1] for x in rows))
        except Exception as error:
            raise HwsmpqError(
                f"{name} runs on {len(rows[0])} samples but not on one alone", str(error).strip()[:300],
                "keep samples apart: batch norm needs running statistics",
            ) from error


def _with_samples(alone: list[Tensor], together: list[Tensor]) -> list[Tensor]:
    """Outputs for one sample with the dimension of samples that a model drops which squeezes all of size 1."""
    return [one if one.ndim == all_.ndim else one[None] for one, all_ in zip(alone, together, strict=True)]


def _random(graph: fx.GraphModule) -> list[fx.Node]:
    tag = torch.Tag.nondeterministic_seeded
    return [n for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload) and tag in n.target.tags]


def _results(graph: fx.GraphModule, rows: tuple[Tensor, ...]) -> dict[fx.Node, Tensor]:
    """The (first) result of every operation."""
    found: dict[fx.Node, Tensor] = {}

    def see(node: fx.Node, args: tuple[object, ...], result: object) -> None:
        first = result[0] if isinstance(result, tuple) and result else result
        if isinstance(first, Tensor) and node.op == "call_function":
            found[node] = first

    GraphRunner(graph, see).run(*rows)
    return found


def _mixing(graph: fx.GraphModule, rows: tuple[Tensor, ...]) -> list[fx.Node]:
    """The first operation whose result for a sample differs between the batch and the sample alone."""
    together, alone = _results(graph, rows), _results(graph, tuple(x[:1] for x in rows))
    for node, value in together.items():
        one = alone.get(node)
        if one is None or not one.ndim or value.shape != (len(rows[0]) * one.shape[0], *one.shape[1:]):
            continue
        if relative_error([one], [value[: one.shape[0]]]) > 10 * FLOOR:
            return [node]
    return []


def _listed(nodes: list[fx.Node]) -> str:
    """Operations and the modules they are in, for a message."""

    def place(node: fx.Node) -> str:
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        module = stack[-1].removeprefix("L['self'].") if stack else ""
        return f"{node.target}" + (f" in {module}" if module else "")

    shown = ", ".join(dict.fromkeys(place(node) for node in nodes[:SHOWN]))
    return f": {shown}" + (" and more" if len(nodes) > SHOWN else "") if nodes else ""
