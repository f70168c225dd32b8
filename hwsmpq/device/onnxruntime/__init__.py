"""ONNX Runtime's CPU provider as a runtime: int8 and fp32 engines, one thread."""
