"""Folders as they are published, from a hub that counts which files are fetched."""

import json
import shutil

import pytest
import timm
import torch
from helpers.tiny_checkpoints import logits_of, randomise, request, write_json
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from transformers import MistralConfig, MistralForCausalLM

from llava_rad.errors import ConfigError, WeightsError
from llava_rad.interchange import convert
from llava_rad.model import LLAVA_RAD, MISTRAL, PROMPTS, PromptTemplate, ReportModel, read_prompt

ONE = request(1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of folders: a snapshot holds the files that were asked for and no others."""
    repositories = {}

    def snapshot(name, *, revision=None, allow_patterns=None, **_):
        source, target = repositories[name], tmp_path / "cache" / name.replace("/", "--") / COMMIT
        names = [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
        for file in filter_repo_objects(names, allow_patterns=allow_patterns):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, target / file)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    repositories["fetched"] = lambda name: {
        str(p.relative_to(tmp_path / "cache" / name.replace("/", "--") / COMMIT))
        for p in (tmp_path / "cache" / name.replace("/", "--") / COMMIT).rglob("*")
        if p.is_file()
    }
    return repositories


@pytest.fixture
def llava_rad(place, llava_config, lora, projector):
    """microsoft/llava-rad: a LoRA, the projector, the tower's checkpoint and JSON, in one folder.

    The configuration names the JSON as a path in LLaVA-Rad's source code.
    """
    folder = place / "llava-rad"
    lora.save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    settings = json.loads((folder / "adapter_config.json").read_text())
    trained_on = {"base_model_name_or_path": "/mnt/models/vicuna-7b-v1.5"}
    write_json(folder / "adapter_config.json", {**settings, **trained_on})
    trained = {f"base_model.model.{k}": t for k, t in projector.items()}
    torch.save(trained, folder / "non_lora_trainables.bin")
    configs = "llava/model/multimodal_encoder/open_clip_encoder/model_configs"
    tower = {
        "mm_vision_tower": "biomedclip_cxr_518",
        "mm_vision_tower_config": f"{configs}/biomedclip_cxr_518.json",
        "mm_vision_tower_checkpoint": "biomedclipcxr_518_checkpoint.pt",
    }
    write_json(folder / "config.json", {**llava_config, **tower})
    vision = {"timm_model_name": "vit_interchange_test", "image_size": 28, "timm_pool": ""}
    described = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {}}
    write_json(folder / "biomedclipcxr_518.json", described)
    trunk = randomise(timm.create_model("vit_interchange_test", num_classes=0))
    state = {f"module.visual.trunk.{k}": t for k, t in trunk.state_dict().items()}
    state |= {"module.text.transformer.pooler.dense.weight": torch.ones(2)}
    torch.save({"epoch": 1, "state_dict": state}, folder / "biomedclipcxr_518_checkpoint.pt")
    for extra in ("README.md", "training_args.bin", "modeling.py", "optimizer.pt"):
        (folder / extra).write_text("nobody reads this")
    return folder


def test_llava_rads_folder_is_converted_as_it_is(llava_rad, tmp_path):
    report = convert(llava_rad, tmp_path / "out")
    assert report.layout == "llava-lora" and report.tensors["lora"] == 28
    model = ReportModel.from_pretrained(tmp_path / "out")
    assert (model.encoder.layer, model.config.llm_weights) == (-2, "lora")
    assert model.processor.template == PromptTemplate(**LLAVA_RAD)
    assert model.encoder.architecture == "vit_interchange_test"


def test_from_the_hub_it_is_the_same_and_only_what_is_read_is_fetched(llava_rad, hub, tmp_path):
    hub["microsoft/llava-rad"] = llava_rad
    convert("microsoft/llava-rad", tmp_path / "out")
    convert(llava_rad, tmp_path / "local")
    ours, theirs = (ReportModel.from_pretrained(tmp_path / name) for name in ("out", "local"))
    assert ours.config.name == theirs.config.name == "llava-rad"
    assert torch.equal(logits_of(ours, ONE)[0], logits_of(theirs, ONE)[0])
    assert hub["fetched"]("microsoft/llava-rad") == {
        "adapter_config.json",
        "adapter_model.bin",
        "biomedclipcxr_518.json",
        "biomedclipcxr_518_checkpoint.pt",
        "config.json",
        "non_lora_trainables.bin",
    }


def test_the_json_has_to_be_somewhere(llava_rad, tmp_path):
    (llava_rad / "biomedclipcxr_518.json").unlink()
    with pytest.raises(WeightsError, match="JSON of the vision tower is not here"):
        convert(llava_rad, tmp_path / "out")


def test_weights_that_a_repository_holds_twice_are_fetched_once(
    place, llava_config, llm, projector, tokenizer, hub, tmp_path
):
    folder = place / "llava-v1.5"
    write_json(folder / "config.json", llava_config)
    tokenizer.save_pretrained(folder)
    state = {**llm.state_dict(), **projector}
    torch.save(state, folder / "pytorch_model.bin")
    hub["someone/llava"] = folder
    convert("someone/llava", tmp_path / "bin")
    assert "pytorch_model.bin" in hub["fetched"]("someone/llava")
    from safetensors.torch import save_file

    save_file({k: t.contiguous() for k, t in state.items()}, folder / "model.safetensors")
    hub["someone/both"] = folder
    convert("someone/both", tmp_path / "both")
    fetched = hub["fetched"]("someone/both")
    assert "model.safetensors" in fetched and "pytorch_model.bin" not in fetched
    found = [ReportModel.from_pretrained(tmp_path / name) for name in ("bin", "both")]
    assert torch.equal(*(logits_of(model, ONE)[0] for model in found))


@pytest.fixture
def llava_med(place, llava_config, projector, tokenizer):
    """microsoft/llava-med-v1.5-mistral-7b: a Mistral with all weights in one folder."""
    folder = place / "llava-med"
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    given = {name: llava_config[name] for name in (*sizes, "num_key_value_heads", "vocab_size")}
    torch.manual_seed(0)
    mistral = MistralForCausalLM(MistralConfig(**given))
    values = {k: v for k, v in mistral.config.to_dict().items() if k != "model_type"}
    tower = {k: v for k, v in llava_config.items() if k.startswith(("mm_", "image_"))}
    write_json(folder / "config.json", {**values, **tower, "model_type": "llava_mistral"})
    tokenizer.save_pretrained(folder)
    torch.save({**mistral.state_dict(), **projector}, folder / "pytorch_model.bin")
    return folder


def test_a_mistral_is_asked_in_its_own_turns(llava_med, tmp_path):
    report = convert(llava_med, tmp_path / "out")
    assert any("Mistral's turns" in note for note in report.notes)
    processor = ReportModel.from_pretrained(tmp_path / "out").processor
    assert processor.template == PromptTemplate(**MISTRAL)
    # LLaVA's mistral_instruct, its pieces tokenised one by one as its code does.
    question = "\nProvide a description of the findings in the radiology image given the "
    pieces = ("[INST] ", f"{question}following indication: cough [/INST]")
    first, second = (processor.tokenizer(p, add_special_tokens=False)["input_ids"] for p in pieces)
    wanted = [*processor.start_ids, *first, *[-200] * 4, *second]
    assert processor.encode(ONE).input_ids == wanted


def test_another_prompt_can_be_chosen(llava_med, tmp_path):
    report = convert(llava_med, tmp_path / "out", template=read_prompt("vicuna_v1"))
    assert not report.notes
    template = ReportModel.from_pretrained(tmp_path / "out").processor.template
    assert template == PromptTemplate(**PROMPTS["vicuna_v1"])

    own = {**template.to_dict(), "instruction": "Describe."}
    write_json(tmp_path / "own.json", own)
    assert read_prompt(str(tmp_path / "own.json")).instruction == "Describe."
    with pytest.raises(ConfigError, match=r"no prompt 'vicuna'.*llava_rad, vicuna_v1, mistral"):
        read_prompt("vicuna")
    (tmp_path / "own.json").write_text('{"instructions": "Describe."}')
    with pytest.raises(ConfigError, match="not the fields of a prompt"):
        read_prompt(str(tmp_path / "own.json"))


def test_the_command_line_takes_the_prompt(llava_med, tmp_path):
    from typer.testing import CliRunner

    from llava_rad.cli import app

    options = ["convert", str(llava_med), "-o", str(tmp_path / "out"), "--prompt", "llava_rad"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "out" / "processor.json").read_text())
    assert saved["template"]["before"] == LLAVA_RAD["before"]
    wrong = CliRunner().invoke(app, [*options[:3], str(tmp_path / "b"), "--prompt", "none"])
    assert wrong.exit_code == 2 and "no prompt" in wrong.stderr
