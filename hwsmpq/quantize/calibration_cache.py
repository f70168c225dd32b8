"""TensorRT's calibration cache: one symmetric scale a tensor, as text.

The first line names the version and the calibrator, every other one is ``tensor: scale``. A scale is the largest
magnitude that is represented, divided by 127, as the big-endian bytes of a float32 in hexadecimal. TensorRT up to 10
reads it (``trtexec --int8 --calib=FILE``); 11 has no calibration any more.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from hwsmpq.errors import HwsmpqError

HEADER = "TRT-8503-EntropyCalibration2"
LEVELS = 127


def write_cache(magnitudes: Mapping[str, float]) -> str:
    """The cache of tensors' largest magnitudes."""
    rows = [f"{name}: {struct.pack('>f', magnitude / LEVELS).hex()}" for name, magnitude in magnitudes.items()]
    return "\n".join([HEADER, *rows, ""])


def read_cache(text: str) -> dict[str, float]:
    """The largest magnitude of every tensor of a cache.

    Raises:
        HwsmpqError: it is no calibration cache (names the line).
    """
    header, *rows = text.splitlines() or [""]
    if not header.startswith("TRT-"):
        raise _refusal(f"line 1 is {header[:60]!r}, where TRT-<version>-<calibrator> is expected")
    found = {}
    for number, row in enumerate(rows, 2):
        if not row.strip():
            continue
        name, colon, digits = row.rpartition(": ")
        try:
            scale, = struct.unpack(">f", bytes.fromhex(digits.strip()))
        except (ValueError, struct.error) as error:
            raise _refusal(f"line {number} is {row[:60]!r}, where `tensor: scale` is expected") from error
        if not colon or not math.isfinite(scale) or scale < 0:
            raise _refusal(f"the scale of line {number} ({row[:60]!r}) is {scale}")
        found[name] = scale * LEVELS
    return found


def _refusal(why: str) -> HwsmpqError:
    return HwsmpqError("this is no calibration cache of TensorRT", why, "give the file that a calibrator wrote")
