"""A network of Hugging Face's transformers from a folder: configuration, safetensors, tokenizer or image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.samples import UNNAMED, Data, read_arrays, read_images, read_texts
from hwsmpq.model.task import Task

MOST_TOKENS = 128
"""Of a text; longer ones are cut."""


def load_hf(folder: Path, data: str | None) -> Task:
    """The task of a folder that ``save_pretrained`` wrote, with the class that its ``config.json`` names.

    Args:
        data: ``npz:FILE`` (arrays named as the arguments of ``forward``), ``csv:FILE`` (texts, read by the folder's
            tokenizer) or ``imagefolder:DIR`` (prepared by the folder's image processor).

    Raises:
        HwsmpqError: transformers is not installed, the folder holds no network, or the data does not fit it.
    """
    if not (folder / "config.json").is_file():
        raise HwsmpqError(
            f"no Hugging Face network in {folder}", "it has no config.json",
            "give the folder that save_pretrained wrote",
        )
    try:
        import transformers
    except ImportError as error:
        raise HwsmpqError(
            f"hf:{folder} needs transformers", "it is not installed here", "pip install 'hwsmpq[transformers]'"
        ) from error
    names = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
    kind = getattr(transformers, names[0], None)
    if kind is None:
        raise HwsmpqError(
            f"{folder} names no network of transformers", f"its config.json says architectures {names}",
            "save it with its head by save_pretrained, or load it in a task file",
        )
    model = _from(kind, folder, use_safetensors=True, dtype=torch.float32).eval()
    model.config.use_cache = False  # what a decoder keeps for the next token is no output to compare
    read, preprocessing = _data(transformers, folder, data)
    is_regression = getattr(model.config, "num_labels", 2) == 1
    own: dict[str, Any] = {"metric": squared_error, "loss": squared_error, "higher_is_better": False}
    return Task(
        model, _inputs(read.calibration), (_inputs(read.inputs), read.labels), name=folder.resolve().name,
        preprocessing=preprocessing, **(own if is_regression else {}),
    )


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """Squared distance of the only logit from the target, (n,): the error of a network with one label."""
    return (outputs.logits.squeeze(1) - targets).square()


def _inputs(inputs: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    return inputs[UNNAMED] if set(inputs) == {UNNAMED} else inputs


def _data(transformers: Any, folder: Path, data: str | None) -> tuple[Data, str]:
    """The samples, and how they were prepared."""
    kind, _, path = (data or "").partition(":")
    if kind == "npz" and path:
        return read_arrays(Path(path)), ""
    if kind == "csv" and path:
        (*texts,), labels = read_texts(Path(path))
        tokenizer = _from(transformers.AutoTokenizer, folder)
        longest = min(MOST_TOKENS, tokenizer.model_max_length)
        tokens = tokenizer(*texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        length = next(iter(tokens.values())).shape[1]
        return Data.of(dict(tokens), labels), f"tokenizer of {folder}, padded to {length} tokens"
    if kind == "imagefolder" and path:
        processor = _from(transformers.AutoImageProcessor, folder)

        def prepared(image: Any) -> Tensor:
            pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
            return pixels

        return read_images(Path(path), prepared, "pixel_values")[0], str(processor)
    raise HwsmpqError(
        "hf:FOLDER needs --data npz:FILE, csv:FILE or imagefolder:DIR", f"got {data!r}",
        "npz: arrays named as the arguments of forward, and labels; csv: columns label and text",
    )


def _from(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:
        raise HwsmpqError(
            f"{folder} cannot be read by {kind.__name__}", f"{type(error).__name__}: {str(error).strip()[:300]}",
            "save network and tokenizer (or image processor) there with save_pretrained, weights as safetensors",
        ) from error
