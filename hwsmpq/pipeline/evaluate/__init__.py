"""Stages that evaluate assignments: the game on a run folder, and what is estimated from it."""
