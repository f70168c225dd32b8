"""TensorRT and TensorRT-RTX on the device: engines from Q/DQ ONNX, audited from what the builder says it built."""
