"""Small attentions, for tests of products of two activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

N_TOKENS, N_HEADS, N_CHANNELS = 6, 2, 16
FORMS = ("none", "scale", "causal", "bias", "mask", "written out", "relu", "cosine", "linear")


class Attention(nn.Module):
    """(n, tokens, channels) to the same, of one form of attention: with a mask of :class:`torch.nn.functional`, or
    written out, without a softmax, of directions, or of keys by values first."""

    def __init__(self, form: str = "none", n_tokens: int = N_TOKENS, n_heads: int = N_HEADS) -> None:
        super().__init__()
        self.form, self.n_heads = form, n_heads
        self.qkv, self.proj = nn.Linear(N_CHANNELS, 3 * N_CHANNELS), nn.Linear(N_CHANNELS, N_CHANNELS)
        self.bias = nn.Parameter(torch.randn(1, n_heads, n_tokens, n_tokens))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self._attend(x, *heads.unbind(0)).transpose(1, 2).flatten(2))

    def _attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        if self.form == "written out":
            return ((q @ k.transpose(-1, -2)) * scale + self.bias).softmax(-1) @ v
        if self.form == "relu":
            return ((q @ k.transpose(-1, -2)) * scale).relu() @ v
        if self.form == "cosine":
            return (8 * normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(-1, -2)).softmax(-1) @ v
        if self.form == "linear":
            return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)
        options: dict[str, Any] = {
            "scale": {"scale": 0.3}, "causal": {"is_causal": True}, "bias": {"attn_mask": self.bias},
            "mask": {"attn_mask": (x[..., 0] > -1)[:, None, None] | torch.eye(x.shape[1], dtype=torch.bool)},
        }.get(self.form, {})
        return scaled_dot_product_attention(q, k, v, **options)


def attention(form: str = "none", n_tokens: int = N_TOKENS, n_heads: int = N_HEADS) -> Attention:
    torch.manual_seed(0)
    return Attention(form, n_tokens, n_heads).eval()


def tokens(n: int = 16, n_tokens: int = N_TOKENS) -> Tensor:
    return torch.randn(n, n_tokens, N_CHANNELS, generator=torch.Generator().manual_seed(1))
