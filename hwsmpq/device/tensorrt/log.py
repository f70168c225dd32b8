"""What TensorRT says while it builds and loads: errors, which its return values do not tell, and listings."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

LISTING = "Layers:"
"""How a builder at detailed verbosity begins the list of its kernels."""
MAX_REASON = 1000
MAX_WARNINGS = 200


@lru_cache(maxsize=None)
def logger(module: Any) -> Any:
    """The logger of ``tensorrt`` or ``tensorrt_rtx``, whose base class is in the module; one, since the runtime keeps
    the first that it is given.

    ``start()`` forgets everything, ``reason()`` gives the errors logged since the last call, ``listing`` the last
    listing of kernels and ``warnings`` what the runtime warned of.
    """

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.start()

        def start(self) -> None:
            self.listing = ""
            self._errors: list[str] = []
            self._warnings: dict[str, None] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self._errors.append(message)
            elif severity == module.ILogger.WARNING:
                self._warnings[message] = None
            elif message.startswith(LISTING):
                self.listing = message

        def reason(self) -> str:
            found, self._errors = " ".join(self._errors)[:MAX_REASON], []
            return found or "the runtime gives no reason"

        @property
        def warnings(self) -> tuple[str, ...]:
            return tuple(self._warnings)[:MAX_WARNINGS]

    return Log()
