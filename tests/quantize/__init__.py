"""Tests of schemes, ranges, the simulator and the Q/DQ writer."""
