"""Nothing in an LLM's or a tokenizer's folder runs, and nothing asks whether it may."""

import json
import subprocess
import sys

import pytest
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm

from llava_rad.errors import LlavaRadError, ModelError
from llava_rad.model import LoraSettings, load_llm, load_tokenizer
from llava_rad.model.llm import llm_config

CODE = """
import pathlib
pathlib.Path({planted!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "custom"
class Model(LlamaForCausalLM):
    pass
class Tokenizer(PreTrainedTokenizerFast):
    pass
def generate(model, **options):
    pass
"""
AUTO_MAP = {"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"}


@pytest.fixture
def planted(tmp_path):
    """A base LLM whose folder names code of its own everywhere."""
    folder, proof = tmp_path / "llm", tmp_path / "ran"
    tokenizer = byte_level_tokenizer()
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "custom.py").write_text(CODE.format(planted=str(proof)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(CODE.format(planted=str(proof)))
    edit(folder / "config.json", auto_map=AUTO_MAP)
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "custom.Tokenizer"]},
        tokenizer_class="Tokenizer",
    )
    return folder, proof


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_known_architecture_is_loaded_by_transformers_own_class(planted, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    folder, proof = planted
    llm, _ = load_llm(str(folder), train=True, lora=LoraSettings(r=2, alpha=4))
    assert type(llm).__module__.startswith("transformers.")
    tokenizer = load_tokenizer(str(folder))
    assert type(tokenizer).__module__.startswith("transformers.")
    assert llm_config(str(folder)).model_type == "llama"
    from helpers.tiny_models import picture

    from llava_rad.model import ReportRequest, RequestImage
    from llava_rad.reports import generate_reports

    model = build(tokenizer, llm=llm)
    generate_reports(model, [ReportRequest((RequestImage("current_frontal", picture(1)),))])
    assert not proof.exists()


def test_an_architecture_of_its_own_is_refused(planted, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    folder, proof = planted
    edit(folder / "config.json", model_type="custom", architectures=["Model"])
    for read in (load_llm, llm_config):
        with pytest.raises(ModelError, match="never run") as caught:
            read(str(folder))
        assert "\n" not in str(caught.value)
    load_tokenizer(str(folder))
    assert not proof.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_of_the_hub_is_refused(planted, key):
    folder, _ = planted
    edit(folder / "config.json", **{key: "someone/kernel"})
    try:
        llm, _ = load_llm(str(folder))
    except LlavaRadError as error:
        assert "someone/kernel" in str(error)
    else:
        assert "/" not in str(llm.config._attn_implementation)


@pytest.mark.slow
def test_the_command_neither_asks_nor_runs(planted, tmp_path):
    """``y`` waits on standard input; nobody takes it."""
    from helpers.tiny_models import picture
    from PIL import Image

    folder, proof = planted
    tokenizer = load_tokenizer(str(folder))
    llm, _ = load_llm(str(folder))
    model = build(tokenizer, llm=llm, llm_id="someone/llm", lora=LoraSettings(r=2, alpha=4))
    saved = model.save_pretrained(tmp_path / "model")
    Image.fromarray(picture(1).pixels).save(tmp_path / "image.png")
    for known in (True, False):
        if not known:
            edit(folder / "config.json", model_type="custom")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "llava_rad", "report", str(tmp_path / "image.png")),
                *("--model", str(saved), "--base-llm", str(folder), "--max-new-tokens", "3"),
            ],
            input="y\n" * 9,
            capture_output=True,
            text=True,
        )
        assert "[y/N]" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert (
            done.returncode == 0 if known else done.returncode == 1 and "never run" in done.stderr
        )
    assert not proof.exists()
