"""CUDA through what a machine has: one of two packages, or the driver by itself."""

from __future__ import annotations

from functools import lru_cache

from hwsmpq.device.tensorrt.cuda import Cuda
from hwsmpq.device.tensorrt.cuda_bindings import CudaBindings
from hwsmpq.device.tensorrt.cuda_driver import CudaDriver
from hwsmpq.device.tensorrt.cuda_pycuda import PyCuda
from hwsmpq.errors import HwsmpqError


@lru_cache(maxsize=None)
def get_cuda() -> Cuda:
    """CUDA through what works here: cuda-bindings, pycuda or the driver alone; the same object in all of the process.

    Raises:
        HwsmpqError: there is no driver or no GPU.
    """
    reasons = []
    for package in (CudaBindings, PyCuda, CudaDriver):
        try:
            return package()
        except HwsmpqError as error:
            reasons.append(f"{error.what} ({error.why})")
    raise HwsmpqError(
        "engines cannot run here", "; ".join(reasons),
        "use a machine with an NVIDIA GPU and its driver",
    )
