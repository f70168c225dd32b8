"""Engines: building a plan on a target, and proving what was built."""
