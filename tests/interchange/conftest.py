"""Tiny checkpoints in the layouts of other projects, around one transformers Llava.

The weights of all of them are those of ``reference``, whose outputs are thus what each has to give.
"""

import json

import pytest
import timm
import torch
from helpers.tiny_checkpoints import (
    LLAMA,
    LLAVA_SETTINGS,
    PREPROCESSING,
    TOWER,
    randomise,
    write_json,
)
from helpers.tiny_models import sentencepiece_tokenizer
from peft import LoraConfig, get_peft_model
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return sentencepiece_tokenizer(tmp_path_factory.mktemp("spm"), legacy=False)


@pytest.fixture(scope="session")
def reference(tokenizer):
    """Transformers' Llava; its last token is the image's."""
    torch.manual_seed(0)
    rows = len(tokenizer) + 1
    config = LlavaConfig(
        vision_config=TOWER,
        text_config=LlamaConfig(vocab_size=rows, **LLAMA),
        image_token_index=rows - 1,
        image_seq_length=4,
    )
    return randomise(LlavaForConditionalGeneration(config))


@pytest.fixture(scope="session")
def llm(reference, tokenizer):
    """The reference's LLM as it was before it knew an image token."""
    rows = len(tokenizer)
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=rows, **LLAMA)).eval()
    state = {"lm_head.weight": reference.lm_head.weight[:rows]}
    for key, tensor in reference.model.language_model.state_dict().items():
        state[f"model.{key}"] = tensor[:rows] if key == "embed_tokens.weight" else tensor
    plain.load_state_dict(state)
    return plain


@pytest.fixture(scope="session")
def projector(reference):
    """As the LLaVA code names it."""
    own = reference.model.multi_modal_projector.state_dict()
    return {
        f"model.mm_projector.{number}.{kind}": own[f"linear_{name}.{kind}"].clone()
        for number, name in ((0, 1), (2, 2))
        for kind in ("weight", "bias")
    }


@pytest.fixture
def place(tmp_path, reference, llm, tokenizer):
    """A folder with the parts that LLaVA checkpoints only name: ``base`` and ``clip``."""
    llm.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    reference.model.vision_tower.save_pretrained(tmp_path / "clip")
    write_json(tmp_path / "clip" / "preprocessor_config.json", PREPROCESSING)
    return tmp_path


@pytest.fixture
def llava_config(place):
    values = json.loads((place / "base" / "config.json").read_text())
    # as the transformers version of the LLaVA code wrote it
    theta = values.pop("rope_parameters")["rope_theta"]
    values |= {"rope_theta": theta, "rope_scaling": None, "torch_dtype": values.pop("dtype")}
    return {
        **values,
        **LLAVA_SETTINGS,
        "mm_vision_tower": str(place / "clip"),
        "_name_or_path": str(place / "base"),
    }


@pytest.fixture
def lora(llm):
    """A random LoRA on a copy of the LLM: its PeftModel."""
    torch.manual_seed(5)
    copied = LlamaForCausalLM(llm.config).eval()
    copied.load_state_dict(llm.state_dict())
    wrapped = get_peft_model(
        copied, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return wrapped.eval()


@pytest.fixture
def timm_fixture_tower():
    """The name under which the reference file's tower with LayerScale was made."""
    name = "vit_fixture_patch14_56_layerscale"
    if not timm.is_model(name):

        def make(pretrained=False, **options):
            sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 4, "num_heads": 4}
            sizes |= {"init_values": 1e-5, **options}
            return _create_vision_transformer(name, pretrained, **sizes)

        make.__name__, make.__module__ = name, __name__
        register_model(make)
