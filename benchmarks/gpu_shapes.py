"""The models of ``benchmarks/gpu.py``: random weights, made on the device, and their tokenizer."""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.dinov2 import Dinov2Encoder


@dataclass(frozen=True)
class Shapes:
    """Sizes of what is measured.

    Attributes:
        llm: Llama's.
        encoder: DINOv2's.
        texts: tokens of prompt and report in each batch of a cycle; batches differ in length.
        prompt: tokens of these that are not learnt.
        new_tokens: that are generated.
    """

    llm: LlamaConfig
    encoder: Dinov2Config
    texts: tuple[int, ...]
    prompt: int
    new_tokens: int

    @property
    def side(self) -> int:
        """Pixels of an image's side."""
        size: Any = self.encoder.image_size
        return int(size)

    @property
    def image_tokens(self) -> int:
        """Patches of an image."""
        size: Any = self.encoder.patch_size
        return (self.side // int(size)) ** 2


def shapes(tiny: bool) -> Shapes:
    """Those of Vicuna 7B and RAD-DINO, or tiny ones."""
    if tiny:
        llm = LlamaConfig(
            vocab_size=600,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
        encoder = Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56
        )
        return Shapes(llm, encoder, (20, 31), 10, 6)
    # transformers' defaults are the sizes of Llama 7B and of ViT-B/14.
    return Shapes(
        LlamaConfig(max_position_embeddings=4096),
        Dinov2Config(image_size=518, patch_size=14),
        (150, 230, 310, 400),
        80,
        256,
    )


def make_llm(config: LlamaConfig, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A causal LM that never ends its text by itself."""
    with torch.device(device):
        llm: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        llm.lm_head.weight[config.eos_token_id].zero_()  # of random logits some are above 0
    return llm.eval()


def make_encoder(config: Dinov2Config, device: str) -> Dinov2Encoder:
    """An encoder in float32, as encoders are loaded to train on."""
    with torch.device(device):
        model = Dinov2Model(config)
    size: Any = config.image_size
    return Dinov2Encoder(model, Preprocessing(size, (0.5,) * 3, (0.25,) * 3))


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A word for each number, and Llama's special tokens."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{n}": n for n in range(3, size)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<unk>", **special)
