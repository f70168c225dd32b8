"""What engines need of CUDA: device memory, and one stream with copies and times on it. See
:mod:`hwsmpq.device.tensorrt.cuda_packages` for what offers it."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hwsmpq.device.tensorrt.graph import Graph
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


class Buffer:
    """Device memory at ``address``, freed with this object."""

    def __init__(self, address: int, n_bytes: int, free: Callable[[], object]) -> None:
        self.address, self.n_bytes = address, n_bytes
        # Not when the process ends: the driver frees everything then, and the context may be gone already.
        weakref.finalize(self, free).atexit = False


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Around the import of a package that a machine may lack.

    Raises:
        HwsmpqError: it cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise HwsmpqError(f"{package} cannot be imported", str(error), f"pip install {package}") from error


class Cuda(ABC):
    """The first visible GPU and one stream on it, by its handle ``stream``.

    Every method raises HwsmpqError where CUDA fails, naming the call. Work that an earlier method enqueued may fail
    in a later one.
    """

    stream: int

    @abstractmethod
    def allocate(self, n_bytes: int) -> Buffer:
        """Device memory of that size, not cleared."""

    @abstractmethod
    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Enqueue a copy of a C-contiguous array into the buffer; leave the array alone until :meth:`synchronize`."""

    @abstractmethod
    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Enqueue a copy of the buffer into a C-contiguous array, which is complete after :meth:`synchronize`."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything enqueued on the stream."""

    @abstractmethod
    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        """Time between an event before and an event after what ``enqueue`` puts on the stream; waits for the end."""

    def repeatable(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """What puts the same on the stream as ``enqueue`` does, by one launch where it can be captured."""
        try:
            return Graph(self.stream, enqueue).launch
        except HwsmpqError:
            return enqueue

    @abstractmethod
    def memory_bytes(self) -> tuple[int, int]:
        """Free and total device memory."""
