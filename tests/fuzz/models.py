"""Folders of encoders, LLMs, report models and other projects' checkpoints, file by file."""

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzz.inputs import Files, Kind
from fuzz.raw import damaged, number
from fuzz.trees import mutated, mutated_json, to_json

_TEMPLATES = (
    *("", "{{ x", "{% for m in messages %}", "{{ messages }}", "{{ messages[99].content.foo }}"),
    *("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ 'a' * 10000000000 }}", "{{ 1 / 0 }}"),
    *("{% for i in range(99999999999) %}{{ i }}{% endfor %}", "{{ [0] * 9999999999 }}", "\0"),
    *("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% include 'x' %}", "{{ 9 ** 9 ** 9 }}"),
    *("{% for m in messages %}{{ m.role }}{% endfor %}", "{{ raise_exception('no system') }}"),
    *("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "{% set x = x %}{{ x.y }}"),
    *("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "{{" * 5000),
    *("{{ namespace(a=1).a.b.c }}", "{{ messages | tojson | length }}", "{% generation %}"),
    *("{{ '%999999999d' % 1 }}", "{{ 'x'.ljust(9999999999) }}", "{{ cycler.__init__ }}", "é\ud800"),
)
_CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] if item.type == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item.type == 'text' %}{{ item.text }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_DTYPES = ("F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F64", "X", "", "I8", "C64", "F4")


def damaged_safetensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file with its header, an entry of it or its values changed."""
    size = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + size], data[8 + size :]
    way = rng.randrange(9)
    if way == 0:
        return number(rng, 8).to_bytes(8, "little") + data[8:]
    if way == 1:
        return damaged(data, rng)
    if way == 2:
        return data[:8] + header + values[: rng.randrange(len(values) + 1)]
    if way == 3:  # values that are no numbers
        at = rng.randrange(max(1, len(values) // 4)) * 4
        odd = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, -0.0)))
        return data[:8] + header + values[:at] + odd * 8 + values[at + 32 :]
    tree = json.loads(header)
    names = [name for name in tree if name != "__metadata__"]
    name = rng.choice(names)
    if way == 4:
        del tree[name]
    elif way == 5:
        tree[name]["dtype"] = rng.choice(_DTYPES)
    elif way == 6:
        tree[name]["shape"] = rng.choice(
            ([], [0], [2**40, 2**40], [-1], [1, *tree[name]["shape"]], tree[name]["shape"][::-1])
        )
    elif way == 7:
        tree = {
            rng.choice((f"x.{name}", "", "a" * 5000)) if n == name else n: v
            for n, v in (tree.items())
        }
    else:
        tree = mutated(tree, rng)
    text = to_json(tree).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + values


def _mutate(files: Files, rng: Random) -> Files:
    name = rng.choice(sorted(name for name in files if name != "kind"))
    data = files[name]
    way = rng.random()
    if way < 0.04:
        return {other: value for other, value in files.items() if other != name}
    if way < 0.15:
        return {**files, name: damaged(data, rng)}
    if name.endswith(".json"):
        return {**files, name: _changed_json(data, rng)}
    if name.endswith(".safetensors"):
        return {**files, name: damaged_safetensors(data, rng)}
    if name.endswith(".jinja"):
        return {**files, name: rng.choice(_TEMPLATES).encode("utf-8", "surrogatepass")}
    return {**files, name: damaged(data, rng)}


def _changed_json(data: bytes, rng: Random) -> bytes:
    tree = json.loads(data)
    if isinstance(tree, dict) and tree and rng.random() < 0.6:
        # One key of the top: else a tokenizer's thousand tokens would take nearly all changes.
        key = rng.choice(sorted(tree))
        changed = {**tree, key: mutated([tree[key]], rng)}
        changed[key] = changed[key][0] if isinstance(changed[key], list) and changed[key] else None
        return to_json(changed).encode("utf-8", "surrogatepass")
    return mutated_json(data, rng)


def _read_encoder(folder: Path, rng: Random) -> None:
    import torch

    from llava_rad import load_encoder

    encoder = load_encoder(folder / "encoder")
    size = encoder.preprocessing.image_size
    assert isinstance(size, int)
    if size <= 224:
        encoder.encode(torch.zeros(1, 3, size, size))
    encoder.fingerprint()


def _read_llm(folder: Path, rng: Random) -> None:
    from llava_rad.model import PromptTemplate, load_llm, load_tokenizer

    tokenizer = load_tokenizer(str(folder / "llm"))
    template = PromptTemplate.for_tokenizer(tokenizer)
    assert isinstance(template, PromptTemplate)
    load_llm(str(folder / "llm"))


def _read_model(folder: Path, rng: Random) -> None:
    import numpy as np
    import torch

    import llava_rad
    from llava_rad.images import Radiograph
    from llava_rad.model import ReportRequest, RequestImage

    model = llava_rad.load(str(folder / "model"), base_llm=str(folder / "base"))
    picture = Radiograph(
        pixels=np.tile(np.arange(64, dtype=np.uint8), (64, 1)),
        rendering=model.processor.preprocessing.rendering,
        view="frontal",
        view_position=None,
        laterality=None,
        pixel_spacing=None,
        photometric={},
        warnings=(),
        source="made",
    )
    request = ReportRequest((RequestImage("current_frontal", picture),), indication="cough")
    batch = model.processor.pad([model.processor.encode(request)], "left")
    batch.pop("labels")
    with torch.no_grad():
        model(**batch, pixel_values=model.processor.pixel_values([request]))


def _read_checkpoint(folder: Path, rng: Random) -> None:
    from llava_rad.interchange import convert

    tower = folder / "clip" if (folder / "clip").is_dir() else None
    convert(folder / "checkpoint", folder / "out", vision_tower=tower)


def _ready() -> None:
    import peft
    import timm
    import transformers
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPVisionModel,
        Dinov2Model,
        LlamaForCausalLM,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
        SiglipVisionModel,
    )

    assert peft and timm and transformers


def _files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _made(make: Callable[[Path], Any]) -> Files:
    """What a call writes into a folder."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        return _files_of(Path(name))


def _seed_encoders() -> dict[str, Files]:
    import torch
    from helpers.tiny_models import tiny_encoder
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig
    from transformers import SiglipVisionModel as Siglip

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    preprocessing = {
        "crop_size": {"height": 28, "width": 28},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.2, 0.2, 0.2],
        "size": {"shortest_edge": 28},
        "image_processor_type": "CLIPImageProcessor",
    }
    square = {
        "size": {"height": 28, "width": 28},
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
    }

    def clip(folder: Path, pickled: bool = False) -> None:
        torch.manual_seed(0)
        model = CLIPVisionModel(CLIPVisionConfig(**sizes))
        model.save_pretrained(folder / "encoder")
        (folder / "encoder" / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        if pickled:
            (folder / "encoder" / "model.safetensors").unlink()
            torch.save(model.state_dict(), folder / "encoder" / "pytorch_model.bin")

    def siglip(folder: Path) -> None:
        torch.manual_seed(0)
        Siglip(SiglipVisionConfig(**sizes)).save_pretrained(folder / "encoder")
        (folder / "encoder" / "preprocessor_config.json").write_text(json.dumps(square))

    return {
        "dinov2": _made(lambda folder: tiny_encoder().save_pretrained(folder / "encoder")),
        "clip": _made(clip),
        "clip-pickled": _made(lambda folder: clip(folder, pickled=True)),
        "siglip": _made(siglip),
    }


def _save_llm(folder: Path, family: str) -> None:
    from helpers.tiny_models import byte_level_tokenizer, tiny_llm

    tokenizer = byte_level_tokenizer()
    llm = tiny_llm(family, len(tokenizer))
    llm.generation_config.temperature = 0.7
    llm.generation_config.do_sample = True
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _seed_llms() -> dict[str, Files]:
    return {
        family: _made(lambda folder, family=family: _save_llm(folder / "llm", family))
        for family in ("llama", "phi2", "qwen2")
    }


def _seed_models() -> dict[str, Files]:
    from helpers.tiny_models import build, byte_level_tokenizer

    from llava_rad.model import LoraSettings

    def save(folder: Path, weights: str) -> None:
        tokenizer = byte_level_tokenizer()
        _save_llm(folder / "base", "llama")
        lora = None if weights == "base" else LoraSettings(r=2)
        model = build(tokenizer, lora=lora)
        (model.merge() if weights == "full" else model).save_pretrained(folder / "model")

    return {
        weights: _made(lambda folder, weights=weights: save(folder, weights))
        for weights in ("base", "lora", "full")
    }


def _seed_checkpoints() -> dict[str, Files]:
    import torch
    from helpers.tiny_checkpoints import LLAMA, LLAVA_SETTINGS, PREPROCESSING, TOWER, write_json
    from helpers.tiny_models import byte_level_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    tokenizer = byte_level_tokenizer()
    rows = len(tokenizer)

    def reference() -> Any:
        torch.manual_seed(0)
        text = LlamaConfig(vocab_size=rows + 1, **LLAMA)
        return Llava(LlavaConfig(vision_config=TOWER, text_config=text, image_token_index=rows))

    def by_transformers(folder: Path) -> None:
        reference().save_pretrained(folder / "checkpoint")
        whole = byte_level_tokenizer()
        whole.chat_template = _CHAT
        whole.add_tokens(["<image>"], special_tokens=True)
        whole.save_pretrained(folder / "checkpoint")
        write_json(folder / "checkpoint" / "preprocessor_config.json", PREPROCESSING)

    def by_llava(folder: Path) -> None:
        """As the LLaVA code writes all weights: LLM and projector, the tower apart."""
        llava = reference()
        llm = LlamaForCausalLM(LlamaConfig(vocab_size=rows, **LLAMA))
        llm.save_pretrained(folder / "checkpoint")
        values = json.loads((folder / "checkpoint" / "config.json").read_text())
        write_json(
            folder / "checkpoint" / "config.json",
            {**values, **LLAVA_SETTINGS, "mm_vision_tower": "clip"},
        )
        tokenizer.save_pretrained(folder / "checkpoint")
        (folder / "checkpoint" / "model.safetensors").unlink()
        own = llava.model.multi_modal_projector.state_dict()
        projector = {
            f"model.mm_projector.{number}.{kind}": own[f"linear_{name}.{kind}"].clone()
            for number, name in ((0, 1), (2, 2))
            for kind in ("weight", "bias")
        }
        torch.save({**llm.state_dict(), **projector}, folder / "checkpoint" / "pytorch_model.bin")
        llava.model.vision_tower.save_pretrained(folder / "clip")
        write_json(folder / "clip" / "preprocessor_config.json", PREPROCESSING)

    return {"transformers": _made(by_transformers), "llava": _made(by_llava)}


ENCODER = Kind("encoder", _seed_encoders, _mutate, _read_encoder, _ready)
LLM = Kind("llm", _seed_llms, _mutate, _read_llm, _ready)
MODEL = Kind("model", _seed_models, _mutate, _read_model, _ready)
CHECKPOINT = Kind("checkpoint", _seed_checkpoints, _mutate, _read_checkpoint, _ready)
