"""Attention over windows and without heads: captured as products, and written as ONNX."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from hwsmpq.model.capture import capture
from hwsmpq.quantize.onnx_export import export_onnx

N_TOKENS = 3
MASKS = {
    "none": {}, "scale": {"scale": 0.3}, "causal": {"is_causal": True},
    "bias": {"attn_mask": torch.linspace(-2, 2, 9).reshape(3, 3)},
    "mask": {"attn_mask": torch.tensor([[True, False, True], [True, True, True], [False, True, True]])},
}


class Windows(nn.Module):
    """Attention over (n, heads, windows, tokens, channels), or over (n, tokens, channels)."""

    def __init__(self, mask: str, has_windows: bool) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 5)
        self.mask, self.has_windows = mask, has_windows

    def forward(self, x: Tensor) -> Tensor:
        if self.has_windows:
            q, k, v = self.qkv(x).reshape(x.shape[0], 2, N_TOKENS, 3, 2, 4).permute(3, 0, 4, 1, 2, 5).unbind(0)
        else:
            q, k, v = self.qkv(x[:, :N_TOKENS]).chunk(3, -1)
        y = scaled_dot_product_attention(q, k, v, **MASKS[self.mask])
        return self.head(y.transpose(1, -2).reshape(x.shape[0], -1, 8).mean(1))


@pytest.mark.parametrize("has_windows", [True, False], ids=["windows", "no heads"])
@pytest.mark.parametrize("mask", MASKS)
def test_other_attention_than_of_four_dimensions(mask: str, has_windows: bool) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    torch.manual_seed(0)
    model, x = Windows(mask, has_windows).eval(), torch.randn(4, 6, 8)
    captured = capture(model, (x,))
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(captured.graph(x).detach(), expected, rtol=1e-5, atol=1e-5)
    session = runtime.InferenceSession(export_onnx(captured, 4), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
