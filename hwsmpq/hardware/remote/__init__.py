"""A device at the other end of a pipe, started by a command such as ``ssh orin python3``.

Nothing is installed there: the modules of :mod:`hwsmpq.device` go through the pipe as one archive.
"""

from hwsmpq.hardware.remote.device import RemoteDevice, reach
from hwsmpq.hardware.remote.line import Patience

__all__ = ["Patience", "RemoteDevice", "reach"]
