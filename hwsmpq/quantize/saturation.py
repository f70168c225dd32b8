"""Upper ends of clips that a quantizer keeps by itself.

TensorRT 8 moves a quantizer before the clip that it follows, and clips the integers. Where the layer before computes in
floats, that clip becomes a kernel of its own. An engine of EfficientNet-Lite0 with eight of them (8.5.3, on an H200)
gave other outputs altogether, and took 36 % more time than predicted. Networks with ReLU in these places compute right.
That the clips were the cause has not been tried on a GPU.
"""

from __future__ import annotations

import onnx_ir as ir

from hwsmpq.quantize.scheme import Grid


def without_upper_end(x: ir.Value, grid: Grid, name: str) -> ir.Node | None:
    """A ReLU of what a clip between 0 and some number reads, if all above that number takes the highest level.

    Args:
        x: read by the quantizer; None is returned where it is no such clip's result.
        name: of the new node.
    """
    clip = x.producer()
    if clip is None or clip.op_type != "Clip" or len(clip.inputs) != 3:
        return None
    low, high = (None if end is None else end.const_value for end in clip.inputs[1:])
    if low is None or high is None or float(low.numpy()) != 0 or grid.zero_point != 0:
        return None
    if float(high.numpy()) / grid.scale <= grid.high - 0.5:
        return None
    relu = ir.node("Relu", [clip.inputs[0]], name=name)
    relu.outputs[0].name = f"{name}.out"
    return relu
