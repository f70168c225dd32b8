"""Frames between a host and a device: a JSON object, and bytes of arrays or files behind it.

A frame is a head (magic with the version of the protocol, length of the object, length of the bytes), the object as
UTF-8, and the bytes. What a head may announce is bounded.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

VERSION = 1
HEAD = struct.Struct(">4sIQ")
MAGIC = b"HWQ" + bytes([VERSION])
LARGEST_OBJECT, LARGEST_BODY = 64 << 20, 8 << 30
CHUNK = 1 << 20
DTYPES = {"float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"}
UPDATE = "update the older of the two sides"


class Closed(Exception):
    """The other side has closed the pipe."""


def encode(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A frame."""
    text = json.dumps(header).encode()
    return HEAD.pack(MAGIC, len(text), len(body)) + text + body


def read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next frame.

    Raises:
        Closed: there is none any more, or only a part of one.
        HwsmpqError: what comes is no frame of this version, or announces more than is allowed.
    """
    magic, n_text, n_body = HEAD.unpack(_exactly(stream, HEAD.size))
    if magic != MAGIC:
        raise HwsmpqError("what comes through the pipe is no frame", f"it begins with {magic!r}, not {MAGIC!r}", UPDATE)
    if n_text > LARGEST_OBJECT or n_body > LARGEST_BODY:
        raise HwsmpqError("a frame is too large", f"it announces {n_text} and {n_body} bytes", UPDATE)
    text, body = _exactly(stream, n_text), _exactly(stream, n_body)
    try:
        header = json.loads(text.decode())
    except ValueError as error:
        raise HwsmpqError("a frame holds no JSON", str(error), UPDATE) from error
    if not isinstance(header, dict):
        raise HwsmpqError("a frame holds no JSON object", f"but {type(header).__name__}", UPDATE)
    return header, body


def _exactly(stream: IO[bytes], n: int) -> bytes:
    parts = []
    while n:
        part = stream.read(min(n, CHUNK))
        if not part:
            raise Closed
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def pack_arrays(arrays: Iterable[NDArray[Any]]) -> tuple[list[dict[str, Any]], bytes]:
    """What a header says of arrays, and their bytes, little-endian."""
    told, parts = [], []
    for array in arrays:
        array = np.asarray(array)
        if array.dtype.name not in DTYPES:
            raise HwsmpqError(f"an array of {array.dtype} cannot be sent", fix="give the model float32 inputs")
        told.append({"dtype": array.dtype.name, "shape": list(array.shape)})
        parts.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return told, b"".join(parts)


def unpack_arrays(told: Sequence[Mapping[str, Any]], body: bytes) -> list[NDArray[Any]]:
    """The arrays that a header tells of, with memory of their own.

    Raises:
        HwsmpqError: the bytes are not as many as it says, or of no known type.
    """
    arrays, at = [], 0
    for one in told:
        if one["dtype"] not in DTYPES:
            raise HwsmpqError(f"an array of {one['dtype']} came", "it is of no known type", UPDATE)
        dtype, shape = np.dtype(one["dtype"]).newbyteorder("<"), tuple(int(n) for n in one["shape"])
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if min(shape, default=0) < 0 or at + size > len(body):
            raise HwsmpqError("arrays are not as long as told", f"{len(body)} bytes came", UPDATE)
        flat = np.frombuffer(body, dtype, size // dtype.itemsize, at)
        arrays.append(flat.reshape(shape).astype(one["dtype"]))
        at += size
    if at != len(body):
        raise HwsmpqError("arrays are not as long as told", f"{len(body)} bytes came for {at}", UPDATE)
    return arrays


def pack_files(paths: Iterable[Path]) -> tuple[list[dict[str, Any]], bytes]:
    """What a header says of files (name, hash, length), and their bytes."""
    told, parts = [], []
    for path in paths:
        data = path.read_bytes()
        told.append({"name": path.name, "sha256": sha256(data), "n_bytes": len(data)})
        parts.append(data)
    return told, b"".join(parts)


def unpack_files(told: Sequence[Mapping[str, Any]], body: bytes) -> dict[str, bytes]:
    """Contents by the plain name of the file.

    Raises:
        HwsmpqError: a name is a path, or the bytes are not those that the hashes are of.
    """
    files, at = {}, 0
    for one in told:
        name, data = str(one["name"]), body[at : at + int(one["n_bytes"])]
        if Path(name).name != name or name in ("", ".", ".."):
            raise HwsmpqError(f"a file called {name!r} came", "a plain name is expected", UPDATE)
        if sha256(data) != one["sha256"]:
            raise HwsmpqError(f"{name} was damaged on its way", "its hash is not the one told", "run the command again")
        files[name] = data
        at += len(data)
    return files


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
