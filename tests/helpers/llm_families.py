"""Miniatures of the field's LLMs: true architectures, roles of tokens and chat formats.

Each is a folder as it is published: ``config.json``, weights, ``generation_config.json``,
``tokenizer.json`` and ``tokenizer_config.json`` with the chat template. :data:`FAMILIES` is the
list of LLM families that this project is tested with.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from helpers.tiny_models import TEXTS
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# Texts that make words of the templates' own: learnt like the rest, so that vocabularies are small.
_CORPUS = [*TEXTS, "system user assistant model You are a helpful assistant. Knowledge Today Date:"]

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}

# --- chat formats: the structure of the published ones, in other words ---


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WITH_SYSTEM = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}" + CHATML
)
#: Thinking is on unless it is switched off, and an answer in the past shows none.
QWEN3 = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% set words = message.content.split('</think>')[-1].lstrip('\\n') %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ words + '<|im_end|>\\n' }}{% else %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
#: Today's date in a system turn, and thinking.
SMOLLM3 = (
    "{% set think = enable_thinking is not defined or enable_thinking %}"
    "{% set mode = '/think' if think else '/no_think' %}"
    "{{ '<|im_start|>system\\nToday Date: ' + strftime_now('%d %B %Y') + '\\n' + mode }}"
    "{{ '<|im_end|>\\n' }}"
    "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
    "{{ '<|im_start|>assistant\\n' }}{% if mode == '/no_think' %}{{ '<think>\\n\\n</think>\\n' }}"
    "{% endif %}{{ message.content + '<|im_end|>\\n' }}{% endgeneration %}{% else %}"
    "{{ '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if mode == '/no_think' %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}"
)
#: An answer opens with thoughts that the format then leaves out.
REASONER = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '<|User|>' + message.content }}{% else %}"
    "{{ '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
    "{{ message.content | trim }}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA32 = (
    "{{ bos_token }}{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}"
    "{% else %}{% set today = '26 Jul 2024' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + today + '\\n\\n' }}"
    "{{ '<|eot_id|>' }}" + LLAMA3.removeprefix("{{ bos_token }}")
)
PHI3 = (
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\\n' }}"
    "{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{% for part in message.content %}{{ part.text | trim }}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '[INST] ' + message.content + ' [/INST]' }}{% elif message.role == 'assistant' %}"
    "{{ ' ' + message.content + eos_token }}{% else %}{{ raise_exception('roles alternate') }}"
    "{% endif %}{% endfor %}"
)
FALCON = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{% if message.role == 'user' %}{{ 'User: ' + message.content }}"
    "{% else %}{{ 'Falcon: ' + message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nFalcon:' }}{% endif %}"
)
OLMO = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ '<|assistant|>\\n' + message.content }}{% if loop.last %}{{ eos_token }}"
    "{% else %}{{ eos_token + '\\n' }}{% endif %}"
    "{% else %}{{ '<|user|>\\n' + message.content + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
COHERE = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|USER_TOKEN|>' if message.role == 'user' else '<|CHATBOT_TOKEN|>' }}"
    "{{ message.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
GRANITE = (
    "{% for message in messages %}"
    "{{ '<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content }}"
    "{{ '<|end_of_text|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)


# --- tokenizers ---


def _byte_level(special: list[str]) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    return core


def _sentencepiece(special: list[str], *, prepend: bool) -> Tokenizer:
    """As converted from sentencepiece: bytes for what is unknown, a mark in place of blanks."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=160, show_progress=False, special_tokens=[])
    learner.train_from_iterator(_CORPUS, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].get)
    names = dict.fromkeys(["<unk>", *special, *bytes_, "▁", *pieces])
    vocabulary = {piece: number for number, piece in enumerate(names)}
    core = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[tuple(pair) for pair in learnt["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    steps = [normalizers.Replace(" ", "▁")]
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prepend else steps)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prepend else []),
        ]
    )
    core.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return core


def write_tokenizer(
    folder: Path,
    kind: str,
    special: list[str],
    *,
    plain: tuple[str, ...] = (),
    bos: str | None = None,
    eos: str | None = None,
    adds_bos: bool = False,
    template: str | None = None,
    rstrip: bool = False,
    **named: Any,
) -> None:
    """Write the files of a tokenizer.

    Args:
        folder: to write into.
        kind: ``byte-level``, ``prepend`` or ``replace`` (both as from sentencepiece).
        special: its special tokens.
        plain: added tokens that are not flagged as special.
        bos: role.
        eos: role.
        adds_bos: the tokenizer opens texts with its BOS.
        template: the chat template.
        rstrip: special tokens take the blanks after them along.
        named: further entries of ``tokenizer_config.json``.
    """
    if kind == "byte-level":
        core = _byte_level(special)
    else:
        core = _sentencepiece(special, prepend=kind == "prepend")
    core.add_special_tokens(
        [AddedToken(t, normalized=False, special=True, rstrip=rstrip and t != bos) for t in special]
    )
    core.add_tokens([AddedToken(t, normalized=False, special=False) for t in plain])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, core.token_to_id(bos))],
        )
    core.save(str(folder / "tokenizer.json"))
    values = {"model_max_length": 4096, "tokenizer_class": "PreTrainedTokenizerFast", **named}
    roles = {"bos_token": bos, "eos_token": eos, "chat_template": template}
    values |= {name: value for name, value in roles.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


# --- the families ---


@dataclass(frozen=True)
class Family:
    """One published LLM in small.

    Attributes:
        model: its class in transformers, which is loaded.
        config: further settings of its configuration.
        kind: of tokenizer.
        special: special tokens.
        roles: keyword arguments of :func:`write_tokenizer`.
        ends: tokens that ``generation_config.json`` names.
        stop: the token that must end a learnt report.
        after: what must stand between request and report.
        wrapper: folder holds this multimodal class around the text model.
        lora: names of the layers that a LoRA must reach.
    """

    model: str
    kind: str
    special: tuple[str, ...]
    stop: str
    after: str | None
    lora: str
    config: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, Any] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    wrapper: str | None = None


_GATED = "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"
_ATTENTION = "k_proj o_proj q_proj v_proj"
_CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPM = ("<s>", "</s>")
_OF_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
_GEMMA_ROLES = {
    "bos": "<bos>",
    "eos": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "adds_bos": True,
    "template": GEMMA,
    "plain": ("\n\n", "<table>"),
}
_CHAT_ROLES = {"eos": "<|im_end|>", "pad_token": "<|endoftext|>"}
_SPM_ROLES = {"bos": "<s>", "eos": "</s>", "unk_token": "<unk>", "adds_bos": True}
_EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4}

FAMILIES: dict[str, Family] = {
    "Vicuna": Family("Llama", "prepend", _SPM, "</s>", None, _GATED, roles=_SPM_ROLES),
    "Llama 3": Family(
        "Llama",
        "byte-level",
        _LLAMA3,
        "<|eot_id|>",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        _GATED,
        roles={
            "bos": "<|begin_of_text|>",
            "eos": "<|end_of_text|>",
            "adds_bos": True,
            "template": LLAMA3,
        },
        ends=("<|end_of_text|>", "<|eot_id|>"),
    ),
    "Llama 3.2": Family(
        "Llama",
        "byte-level",
        _LLAMA3,
        "<|eot_id|>",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        _GATED,
        config={"tie_word_embeddings": True},
        roles={
            "bos": "<|begin_of_text|>",
            "eos": "<|eot_id|>",
            "adds_bos": True,
            "template": LLAMA32,
        },
    ),
    "Phi-2": Family(
        "Phi",
        "byte-level",
        ("<|endoftext|>",),
        "<|endoftext|>",
        None,
        "dense fc1 fc2 k_proj q_proj v_proj",
        roles={"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    ),
    "Phi-3": Family(
        "Phi3",
        "prepend",
        ("<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
        "<|end|>",
        "<|end|>\n<|assistant|>\n",
        "down_proj gate_up_proj o_proj qkv_proj",
        roles={
            "bos": "<s>",
            "eos": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<unk>",
            "template": PHI3,
            "rstrip": True,
            "tokenizer_class": "LlamaTokenizer",
            "legacy": False,
        },
        ends=("<|endoftext|>", "<|end|>"),
    ),
    "Phi-4": Family(
        "Phi3",
        "byte-level",
        (*_CHAT, "<|im_sep|>"),
        "<|im_end|>",
        "<|im_end|><|im_start|>assistant<|im_sep|>",
        "down_proj gate_up_proj o_proj qkv_proj",
        roles={"bos": "<|endoftext|>", **_CHAT_ROLES, "template": PHI4},
    ),
    "Qwen2.5": Family(
        "Qwen2",
        "byte-level",
        _CHAT,
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n",
        _GATED,
        roles={**_CHAT_ROLES, "template": WITH_SYSTEM, "plain": ("<tool_call>", "</tool_call>")},
        ends=("<|im_end|>", "<|endoftext|>"),
    ),
    "Qwen3": Family(
        "Qwen3",
        "byte-level",
        _CHAT,
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        _GATED,
        config={"head_dim": 16},
        roles={**_CHAT_ROLES, "template": QWEN3, "plain": ("<think>", "</think>")},
    ),
    "DeepSeek-R1 distilled (Qwen2)": Family(
        "Qwen2",
        "byte-level",
        ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"),
        "<|end|>",
        "<|Assistant|>",
        _GATED,
        roles={
            "bos": "<|begin|>",
            "eos": "<|end|>",
            "adds_bos": True,
            "template": REASONER,
            "plain": ("<think>", "</think>"),
        },
    ),
    "Gemma 2": Family(
        "Gemma2",
        "replace",
        _OF_GEMMA,
        "<end_of_turn>",
        "<end_of_turn>\n<start_of_turn>model\n",
        _GATED,
        config={"head_dim": 16, "sliding_window": 16},
        roles=_GEMMA_ROLES,
    ),
    "Gemma 3": Family(
        "Gemma3Text",
        "replace",
        _OF_GEMMA,
        "<end_of_turn>",
        "<end_of_turn>\n<start_of_turn>model\n",
        _GATED,
        config={"head_dim": 16, "sliding_window": 16},
        roles=_GEMMA_ROLES,
        ends=("<eos>", "<end_of_turn>"),
    ),
    "MedGemma (Gemma 3 with its vision tower)": Family(
        "Gemma3Text",
        "replace",
        (*_OF_GEMMA, "<start_of_image>", "<image_soft_token>"),
        "<end_of_turn>",
        "<end_of_turn>\n<start_of_turn>model\n",
        _GATED,
        config={"head_dim": 16, "sliding_window": 16},
        roles=_GEMMA_ROLES,
        wrapper="Gemma3",
    ),
    "Mistral": Family(
        "Mistral",
        "prepend",
        _SPM,
        "</s>",
        " [/INST]",
        _GATED,
        roles={**_SPM_ROLES, "template": INST},
    ),
    "SmolLM2": Family(
        "Llama",
        "byte-level",
        _CHAT,
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n",
        _GATED,
        config={"tie_word_embeddings": True},
        roles={"bos": "<|im_start|>", "unk_token": "<|endoftext|>", **_CHAT_ROLES}
        | {"pad_token": "<|im_end|>", "template": WITH_SYSTEM},
    ),
    "SmolLM3": Family(
        "SmolLM3",
        "byte-level",
        _CHAT,
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
        _GATED,
        roles={**_CHAT_ROLES, "template": SMOLLM3, "plain": ("<think>", "</think>")},
    ),
    "Falcon": Family(
        "Falcon",
        "byte-level",
        (">>QUESTION<<", ">>ANSWER<<", "<|endoftext|>"),
        "<|endoftext|>",
        "\nFalcon:",
        "dense dense_4h_to_h dense_h_to_4h query_key_value",
        roles={"eos": "<|endoftext|>", "template": FALCON},
    ),
    "OLMo 2": Family(
        "Olmo2",
        "byte-level",
        ("<|endoftext|>", "<|pad|>"),
        "<|endoftext|>",
        "\n<|assistant|>\n",
        _GATED,
        roles={
            "bos": "<|endoftext|>",
            "eos": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|pad|>",
            "template": OLMO,
        },
    ),
    "Mixtral": Family(
        "Mixtral",
        "prepend",
        (*_SPM, "[INST]", "[/INST]"),
        "</s>",
        " [/INST]",
        _ATTENTION,
        config=_EXPERTS,
        roles={**_SPM_ROLES, "template": INST},
    ),
    "Qwen3 MoE": Family(
        "Qwen3Moe",
        "byte-level",
        _CHAT,
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        _ATTENTION,
        config={**_EXPERTS, "head_dim": 16, "moe_intermediate_size": 32},
        roles={**_CHAT_ROLES, "template": QWEN3, "plain": ("<think>", "</think>")},
    ),
    "OLMoE": Family(
        "Olmoe",
        "byte-level",
        ("<|endoftext|>", "<|padding|>"),
        "<|endoftext|>",
        "\n<|assistant|>\n",
        _ATTENTION,
        config=_EXPERTS,
        roles={
            "bos": "<|endoftext|>",
            "eos": "<|endoftext|>",
            "pad_token": "<|padding|>",
            "template": OLMO,
        },
    ),
    "Command R (Cohere)": Family(
        "Cohere",
        "byte-level",
        (
            "<PAD>",
            "<BOS_TOKEN>",
            "<EOS_TOKEN>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ),
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        _GATED,
        roles={
            "bos": "<BOS_TOKEN>",
            "eos": "<|END_OF_TURN_TOKEN|>",
            "pad_token": "<PAD>",
            "adds_bos": True,
            "template": COHERE,
        },
    ),
    "Granite": Family(
        "Granite",
        "byte-level",
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        "<|end_of_text|>",
        "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        _GATED,
        roles={
            "bos": "<|end_of_text|>",
            "eos": "<|end_of_text|>",
            "pad_token": "<|end_of_text|>",
            "template": GRANITE,
        },
    ),
    "StableLM": Family(
        "StableLm",
        "byte-level",
        _CHAT,
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n",
        _GATED,
        roles={
            "bos": "<|endoftext|>",
            "eos": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "template": CHATML,
        },
    ),
    "GPT-NeoX (Pythia)": Family(
        "GPTNeoX",
        "byte-level",
        ("<|endoftext|>", "<|padding|>"),
        "<|endoftext|>",
        None,
        "dense dense_4h_to_h dense_h_to_4h query_key_value",
        roles={"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad_token": "<|padding|>"},
    ),
    "GPT-J": Family(
        "GPTJ",
        "byte-level",
        ("<|endoftext|>",),
        "<|endoftext|>",
        None,
        "fc_in fc_out k_proj out_proj q_proj v_proj",
        config={"rotary_dim": 8},
        roles={"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    ),
    "OPT": Family(
        "OPT",
        "byte-level",
        ("<pad>", "</s>"),
        "</s>",
        None,
        "fc1 fc2 k_proj out_proj q_proj v_proj",
        config={"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.0},
        roles={"bos": "</s>", "eos": "</s>", "pad_token": "<pad>", "adds_bos": True},
    ),
    "BLOOM": Family(
        "Bloom",
        "byte-level",
        ("<s>", "</s>", "<pad>"),
        "</s>",
        None,
        "dense dense_4h_to_h dense_h_to_4h query_key_value",
        config={"n_layer": 2, "n_head": 4},
        roles={"bos": "<s>", "eos": "</s>", "pad_token": "<pad>"},
    ),
}

#: Architectures that cannot be the LLM of a report model, and a word of why.
REFUSED: dict[str, tuple[Callable[[int], Any], str]] = {
    "MPT": (
        lambda rows: transformers.MptForCausalLM(
            transformers.MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=rows)
        ),
        "inputs_embeds",
    ),
    "Mamba": (
        lambda rows: transformers.MambaForCausalLM(
            transformers.MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=rows)
        ),
        "Mamba",
    ),
    "Falcon H1": (
        lambda rows: transformers.FalconH1ForCausalLM(
            transformers.FalconH1Config(
                **SIZES, vocab_size=rows, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16
            )
        ),
        "inputs_embeds",
    ),
    "RWKV": (
        lambda rows: transformers.RwkvForCausalLM(
            transformers.RwkvConfig(hidden_size=64, num_hidden_layers=2, vocab_size=rows)
        ),
        "batch",
    ),
    "Gemma 3n": (
        lambda rows: transformers.Gemma3nForCausalLM(
            transformers.Gemma3nTextConfig(
                **{**SIZES, "num_hidden_layers": 4, "intermediate_size": [96] * 4},
                vocab_size=rows,
                vocab_size_per_layer_input=rows,
                hidden_size_per_layer_input=8,
                head_dim=16,
                num_kv_shared_layers=0,
                activation_sparsity_pattern=[0.0] * 4,
                layer_types=["sliding_attention", "full_attention"] * 2,
            )
        ),
        "embeddings",
    ),
}


@functools.cache
def folder_of(name: str) -> Path:
    """The folder of a family's miniature, made once."""
    family = FAMILIES[name]
    keep = tempfile.TemporaryDirectory()
    _KEPT.append(keep)
    folder = Path(keep.name) / "llm"
    folder.mkdir()
    write_tokenizer(folder, family.kind, list(family.special), **family.roles)
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = core.get_vocab_size()
    ids = {
        f"{role}_token_id": core.token_to_id(family.roles[role])
        for role in ("bos", "eos")
        if role in family.roles
    }
    sizes = {**SIZES, **family.config, "vocab_size": rows, "pad_token_id": 0, **ids}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family.model}Config")(**sizes)
    if family.wrapper:
        config = getattr(transformers, f"{family.wrapper}Config")(
            text_config=config,
            vision_config=transformers.SiglipVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
            ),
            mm_tokens_per_image=4,
            image_token_id=core.token_to_id("<image_soft_token>"),
        )
        kind = getattr(transformers, f"{family.wrapper}ForConditionalGeneration")
    else:
        kind = getattr(transformers, f"{family.model.removesuffix('Text')}ForCausalLM")
    save_llm(kind(config), folder)
    if family.ends:
        ends = [core.token_to_id(end) for end in family.ends]
        facts = {"eos_token_id": ends, "do_sample": True, "repetition_penalty": 1.3}
        (folder / "generation_config.json").write_text(json.dumps(facts))
    return folder


_KEPT: list[Any] = []


def save_llm(llm: Any, folder: Path) -> None:
    """Save an LLM with weights large enough that each of them tells."""
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    llm.save_pretrained(folder)
