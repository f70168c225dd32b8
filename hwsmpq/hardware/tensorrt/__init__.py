"""TensorRT and TensorRT-RTX: strongly typed engines from Q/DQ ONNX, audited from what the builder says it built."""
