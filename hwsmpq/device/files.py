"""Files that are whole or not there, and ONNX files with what lies beside them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hwsmpq.errors import MachineError

WEIGHTS = ".data"
"""Ends the name of the file of an ONNX file's weights, where these are more than one file can hold."""


def copy_onnx(file: Path, to: Path) -> None:
    """Copy an ONNX file, with its weights where they lie beside it. These keep their name, by which it refers to them.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    weights = file.with_name(file.name + WEIGHTS)
    if weights.exists() and weights.parent != to.parent:
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights, to.with_name(weights.name))
        except OSError as error:
            raise _unwritable(to.with_name(weights.name), error) from error
    write_bytes(to, file.read_bytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically: a full disk or a kill leaves the old file whole.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"cannot write {path}", error.strerror or str(error),
        "free space or choose another folder with -o, then run again: finished stages are kept",
    )
