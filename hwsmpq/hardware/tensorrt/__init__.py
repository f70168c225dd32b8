"""TensorRT and TensorRT-RTX as targets: what they run where, and profiles that `trtexec` took elsewhere."""
