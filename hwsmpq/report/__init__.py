"""The report: one self-contained HTML page made from the artifacts of a run folder."""
