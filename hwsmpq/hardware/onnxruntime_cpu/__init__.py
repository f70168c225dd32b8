"""ONNX Runtime on the CPU: int8 and fp32 engines, one thread."""

from hwsmpq.hardware.onnxruntime_cpu.target import OnnxruntimeCpuTarget

__all__ = ["OnnxruntimeCpuTarget"]
