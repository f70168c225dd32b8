"""Stages that measure network and target: ranges, what the target really runs, and what it costs."""
