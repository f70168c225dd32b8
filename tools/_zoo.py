"""Networks of public libraries with random weights, and inputs for them: names, and what a name makes."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

N_ROWS, N_CLASSES, SEQUENCE, VOCABULARY = 16, 16, 16, 200
SMALL = ("test_", "atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "_t_", "_t0", "_mini", "small", "_s_", "s12",
         "s0", "b0", "18", "_002", "_050", "_10_", "_12_", "lite")
"""Parts of the names of a family's small networks, smallest first."""
DEPTH, SMALL_IMAGE = 4, 112
"""Blocks of networks of timm, and sizes of their images, where the network's maker takes these."""
SIZES = {"inception_v3": 96, "alexnet": 96}
"""Of images, where 64 pixels are too few."""
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "embedding_size": 32}
IMAGE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
         "image_size": 64, "patch_size": 16, "num_channels": 3}
DECODER = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
AUDIO = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
         "conv_dim": (32, 32, 32), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2), "num_feat_extract_layers": 3,
         "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 32}


@dataclass(frozen=True)
class Configured:
    """A network of transformers: its class, the kind of its inputs, and fields of its configuration (None: its own)."""

    model: str
    inputs: str
    config: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)


TRANSFORMERS = (
    *(Configured(f"{name}ForSequenceClassification", "text", TEXT) for name in (
        "Bert", "Roberta", "Electra", "Albert", "MPNet", "DebertaV2", "Deberta", "Camembert", "XLMRoberta", "ConvBert",
        "RoFormer", "Ernie", "MegatronBert", "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Phi",
        "GPTNeoX", "StableLm", "Nystromformer", "LayoutLM", "Mobilebert",
    )),
    Configured("SqueezeBertForSequenceClassification", "text", TEXT, {"embedding_size": 64}),
    *(Configured(f"{name}ForMaskedLM", "text", TEXT) for name in ("Bert", "Roberta", "Electra", "ModernBert", "Esm")),
    Configured("BertForTokenClassification", "text", TEXT),
    Configured("FunnelForTokenClassification", "text", TEXT, {
        "num_hidden_layers": None, "block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128}),
    *(Configured(f"{name}ForQuestionAnswering", "text", TEXT, {"num_labels": 2}) for name in ("Bert", "Splinter")),
    *(Configured(f"{name}ForCausalLM", "text", TEXT) for name in ("Llama", "Qwen2", "Gemma", "Phi", "Bloom")),
    Configured("FalconForCausalLM", "text", TEXT, {"head_dim": None}),
    Configured("DistilBertForSequenceClassification", "text", TEXT, {
        "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}),
    Configured("GPT2LMHeadModel", "text", TEXT, GPT),
    Configured("GPT2ForSequenceClassification", "text", TEXT, GPT),
    Configured("GPTJForCausalLM", "text", TEXT, GPT | {"rotary_dim": 8}),
    Configured("OPTForCausalLM", "text", TEXT, {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    Configured("T5EncoderModel", "text", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
                                          "vocab_size": VOCABULARY}),
    Configured("BartForSequenceClassification", "text ending", TEXT | DECODER),
    Configured("FNetForSequenceClassification", "ids", TEXT | {"tpu_short_seq_length": SEQUENCE}),
    *(Configured(f"{name}ForImageClassification", "image", IMAGE) for name in (
        "ViT", "DeiT", "Beit", "Data2VecVision", "ViTMSN", "Dinov2", "IJepa", "Dinov2WithRegisters",
    )),
    *(Configured(f"{name}ForImageClassification", "image", {"vision_config": IMAGE}) for name in ("CLIP", "Siglip")),
    *(Configured(f"{name}ForImageClassification", "image", {"image_size": 64, "depths": [1, 1, 1, 1]}, more)
      for name, more in (
          ("Swin", {"embed_dim": 32, "num_heads": [1, 2, 4, 8], "window_size": 2}),
          ("Swinv2", {"embed_dim": 32, "num_heads": [1, 2, 4, 8], "window_size": 2}),
          ("ConvNext", {"hidden_sizes": [16, 32, 48, 64]}), ("ConvNextV2", {"hidden_sizes": [16, 32, 48, 64]}),
          ("ResNet", {"hidden_sizes": [16, 32, 48, 64], "embedding_size": 16}), ("PoolFormer", {}), ("Segformer", {}),
          ("RegNet", {"hidden_sizes": [16, 32, 48, 64], "groups_width": 16}), ("Focalnet", {"embed_dim": 32}),
          ("MobileNetV2", {}), ("MobileViT", {}), ("Levit", {}), ("PvtV2", {}), ("Cvt", {}),
          ("EfficientNet", {}), ("Van", {}), ("Bit", {}),
      )),
    Configured("SegformerForSemanticSegmentation", "image", {"depths": [1, 1, 1, 1]}),
    Configured("UperNetForSemanticSegmentation", "image", {}),
    Configured("DPTForDepthEstimation", "image", IMAGE | {"image_size": 64, "num_hidden_layers": 4}, {
        "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 32, 48, 64], "fusion_hidden_size": 32}),
    Configured("GLPNForDepthEstimation", "image", {"depths": [1, 1, 1, 1]}),
    Configured("YolosForObjectDetection", "image", IMAGE | {"image_size": [64, 64], "num_detection_tokens": 10}),
    Configured("CLIPVisionModel", "image", IMAGE), Configured("CLIPTextModel", "text", TEXT),
    *(Configured(f"{name}ForSequenceClassification", "audio", AUDIO) for name in (
        "Wav2Vec2", "Hubert", "UniSpeech", "WavLM", "Data2VecAudio", "SEW")),
    Configured("Wav2Vec2ForCTC", "audio", AUDIO | {"vocab_size": 32}),
    Configured("ASTForAudioClassification", "spectrogram", IMAGE | {"max_length": 64, "num_mel_bins": 32}),
    Configured("PatchTSMixerForPrediction", "series", {
        "context_length": 32, "prediction_length": 8, "num_input_channels": 3, "d_model": 16, "num_layers": 2}),
)
ULTRALYTICS = (
    "yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls",
    "yolov9t", "yolov10n", "yolo11n", "yolo11n-seg", "yolo12n", "yolo26n", "rtdetr-resnet50",
)
SEGMENTATION = ("Unet", "UnetPlusPlus", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "MAnet",
                "UPerNet", "Segformer", "DPT")


@dataclass(frozen=True, eq=False)
class Made:
    """A network with ``N_ROWS`` samples of its inputs, by name or by place."""

    model: nn.Module
    inputs: dict[str, Tensor] | tuple[Tensor, ...]


def names(onnx: Path | None) -> list[str]:
    """``library:network`` of all that are installed, the libraries in turns.

    Args:
        onnx: a folder whose files are networks too.
    """
    sources = [list(source()) for source in (_torchvision, _timm, _transformers, _ultralytics, _segmentation)]
    files = sorted(onnx.rglob("*.onnx")) if onnx else []
    sources.append([f"onnx:{file.relative_to(onnx)}" for file in files])
    shares = [(index / len(source), name) for source in sources for index, name in enumerate(source)]
    return [name for _, name in sorted(shares)]


def family(name: str) -> str:
    """What a row of the table by family is named."""
    library, _, network = name.partition(":")
    if library == "timm":
        import timm.models

        return f"timm {timm.models._registry._model_to_module[network]}"
    return library if library != "onnx" else f"onnx {network.partition('/')[0]}"


def make(name: str, seed: int) -> Made:
    """The network of a name with random weights, in eval mode, its batch norms with statistics of its inputs."""
    library, _, network = name.partition(":")
    torch.manual_seed(seed)
    random.seed(seed)
    made = MAKERS[library](network)
    norms = [m for m in made.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    made.model.eval()
    for module in made.model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    for norm in norms:
        norm.train()
        norm.momentum = None
        if norm.track_running_stats:
            norm.reset_running_stats()
    if norms:
        call(made.model, made.inputs)
    made.model.eval()
    return made


def call(model: Callable[..., Any], inputs: dict[str, Tensor] | tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def _images(size: int | tuple[int, int], channels: int = 3) -> Tensor:
    """Smooth structure and noise, which keeps channels apart."""
    height, width = (size, size) if isinstance(size, int) else size
    coarse = torch.randn(N_ROWS, channels, max(2, height // 8), max(2, width // 8))
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return smooth + 0.3 * torch.randn(N_ROWS, channels, height, width)


def _torchvision() -> Iterator[str]:
    import torchvision

    families: dict[str, list[str]] = {}
    for name in sorted(torchvision.models.list_models(module=torchvision.models), key=_n_params):
        families.setdefault(name.rstrip("0123456789_").partition("_")[0].rstrip("0123456789"), []).append(name)
    for one in itertools.zip_longest(*(members[:2] for members in families.values())):
        yield from (f"torchvision:{name}" for name in one if name)
    yield from (f"torchvision:{name}" for name in (
        "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"))


def _n_params(name: str) -> tuple[int, str]:
    import torchvision

    return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"], name


def _timm() -> Iterator[str]:
    try:
        import timm
    except ImportError:
        return
    for module in sorted(timm.list_modules()):
        candidates = timm.list_models(module=module)
        if candidates:
            yield f"timm:{min(candidates, key=_smallness)}"


def _smallness(name: str) -> tuple[int, int, str]:
    return next((i for i, part in enumerate(SMALL) if part in f"{name}_"), len(SMALL)), len(name), name


def _transformers() -> Iterator[str]:
    try:
        import transformers
    except ImportError:
        return
    yield from (f"transformers:{one.model}" for one in TRANSFORMERS if hasattr(transformers, one.model))


def _ultralytics() -> Iterator[str]:
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # it writes one when it is imported
    try:
        import ultralytics  # noqa: F401
    except ImportError:
        return
    yield from (f"ultralytics:{name}" for name in ULTRALYTICS)


def _segmentation() -> Iterator[str]:
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        return
    yield from (f"segmentation_models_pytorch:{name}" for name in SEGMENTATION if hasattr(smp, name))


def _make_torchvision(name: str) -> Made:
    import torchvision

    size = SIZES.get(name, 224 if name.startswith(("maxvit", "swin")) else 64)
    more: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
    if name in ("inception_v3", "googlenet"):
        more = {"init_weights": True, "aux_logits": False}
    if name.startswith(("deeplab", "fcn", "lraspp")):
        more = {"weights_backbone": None}
    return Made(torchvision.models.get_model(name, weights=None, num_classes=N_CLASSES, **more), (_images(size),))


def _make_timm(name: str) -> Made:
    import timm

    depth, size = {"depth": DEPTH}, {"img_size": SMALL_IMAGE}
    for more in (depth | size, depth, size, {}):
        with contextlib.suppress(Exception):  # it does not take these
            model = timm.create_model(name, num_classes=N_CLASSES, **more).eval()
            channels, *usual = model.default_cfg["input_size"]
            sizes = [usual]
            if "img_size" in more:
                sizes = [[SMALL_IMAGE, SMALL_IMAGE]]
            elif not model.default_cfg.get("fixed_input_size"):
                least = model.default_cfg.get("min_input_size", (channels, 64, 64))[1:]
                # The configuration does not always say that its size is the only one.
                sizes = [[min(s, max(64, m)) for s, m in zip(usual, least, strict=True)], usual]
            for height, width in sizes:
                with contextlib.suppress(Exception):
                    call(model, (torch.randn(2, channels, height, width),))
                    return Made(model, (_images((height, width), channels),))
    raise RuntimeError(f"timm does not make {name}")


def _make_transformers(name: str) -> Made:
    import transformers

    one = next(one for one in TRANSFORMERS if one.model == name)
    kind = getattr(transformers, name)
    fields = {"num_labels": N_CLASSES, "use_cache": False} | one.config | one.more
    config = kind.config_class(**{name: value for name, value in fields.items() if value is not None})
    model = kind(config)
    ids, mask = torch.randint(3, VOCABULARY, (N_ROWS, SEQUENCE)), torch.ones(N_ROWS, SEQUENCE, dtype=torch.int64)
    ending = torch.cat((ids[:, :-1], torch.full((N_ROWS, 1), 2)), 1)
    inputs: dict[str, Callable[[], dict[str, Tensor]]] = {
        "text": lambda: {"input_ids": ids, "attention_mask": mask},
        "text ending": lambda: {"input_ids": ending, "attention_mask": mask},
        "ids": lambda: {"input_ids": ids},
        "image": lambda: {"pixel_values": _images(64)},
        "audio": lambda: {"input_values": torch.randn(N_ROWS, 1600)},
        "spectrogram": lambda: {"input_values": torch.randn(N_ROWS, 64, 32)},
        "series": lambda: {"past_values": torch.randn(N_ROWS, 32, 3)},
    }
    return Made(model, inputs[one.inputs]())


def _make_ultralytics(name: str) -> Made:
    from ultralytics.nn import tasks

    kinds = {"seg": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel", "cls": "ClassificationModel"}
    kind = "RTDETRDetectionModel" if name.startswith("rtdetr") else kinds.get(name.partition("-")[2], "DetectionModel")
    model = getattr(tasks, kind)(f"{name}.yaml", verbose=False)
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "one2one" in n):
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))  # heads begin as copies, which runtimes make one
    return Made(model, (_images(64).sigmoid(),))


def _make_segmentation(name: str) -> Made:
    import segmentation_models_pytorch as smp

    encoder = {"Segformer": "mit_b0", "DPT": "tu-vit_tiny_patch16_224"}.get(name, "resnet18")
    size = {"DPT": 224, "PAN": 256}.get(name, 64)
    return Made(getattr(smp, name)(encoder_name=encoder, encoder_weights=None, classes=N_CLASSES), (_images(size),))


MAKERS: dict[str, Callable[[str], Made]] = {
    "torchvision": _make_torchvision, "timm": _make_timm, "transformers": _make_transformers,
    "ultralytics": _make_ultralytics, "segmentation_models_pytorch": _make_segmentation,
}
KNOWN_SIZES = {  # part of a file's path -> sizes by input and dimension, or by dimension
    "silero": {"sr": (), "state": (2, 1, 128), "input": (1, 512)},
    "magika": {"": (None, 2048)}, "rec": {"": (None, 3, 48, 64)}, "cls": {"": (None, 3, 48, 192)},
}
SAMPLING_RATE = 16000


def onnx_inputs(file: Path) -> tuple[Tensor, ...]:
    """Random inputs of the shapes that a file declares; free sizes are 16, of images 64. Where an input has no samples
    in its first dimension, a row is a whole call of the file.

    Raises:
        Exception: ONNX Runtime does not load the file.
    """
    import onnxruntime

    types = {"tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(bool)": torch.bool}
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    known = next((sizes for part, sizes in KNOWN_SIZES.items() if part in file.name), {})
    inputs = []
    ports = session.get_inputs()
    are_calls = any(not port.shape or (isinstance(port.shape[0], int) and port.shape[0] > 1) for port in ports)
    for port in ports:
        is_image = len(port.shape) == 4
        usual = (1, 3, 64, 64) if is_image else (1, *[16] * (len(port.shape) - 1))
        given = known.get(port.name, known.get("", (None,) * len(port.shape)))
        free = [size or default for size, default in zip(given, usual, strict=False)] or usual
        sizes = [size if isinstance(size, int) and size > 0 else free[i] for i, size in enumerate(port.shape)]
        shape = (N_ROWS, *(sizes if are_calls else sizes[1:]))
        dtype = types.get(port.type, torch.float32)
        small = torch.rand(shape) if dtype.is_floating_point else torch.randint(2, shape)
        inputs.append(torch.full((N_ROWS,), SAMPLING_RATE) if port.name == "sr" else small.to(dtype))
    return tuple(inputs)
