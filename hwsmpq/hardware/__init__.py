"""Hardware targets: build engines, read back what they run, time them, and model their cost."""
