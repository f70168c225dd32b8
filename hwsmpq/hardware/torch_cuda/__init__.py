"""Torch on an NVIDIA GPU (cuDNN and cuBLAS): real numbers where TensorRT is missing."""

from hwsmpq.hardware.torch_cuda.target import TorchCudaTarget

__all__ = ["TorchCudaTarget"]
