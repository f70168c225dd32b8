"""Versioned JSON artifacts: one envelope for every kind, validated on reading, written atomically."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hwsmpq import types
from hwsmpq._version import __version__
from hwsmpq.device.files import write_bytes
from hwsmpq.errors import HwsmpqError
from hwsmpq.stages import FILES, ROWS

T = TypeVar("T")

SCHEMAS: dict[type, str] = {kind: ROWS[kind].schema for kind in FILES}
SCHEMA_VERSION = 3
OLDEST_VERSION = 1
IMPORTED = "imported"
"""Role of the files that an imported cost table was made from, its only input."""
_read: dict[tuple[Path, type], tuple[tuple[int, ...], dict[str, Any]]] = {}
"""Envelopes that were read and checked, while their files are the same ones: stages ask for them again and again."""


def digest(payload: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, tuples as lists."""
    return TypeAdapter(Any).dump_python(value, mode="json")


def architecture_digest(network: types.Network) -> str:
    """SHA-256 of what a network is besides its weights: layers with their shapes, groups and reads. Tensors count by
    their place: their names are torch's, and change with its version."""
    payload = plain(network)
    place = {read.tensor: index for index, read in enumerate(network.reads)}
    layers = [{**layer, "input_tensor": place[layer["input_tensor"]]} for layer in payload["layers"]]
    for layer in layers:
        del layer["n_kept"]  # of files, which latency does not depend on
        operand, shape = layer.pop("operand_tensor"), layer.pop("operand_shape")
        if operand:
            layer |= {"operand_tensor": place[operand], "operand_shape": shape}
    reads = [{**read, "tensor": place[read["tensor"]]} for read in payload["reads"]]
    return digest({"layers": layers, "groups": payload["groups"], "reads": reads})


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write(path: Path, value: Any, inputs: dict[str, str] | None = None) -> None:
    """Write one artifact. ``inputs`` maps the role of what it was made from to that thing's SHA-256.

    Raises:
        HwsmpqError: a number is NaN or infinite, which JSON cannot hold, or the file cannot be written.
    """
    payload = TypeAdapter(type(value)).dump_python(value, mode="json")
    try:
        json.dumps(payload, allow_nan=False)
    except ValueError as error:
        raise HwsmpqError(
            f"{path.name} would hold a number that is not finite", "a measurement or a computation failed",
            "check the weights and the data for extreme values, then run the stage again",
        ) from error
    envelope = {
        "schema": SCHEMAS[type(value)],
        "schema_version": SCHEMA_VERSION,
        "hwsmpq_version": __version__,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": inputs or {},
        "payload": payload,
        "payload_sha256": digest(payload),
    }
    _read.pop((path, type(value)), None)
    write_bytes(path, (json.dumps(envelope, sort_keys=True, indent=1) + "\n").encode())


def read_envelope(path: Path, kind: type) -> dict[str, Any]:
    """Read and check the envelope of an artifact of type ``kind``, which is not to be changed; see :func:`read` for the
    errors."""
    try:
        stat = path.stat()
    except OSError:  # reading says what is wrong
        return _envelope(path, kind)
    known, which = _read.get((path, kind)), (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if known is None or known[0] != which:
        known = _read[path, kind] = which, _envelope(path, kind)
    return known[1]


def _envelope(path: Path, kind: type) -> dict[str, Any]:
    fix = f"delete {path.name} and run the stage that writes it again"
    try:
        envelope = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HwsmpqError(
            f"no {SCHEMAS[kind]} at {path}", "an earlier stage has not run in this folder",
            "run `hwsmpq run`, or the stage that writes it",
        ) from error
    except OSError as error:
        raise HwsmpqError(
            f"cannot read {path}", error.strerror or str(error), "make it a file that can be read"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HwsmpqError(f"{path} is not readable JSON", f"truncated or edited ({error})", fix) from error
    if not isinstance(envelope, dict) or envelope.get("schema") != SCHEMAS[kind]:
        found = envelope.get("schema") if isinstance(envelope, dict) else type(envelope).__name__
        raise HwsmpqError(f"{path} is not a {SCHEMAS[kind]}", f"field 'schema' says {found!r}", fix)
    version = envelope.get("schema_version")
    if version not in range(OLDEST_VERSION, SCHEMA_VERSION + 1) or not isinstance(version, int):
        raise HwsmpqError(
            f"{path} has schema_version {version!r}",
            f"this hwsmpq reads versions {OLDEST_VERSION} to {SCHEMA_VERSION}",
            "upgrade hwsmpq" if isinstance(version, int) and version > SCHEMA_VERSION else fix,
        )
    if envelope.get("payload_sha256") != digest(envelope.get("payload")):
        raise HwsmpqError(f"{path} was changed after it was written", "field 'payload_sha256' does not match", fix)
    return envelope if version == SCHEMA_VERSION else _migrated(envelope)


def _migrated(envelope: dict[str, Any]) -> dict[str, Any]:
    """An envelope of an older version, which did not record all that an artifact was made from, or mixed what was
    measured with what was computed from it: its payload stands, and the next stage that needs it fresh makes it again.
    What was imported stays so."""
    inputs = {role: sha256 for role, sha256 in envelope.get("inputs", {}).items() if role == IMPORTED}
    return {**envelope, "schema_version": SCHEMA_VERSION, "inputs": inputs}


def read(path: Path, kind: type[T]) -> T:
    """Read one artifact.

    Raises:
        HwsmpqError: missing, truncated, edited, of another kind or a newer version, or invalid (names the field).
    """
    envelope = read_envelope(path, kind)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(envelope["payload"]))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise HwsmpqError(
            f"{path}: field 'payload.{field}' is invalid", first["msg"],
            f"delete {path.name} and run the stage that writes it again",
        ) from error
