"""The colours of pages and charts."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.colors import to_hex

PALETTE = {
    "ink": "#1b1e24",
    "muted": "#596070",
    "grid": "#dcdfe5",
    "surface": "#fefefe",
    "accent": "#0a58a8",
    "warn": "#a8480a",
}
"""CSS variable -> its colour on a light page."""
LEVEL_RANGE_LIGHT = (0.72, 0.05)
LEVEL_RANGE_DARK = (0.88, 0.36)


def level_colours(precisions: Sequence[str], dark: bool = False) -> dict[str, str]:
    """CSS variable name -> hex colour, one for each precision, cheapest first; ordered in brightness too, so that they
    can be told apart without seeing hues."""
    first, last = LEVEL_RANGE_DARK if dark else LEVEL_RANGE_LIGHT
    steps = max(len(precisions) - 1, 1)
    plasma = matplotlib.colormaps["plasma"]
    return {f"level-{i}": to_hex(plasma(first + (last - first) * i / steps)) for i in range(len(precisions))}
