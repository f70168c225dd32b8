"""Tasks whose samples have several shapes: texts of three lengths, images of two sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq import Task

N_WORDS, WIDTH, N_HEADS = 50, 16, 2
LENGTHS, SIZES = (8, 16, 24), ((20, 28), (32, 32))


class Text(nn.Module):
    """Token ids and mask, (n, t) each, to logits (n, 3): one layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(N_WORDS, WIDTH), nn.Embedding(64, WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.classes = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        q, k, v = (f(x).unflatten(2, (N_HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None, :] > 0)
        x = self.norm(x + self.out(y.transpose(1, 2).flatten(2)))
        return self.classes((x * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True))


class Image(nn.Module):
    """Images (n, 3, h, w) of any size to logits (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU(),
            nn.Conv2d(8, 16, 1), nn.ReLU(),
        )
        self.classes = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1))


def texts(n: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(n, length, dtype=torch.long)
    mask[:, -3:] = torch.arange(n)[:, None] % 4 > torch.arange(3)
    return {"input_ids": torch.randint(N_WORDS, (n, length)), "attention_mask": mask}


def text_task() -> Task:
    """Lists of tokenized batches; lengths come in turns, the longest twice as often."""
    torch.manual_seed(0)
    model = Text().eval()
    batches: list[dict[str, Any]] = [texts(8, length) for length in (*LENGTHS, LENGTHS[-1]) * 3]
    with torch.no_grad():
        labelled = [batch | {"labels": model(**batch).argmax(1)} for batch in batches]
    return Task(model, batches[:4], labelled, name="texts")


def image_task() -> Task:
    """Batches of images of one size, and then of the other."""
    torch.manual_seed(0)
    model = Image().eval()
    images = [torch.rand(8, 3, *size) for size in SIZES for _ in range(4)]
    with torch.no_grad():
        labelled = [(x, model(x).argmax(1)) for x in images]
    return Task(model, [(images[0],), (images[5],), (images[4],)], labelled, name="images")
