"""Plans against the true numbers of models that are built."""

from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, byte_level_tokenizer, tiny_encoder, tiny_llm
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from llava_rad.config import from_dict
from llava_rad.encoders import load_encoder
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.model import IMAGE_TOKEN
from llava_rad.training import ReportTrainingConfig
from llava_rad.training.building import build_stage_model
from llava_rad.training.plan import encoder_shape, plan
from llava_rad.training.state import trained_parameters

STAGE = {"epochs": 2, "batch_size": 4, "micro_batch": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    tokenizer = byte_level_tokenizer()
    tiny_encoder().save_pretrained(folder / "encoder")
    for family in FAMILIES:
        tiny_llm(family, len(tokenizer)).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return folder


def settings(folders, family="llama", **changes):
    return from_dict(
        ReportTrainingConfig,
        {
            "output": "runs/x",
            "encoder": str(folders / "encoder"),
            "llm": str(folders / family),
            "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
            "adapter": {"pool": 2},
            "align": STAGE,
            "finetune": STAGE,
            "precision": "fp32",
            **changes,
        },
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("lora", [True, False])
def test_parameters_and_tokens_are_those_of_the_model(folders, family, lora):
    config = settings(folders, family, **({} if lora else {"lora": None}))
    encoder = load_encoder(folders / "encoder")
    found = plan(config, studies=10, prompt_tokens=30, report_tokens=20)
    for stage in found.stages:
        model = build_stage_model(config, stage.stage, encoder)
        trained = sum(p.numel() for p in trained_parameters(model))
        assert stage.trained == trained
        assert stage.frozen == sum(p.numel() for p in model.parameters()) - trained
        assert stage.image_tokens == model.processor.tokens_per_image == 4
        assert stage.tokens == 54
        assert stage.steps == 5


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_operations_and_activations_are_those_of_a_real_step(folders, stage):
    config = replace(settings(folders), stage=stage, attention="eager")
    (found,) = plan(config, studies=10, prompt_tokens=30, report_tokens=20).stages
    model = build_stage_model(config, stage, load_encoder(folders / "encoder"))
    model.train()
    ids = torch.randint(5, 400, (2, 54))
    ids[:, :4] = IMAGE_TOKEN
    labels = ids.clone()
    labels[:, :34] = -100
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        FlopCounterMode(display=False) as counter,
    ):
        model(ids, torch.ones_like(ids), labels, patches=torch.randn(2, 16, 24)).loss.backward()
    assert found.flops == pytest.approx(counter.get_total_flops() / 2, rel=0.05)
    real = sum(storage.nbytes() for storage in kept.values())
    # Written-out attention keeps besides, for 2 layers, 2 samples and 4 heads, a square of floats.
    squares = 2 * 2 * 4 * 54 * 54 * 4
    assert found.memory["activations"] * 1e9 == pytest.approx(real - squares, rel=0.1)


def test_the_published_recipe_at_its_size(folders, tmp_path):
    LlamaConfig().save_pretrained(tmp_path)  # transformers' default is Llama 7B
    config = settings(
        folders,
        llm=str(tmp_path),
        encoder="biomedclip-cxr",
        adapter={},
        lora={},
        precision="bf16",
        gradient_checkpointing=True,
        align={},
        finetune={"epochs": 3, "batch_size": 64},
    )
    found = plan(config, studies=100_000, processes=4)
    align, finetune = found.stages
    assert align.image_tokens == 1024
    assert align.trained == 768 * 4096 + 4096 + 4096 * 4096 + 4096
    # LoRA of rank 64 on all linear layers: r * (in + out) each.
    of_layer = 4 * 64 * (2 * 4096) + 3 * 64 * (4096 + 11008)
    assert finetune.trained == align.trained + 32 * of_layer
    assert finetune.frozen - 6_738_415_616 == pytest.approx(87e6, rel=0.02)
    assert finetune.memory["frozen weights"] == pytest.approx(13.48, abs=0.01)
    assert finetune.steps == 4688
    assert found.hours > finetune.hours > align.hours > 0
    assert not found.warnings
    assert "1,024 of images" in found.text()

    split = plan(replace(config, lora=None, sharding="fsdp2"), studies=1, processes=4)
    whole = plan(replace(config, lora=None), studies=1, processes=4)
    parts = ("trained weights", "gradients and optimiser")
    for name in parts:
        assert split.stages[1].memory[name] == whole.stages[1].memory[name] / 4
    assert sum(whole.stages[1].memory[n] for n in parts) == pytest.approx(16 * 6.76, rel=0.01)
    assert any(warning.startswith("memory: finetune needs") for warning in whole.warnings)

    small = plan(replace(config, quantize="4bit"), studies=1).stages[1].memory["frozen weights"]
    assert 3.5 < small < 4.2


def test_levers_do_what_they_promise(folders):
    base = settings(folders)

    def finetune(**changes):
        return plan(replace(base, **changes), studies=10).stages[1]

    assert finetune(gradient_checkpointing=True).peak_gb < finetune().peak_gb
    assert finetune(gradient_checkpointing=True).flops > finetune().flops
    uncached = replace(base.data, cache_features=False)
    assert finetune(data=uncached).flops > finetune().flops
    assert plan(replace(base, data=uncached), studies=10).cache_gb == 0
    assert plan(base, studies=10).cache_gb == 10 * 16 * 24 * 2 / 1e9


def test_what_cannot_be_planned_is_said(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown GPU 'abacus'.*a100-80gb"):
        plan(settings(folders), studies=1, gpu="abacus")
    with pytest.raises(WeightsError, match=r"config\.json"):
        encoder_shape(str(tmp_path))
    with pytest.raises(ConfigError, match="does not divide"):
        plan(settings(folders), studies=1, processes=3)
    long = plan(settings(folders), studies=1, prompt_tokens=2000, report_tokens=100)
    assert "max_length" in long.warnings[0]
