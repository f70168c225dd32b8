"""What TensorRT says while it builds and loads: errors, which its return values do not tell, and listings."""

from __future__ import annotations

from functools import cache
from typing import Any

LISTING = "Layers:"
"""How a builder at detailed verbosity begins the list of its kernels."""
MAX_REASON = 500


@cache
def logger(module: Any) -> Any:
    """The logger of ``tensorrt`` or ``tensorrt_rtx``, whose base class is in the module; one, since the runtime keeps
    the first that it is given.

    ``reason()`` gives the errors logged since the last call, ``listing`` the last listing of kernels.
    """

    class Log(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.listing = ""
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self._errors.append(message)
            elif message.startswith(LISTING):
                self.listing = message

        def reason(self) -> str:
            found, self._errors = " ".join(self._errors)[:MAX_REASON], []
            return found or "the runtime gives no reason"

    return Log()
