"""Tiny models and tokenizers, made here: random weights, real architectures."""

import io

import numpy as np
import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.dinov2 import Dinov2Encoder
from llava_rad.images import Radiograph
from llava_rad.model import AdapterConfig, ReportModel
from llava_rad.model.llm import LLMReference

TEXTS = [
    "No acute disease. The lungs are clear. No effusion. Heart size is normal.",
    "Frontal image: Lateral image: Prior frontal image: Prior report: Technique: Comparison:",
    "Describe the findings of this chest X-ray. Indication: cough and fever",
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
    "Provide a description of the findings in the radiology image given the indication",
    "Large right pleural effusion with 2.5 cm of fluid, fracture at T12, no pneumothorax.",
] * 4

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": lambda **k: LlamaForCausalLM(LlamaConfig(**{**SIZES, **k})),
    "tied-llama": lambda **k: LlamaForCausalLM(
        LlamaConfig(**{**SIZES, "tie_word_embeddings": True, **k})
    ),
    "phi2": lambda **k: PhiForCausalLM(PhiConfig(**{**SIZES, **k})),
    "phi3": lambda **k: Phi3ForCausalLM(Phi3Config(**{**SIZES, **k})),
    "qwen2": lambda **k: Qwen2ForCausalLM(Qwen2Config(**{**SIZES, **k})),
}


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Like SmolLM2's: byte-level BPE, ChatML, no BOS put in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def sentencepiece_tokenizer(folder, *, legacy: bool) -> LlamaTokenizer:
    """Like Vicuna's: sentencepiece with a BOS in front and no chat template."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return LlamaTokenizer.from_pretrained(str(folder), legacy=legacy)


def tiny_encoder(seed: int = 0, size: int = 56) -> Dinov2Encoder:
    torch.manual_seed(seed)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=14,
            image_size=size,
            layerscale_value=1.0,
        )
    )
    # Fresh weights are so small that every picture looks alike.
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    preprocessing = Preprocessing(image_size=size, mean=(0.5307,) * 3, std=(0.2583,) * 3)
    return Dinov2Encoder(model, preprocessing, name="tiny")


def tiny_llm(family: str, vocab_size: int, seed: int = 0):
    torch.manual_seed(seed)
    llm = FAMILIES[family](vocab_size=vocab_size).eval()
    for name, parameter in llm.named_parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
        if name == "lm_head.bias":
            parameter.data = torch.randn_like(parameter)
    return llm


def reference_of(llm, name: str = "tiny") -> LLMReference:
    rows, width = llm.get_input_embeddings().weight.shape
    return LLMReference(name, None, rows, width, type(llm).__name__)


def build(tokenizer, family="llama", *, llm=None, llm_id="tiny", encoder=None, **options):
    llm = llm if llm is not None else tiny_llm(family, len(tokenizer))
    options.setdefault("adapter", AdapterConfig())
    return ReportModel.build(
        encoder or tiny_encoder(), llm, reference_of(llm, llm_id), tokenizer, **options
    )


def save_tiny_model(folder, llm=None, **options) -> str:
    """A model in a folder that the command line loads, its base LLM beside it; gives its place."""
    tokenizer = byte_level_tokenizer()
    llm = llm if llm is not None else tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(folder / "llm")
    made = build(tokenizer, llm=llm, llm_id=str(folder / "llm"), name="tiny-model", **options)
    return str(made.save_pretrained(folder / "model"))


def picture(seed: int = 0, height: int = 70, width: int = 60) -> Radiograph:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width), dtype=np.uint8)
    return Radiograph(
        pixels=pixels,
        rendering="minmax",
        view="frontal",
        view_position="PA",
        laterality=None,
        pixel_spacing=None,
        photometric={},
        warnings=(),
        source=f"picture-{seed}",
    )
