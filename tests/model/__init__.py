"""Tests of capture, batch-norm folding, tasks and their loading."""
