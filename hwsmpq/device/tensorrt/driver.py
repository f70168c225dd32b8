"""The CUDA driver's own library, called through ctypes: there wherever a GPU works, with no package to install."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import lru_cache
from typing import Any

from hwsmpq.errors import HwsmpqError

LIBRARY = "libcuda.so.1"
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: what is captured may allocate
NAME_LENGTH = 256
MAJOR, MINOR, N_MULTIPROCESSORS = 75, 76, 16  # of CUdevice_attribute
DEVICE_POINTER = c_uint64
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (POINTER(c_char), c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(DEVICE_POINTER), c_size_t),
    "cuMemFree_v2": (DEVICE_POINTER,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemcpyHtoDAsync_v2": (DEVICE_POINTER, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, DEVICE_POINTER, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


class Driver:
    """The functions of the driver by name; each raises HwsmpqError where it fails, with CUDA's name of the error.

    Raises:
        HwsmpqError: there is no driver, or it cannot start.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of :data:`SIGNATURES`.

        Raises:
            HwsmpqError: it fails, or this driver has no such function.
        """
        code = self._function(name)(*arguments)
        if code:
            texts = c_char_p(), c_char_p()
            self._function("cuGetErrorName")(code, byref(texts[0]))
            self._function("cuGetErrorString")(code, byref(texts[1]))
            known = [text.value.decode() for text in texts if text.value]
            raise HwsmpqError(f"{name} failed", ": ".join(known) or f"error {code}")

    def get(self, name: str, kind: Any, *arguments: Any) -> Any:
        """The result that a function writes through its first argument."""
        result = kind()
        self.call(name, byref(result), *arguments)
        return result.value

    def _function(self, name: str) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise HwsmpqError(f"this CUDA driver has no {name}", str(error), "install a newer driver") from error
        function.argtypes, function.restype = SIGNATURES[name], c_int
        return function


@lru_cache(maxsize=None)
def get_driver() -> Driver:
    """The driver of this machine; the same object in all of the process.

    Raises:
        HwsmpqError: there is none, or it cannot start.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise HwsmpqError("the CUDA driver cannot be loaded", str(error), "install NVIDIA's driver") from error
    return Driver(library)


def describe() -> dict[str, str]:
    """The first visible GPU: what a measurement on it depends on.

    Raises:
        HwsmpqError: there is no driver or no GPU.
    """
    driver = get_driver()
    device, name = driver.get("cuDeviceGet", c_int, 0), ctypes.create_string_buffer(NAME_LENGTH)
    driver.call("cuDeviceGetName", name, NAME_LENGTH, device)
    major, minor, count = (
        driver.get("cuDeviceGetAttribute", c_int, which, device) for which in (MAJOR, MINOR, N_MULTIPROCESSORS)
    )
    version = driver.get("cuDriverGetVersion", c_int)
    return {
        "device": name.value.decode(), "compute_capability": f"{major}.{minor}", "n_multiprocessors": str(count),
        "memory_mib": str(driver.get("cuDeviceTotalMem_v2", c_size_t, device) // 2**20),
        "cuda": f"{version // 1000}.{version % 1000 // 10}",
    }
