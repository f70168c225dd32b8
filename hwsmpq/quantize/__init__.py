"""Quantization, defined once: scheme, ranges, simulator and Q/DQ writer."""
