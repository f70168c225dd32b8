"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hwsmpq.errors import MachineError


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
        raise MachineError(
            f"cannot write {path}", error.strerror or str(error),
            "free space or choose another folder with -o, then run again: finished stages are kept",
        ) from error
    finally:
        if temporary is not None:
            os.unlink(temporary)
