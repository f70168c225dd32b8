"""ONNX's Resize, in torch: by torch's own interpolation where it is the same, else axis by axis."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwsmpq.errors import HwsmpqError

LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
"""Number of dimensions -> what torch calls linear interpolation of it."""


def resize(
    x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75, antialias: int = 0, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    axes: Any = None, keep_aspect_ratio_policy: str = "stretch",
) -> Tensor:
    """ONNX Resize, opset 11 on, of the dimensions behind the first two."""
    mode = mode.removeprefix("b") if mode == "bilinear" else mode
    where = [axis % x.ndim for axis in axes] if axes else list(range(x.ndim))
    given = dict(zip(where, (sizes or scales), strict=True))
    if scales and any(given.get(axis, 1) != 1 for axis in (0, 1)):
        raise _not_read("of samples or channels")
    n = x.ndim - 2
    shape = list(x.shape[2:])
    size = [int(given[d + 2]) if sizes and d + 2 in given else math.floor(shape[d] * given.get(d + 2, 1.0))
            for d in range(n)]
    by = [size[d] / shape[d] if sizes else float(given.get(d + 2, 1.0)) for d in range(n)]
    if size == shape:
        return x
    if antialias or exclude_outside or keep_aspect_ratio_policy != "stretch":
        raise _not_read("with antialiasing, an aspect ratio to keep, or what lies outside left out")
    how = coordinate_transformation_mode
    whole = all(b >= 1 and b == int(b) for b in by)
    if mode == "nearest" and (
        (how == "asymmetric" and nearest_mode == "floor")
        or (whole and how in ("half_pixel", "pytorch_half_pixel") and nearest_mode.startswith("round"))
    ):
        return functional.interpolate(x, size, mode="nearest")
    half = how in ("half_pixel", "pytorch_half_pixel")
    exact = all(b == s / o for b, s, o in zip(by, size, shape, strict=True))
    if exact and (half or how == "align_corners") and (how != "pytorch_half_pixel" or min(size) > 1):
        aligned = how == "align_corners"
        if mode == "linear" and x.ndim in LINEAR:
            return functional.interpolate(x, size, mode=LINEAR[x.ndim], align_corners=aligned)
        if mode == "cubic" and x.ndim == 4 and cubic_coeff_a == -0.75:
            return functional.interpolate(x, size, mode="bicubic", align_corners=aligned)
    if mode not in ("nearest", "linear") or how == "tf_crop_and_resize":
        raise _not_read(f"by {mode}, {how}")
    for d in range(n):
        if size[d] != shape[d]:
            x = _along(x, d + 2, _coordinates(shape[d], size[d], by[d], how), mode, nearest_mode)
    return x


def _coordinates(size: int, wanted: int, scale: float, how: str) -> list[float]:
    """Where every element of the result lies on the input, in elements."""
    if how == "asymmetric":
        return [i / scale for i in range(wanted)]
    if how == "align_corners":
        return [i * (size - 1) / (wanted - 1) if wanted > 1 else 0.0 for i in range(wanted)]
    if how == "pytorch_half_pixel" and wanted == 1:
        return [0.0]
    return [(i + 0.5) / scale - 0.5 for i in range(wanted)]


def _along(x: Tensor, axis: int, coordinates: list[float], mode: str, nearest_mode: str) -> Tensor:
    last = x.shape[axis] - 1
    if mode == "nearest":
        rounded = {
            "floor": math.floor, "ceil": math.ceil, "round_prefer_floor": lambda c: math.ceil(c - 0.5),
            "round_prefer_ceil": lambda c: math.floor(c + 0.5),
        }[nearest_mode]
        return x.index_select(axis, torch.tensor([min(max(int(rounded(c)), 0), last) for c in coordinates]))
    clamped = [min(max(c, 0.0), float(last)) for c in coordinates]
    low = [min(math.floor(c), last) for c in clamped]
    share = torch.tensor([c - i for c, i in zip(clamped, low, strict=True)]).reshape([-1] + [1] * (x.ndim - 1 - axis))
    below = x.index_select(axis, torch.tensor(low))
    above = x.index_select(axis, torch.tensor([min(i + 1, last) for i in low]))
    return below * (1 - share) + above * share


def _not_read(form: str) -> HwsmpqError:
    return HwsmpqError(
        f"a resize {form} is not read", "torch interpolates otherwise",
        "export the network with torch's nearest or bilinear interpolation",
    )
