"""Each damaged part of a model's folder, and of a base LLM's, ends in one error at load."""

import json
import pickle

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm
from safetensors.torch import load_file, save_file

from llava_rad.errors import LlavaRadError, ModelError, WeightsError
from llava_rad.model import LoraSettings, ReportModel, load_llm, load_tokenizer

LORA = LoraSettings(r=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("damaged")
    tokenizer = byte_level_tokenizer()
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(place / "llm")
    tokenizer.save_pretrained(place / "llm")
    model = build(tokenizer, llm=llm, llm_id=str(place / "llm"), lora=LORA)
    return model.save_pretrained(place / "model")


@pytest.fixture
def folder(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "model")


@pytest.fixture
def base(made, tmp_path):
    import shutil

    return shutil.copytree(made.parent / "llm", tmp_path / "llm")


def refused(folder, match, kind=WeightsError):
    with pytest.raises(kind, match=match) as caught:
        ReportModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def edit(file, **changes):
    values = json.loads(file.read_text())
    values.update(changes)
    file.write_text(json.dumps(values))


def change(file, name_part, value, index=0):
    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if name_part in n)
    tensors[name].view(-1)[index] = value
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_undamaged_one_loads(folder):
    assert ReportModel.from_pretrained(folder).config.fingerprints.keys() == {"adapter", "lora"}


@pytest.mark.parametrize("file", ["adapter.safetensors", "lora/adapter_model.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(folder, file, value):
    change(folder / file, "weight", value, index=3)
    assert refused(folder, "not finite").kind == "not_finite"


@pytest.mark.parametrize("file", ["adapter.safetensors", "lora/adapter_model.safetensors"])
def test_other_weights_than_were_saved(folder, file):
    change(folder / file, "weight", 0.125)
    assert refused(folder, "not those that the model was saved with").kind == "wrong_weights"


def test_a_folder_from_before_fingerprints_still_loads(folder):
    values = json.loads((folder / "config.json").read_text())
    for key in ("fingerprints", "llm_quantize"):
        del values[key]
    (folder / "config.json").write_text(json.dumps(values))
    change(folder / "adapter.safetensors", "weight", 0.125)
    ReportModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"r": 8}, r"another shape.*\[4, 128\], not \[8, 128\]"),
        ({"r": "eight"}, "r is 'eight'"),
        ({"r": True}, "r is True"),
        ({"r": 0}, "no rank"),
        ({"target_modules": []}, "no layers"),
        ({"target_modules": ["q_proj"]}, "unexpected"),
        ({"target_modules": ["nowhere"]}, "cannot take the LoRA|not found"),
        ({"lora_alpha": None, "lora_dropout": [1]}, "lora_dropout is"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"surprise": 1}, "unknown settings surprise"),
        ({"init_lora_weights": "pissa"}, "unknown settings init_lora_weights"),
        ({"rank_pattern": {"q_proj": 2}}, "another shape"),
    ],
)
def test_a_lora_of_other_settings(folder, changes, match):
    edit(folder / "lora/adapter_config.json", **changes)
    refused(folder, match, LlavaRadError)


@pytest.mark.parametrize("content", ["", "{", '{"r": 4, "target_mod', "[]", "null", "\x00"])
def test_a_cut_lora_configuration(folder, content):
    (folder / "lora/adapter_config.json").write_text(content)
    refused(folder, r"adapter_config\.json.*(not JSON|expected an object|NUL bytes)")


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_per_image": "16"},
        {"tokens_per_image": 0},
        {"preprocessing": None},
        {"preprocessing": []},
        {"template": 3},
        {"template": {"unknown": 1}},
    ],
)
def test_a_processor_of_wrong_types(folder, changes):
    edit(folder / "processor.json", **changes)
    refused(folder, "processor", LlavaRadError)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_mean", "0.5"),
        ("image_mean", ["a", "b", "c"]),
        ("image_std", None),
        ("size", "big"),
        ("size", {"height": "tall", "width": 3}),
        ("rescale_factor", "1/255"),
        ("rendering", 5),
        ("resample", "nearest?"),
    ],
)
def test_a_preprocessor_of_wrong_types(folder, key, value):
    values = json.loads((folder / "processor.json").read_text())
    values["preprocessing"][key] = value
    (folder / "processor.json").write_text(json.dumps(values))
    refused(folder, "", LlavaRadError)


@pytest.mark.parametrize(
    "changes",
    [
        {"llm_weights": "none"},
        {"llm_quantize": "2bit"},
        {"name": 3},
        {"llm": {"id": "x"}},
        {"encoder": None},
        {"fingerprints": "none"},
    ],
)
def test_a_configuration_of_wrong_types(folder, changes):
    edit(folder / "config.json", **changes)
    refused(folder, "config.json")


class Planted:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickled_weight_file_is_refused_and_does_not_run(base, tmp_path, form):
    planted = tmp_path / "planted"
    (base / "model.safetensors").unlink()
    with (base / "pytorch_model.bin").open("wb") as handle:
        if form == "torch":
            torch.save({"model.norm.weight": Planted(planted)}, handle)
        else:
            pickle.dump(Planted(planted), handle)
    with pytest.raises(WeightsError, match="cannot load the LLM") as caught:
        load_llm(str(base))
    assert "\n" not in str(caught.value)
    assert not planted.exists()


def test_weights_in_pytorchs_format_load_like_others(base):
    tensors = load_file(base / "model.safetensors")
    wanted, _ = load_llm(str(base))
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    found, _ = load_llm(str(base))
    assert all(
        torch.equal(a, b) for a, b in zip(wanted.parameters(), found.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "no-such-llm"}'),
        ("config.json", '{"model_type": "llama", "hidden_size": "wide"}'),
        ("model.safetensors", "cut"),
        ("generation_config.json", "{"),
    ],
)
def test_a_damaged_base_llm(base, file, content):
    (base / file).write_text(content)
    try:
        llm, _ = load_llm(str(base))
    except LlavaRadError as error:
        assert str(base) in str(error) and "\n" not in str(error)
    else:
        # transformers does without a damaged file of generation settings, and so do reports
        assert file == "generation_config.json" and llm.generation_config.eos_token_id


def test_a_lora_beside_the_base_llm_is_noticed(base):
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(ModelError, match="LoRA beside the LLM"):
        load_llm(str(base))


def test_a_tokenizer_of_another_llm_is_refused(made, base):
    tokenizer = load_tokenizer(str(base))
    small = tiny_llm("llama", 100)
    with pytest.raises(ModelError, match=r"is number \d+, the LLM knows 100"):
        build(tokenizer, llm=small)


def test_a_pad_token_beyond_the_llms_table_is_replaced(base):
    tokenizer = load_tokenizer(str(base))
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = build(tokenizer, llm=tiny_llm("llama", rows))
    assert model.processor.tokenizer.pad_token_id < rows


@pytest.mark.parametrize("value", ["512", {"a": 1}])
def test_a_tokenizer_setting_that_shows_only_when_text_is_read(folder, value):
    edit(folder / "tokenizer/tokenizer_config.json", model_max_length=value)
    refused(folder, "the tokenizer cannot be loaded")
