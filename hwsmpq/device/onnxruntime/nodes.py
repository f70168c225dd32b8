"""The nodes of an ONNX file, read without the ``onnx`` package, which devices lack.

An ONNX file is a message of Protocol Buffers (https://protobuf.dev/programming-guides/encoding). A message is a row of
fields; a field is a number, a kind and a value; the value of a nested message is bytes. Everything but the nodes is
skipped, so that weights cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRAPH_OF_MODEL, NODE_OF_GRAPH = 7, 1
INPUT, OUTPUT, NAME, OPERATION = 1, 2, 3, 4
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class Node:
    """An operation: what it is and is called, and the names of the tensors that it reads and writes."""

    name: str
    operation: str
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def read_nodes(path: Path) -> list[Node]:
    """The nodes of the main graph, in order.

    Raises:
        HwsmpqError: the file cannot be read or is no ONNX file.
    """
    try:
        model = memoryview(path.read_bytes())
        graphs = [graph for number, graph in _fields(model) if number == GRAPH_OF_MODEL]
        return [_node(node) for graph in graphs for number, node in _fields(graph) if number == NODE_OF_GRAPH]
    except (OSError, ValueError, IndexError) as error:
        raise HwsmpqError(f"{path} is not a readable ONNX file", str(error), "build the engine again") from error


def _node(message: memoryview) -> Node:
    texts: dict[int, list[str]] = {number: [] for number in (INPUT, OUTPUT, NAME, OPERATION)}
    for number, value in _fields(message):
        if number in texts:
            texts[number].append(str(value, "utf-8"))
    return Node("".join(texts[NAME][-1:]), "".join(texts[OPERATION][-1:]), texts[INPUT], texts[OUTPUT])


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of the fields of a message, nested messages and texts as bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"field {number} is of kind {kind}")
        if at + size > end:
            raise ValueError(f"field {number} is cut")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in base 128, its lowest digit first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value += (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
