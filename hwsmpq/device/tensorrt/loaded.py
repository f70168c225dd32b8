"""A serialized engine, deserialized by the runtime that built it."""

from __future__ import annotations

from typing import Any

from hwsmpq.device.tensorrt.log import logger
from hwsmpq.errors import HwsmpqError


class Deserialized:
    """What the runtime makes of a plan, with the objects that it must not outlive.

    Args:
        plan: the serialized engine.
        module: ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        HwsmpqError: the runtime refuses the plan (another version or GPU built it), or there is no GPU.
    """

    def __init__(self, plan: bytes, module: Any) -> None:
        self._module = module
        self._log = logger(module)
        try:
            self._runtime = module.Runtime(self._log)
            self.engine = self._runtime.deserialize_cuda_engine(plan)
        except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
            raise self.refusal("the runtime cannot start", "check GPU and driver with `nvidia-smi`") from error
        if self.engine is None:
            raise self.refusal("the runtime refuses the engine", "build it again on this machine, with this runtime")

    def create_context(self) -> Any:
        """A new execution context.

        Raises:
            HwsmpqError: the runtime cannot create it, mostly for want of memory.
        """
        context = self.engine.create_execution_context()
        if context is None:
            raise self.refusal("the GPU cannot take the engine", "free device memory, or build for a smaller batch")
        return context

    def inspector_json(self) -> str:
        """The engine inspector's description of every kernel; detailed where the engine was built with that verbosity.

        Raises:
            HwsmpqError: the runtime does not describe the engine.
        """
        text = self.engine.create_engine_inspector().get_engine_information(self._module.LayerInformationFormat.JSON)
        if not text:
            raise self.refusal("the runtime does not describe the engine", "build it again")
        return str(text)

    def refusal(self, what: str, fix: str) -> HwsmpqError:
        """An error whose reason is what the runtime has logged since the last one."""
        return HwsmpqError(what, self._log.reason(), fix)
