"""The stages of a run, one function each, over a run folder."""
