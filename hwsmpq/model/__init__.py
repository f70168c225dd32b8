"""The user's network and data: tasks, capture, groups, value functions."""
