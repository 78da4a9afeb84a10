"""Settings of report training: what is wrong is named before anything is loaded."""

import pytest

from llava_rad.config import load_config, save_config
from llava_rad.errors import ConfigError
from llava_rad.report_training import ReportTrainingConfig, StageConfig

REWARDS = ["reinforce.rewards={rules: 1}"]


def load(*overrides):
    return load_config(ReportTrainingConfig, None, ["output=runs/x", *overrides])


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("lora.rank=4", "r"),
        ("algn.lr=1", "align"),
        ("align.learning_rate=1", "Known keys: epochs, lr"),
        ("data.maxlength=1", "max_length"),
        ("data.dropout.indications=1", "indication"),
        ("reinforce.sampels=2", "samples"),
        ("reinforce.rewards.rouge=1", "rouge_l"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, nearest):
    with pytest.raises(ConfigError, match=nearest) as caught:
        load(override)
    assert caught.value.kind == "unknown_key"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.augment=true", "data.cache_features=true"], "cached features are those of"),
        (["quantize=4bit", "lora=null"], "quantised LLM cannot be trained whole"),
        (["data.images=[current_lateral]"], "Keep current_frontal"),
        (["prompt=llava_rad", "data.images=[current_frontal, prior_frontal]"], "one frontal"),
        (["finetune.prompt=plain"], "the second stage is what the model is asked with"),
        (["align.warmup=1"], "'align.warmup' must be at least 0 and below 1, got 1"),
        (["align.lr=0"], "'align.lr' must be above 0, got 0"),
        (["data.sources=[{path: a.jsonl, weight: 0}]"], "data.sources.0.weight' must be above 0"),
        (["data.dropout.indication=1.5"], "must be from 0 to 1, got 1.5"),
        (["checkpoint_steps=0"], "checkpoint_steps"),
        (["reinforce.prompt=plain"], "the third stage is what the model is asked with"),
        (["stage=all"], "no reward has a weight"),
        ([*REWARDS, "stage=all", "lora=null"], "reinforce trains the LoRA"),
        ([*REWARDS, "stage=reinforce"], "reinforce goes on from a trained model"),
        ([*REWARDS, "stage=all", "sharding=fsdp2"], "has to hold the whole model"),
        ([*REWARDS, "stage=all", "sharding=zero2"], "has to hold the whole model"),
        (["reinforce.samples=1"], "a group of one sample has nothing to compare with"),
        (["reinforce.choose_by=bleu"], "no value of a metric 'bleu'"),
        (["reinforce.choose_by=radcliq_v1/radcliq_v1"], "a lower radcliq_v1 is better"),
        (["reinforce.rewards.rules=-1"], "must be at least 0"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_place(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)


def test_a_saved_config_reads_back_equal(tmp_path):
    config = load("data.sources=[{path: a.jsonl, weight: 0.5}]", "lora=null", "align.lr=1e-4")
    save_config(config, tmp_path / "config.yaml")
    assert load_config(ReportTrainingConfig, tmp_path / "config.yaml") == config


def test_the_defaults_are_the_published_recipe():
    config = load()
    assert (config.align.epochs, config.align.lr, config.align.batch_size) == (1, 1e-3, 256)
    assert (config.finetune.epochs, config.finetune.lr) == (3, 1e-4)
    assert config.finetune.batch_size == 16 * 4
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (64, 128, 0.05)
    for stage in (config.align, config.finetune):
        assert (stage.warmup, stage.weight_decay) == (0.03, 0.0)
    assert (config.precision, config.data.max_length) == ("bf16", 2048)


def test_accumulation_makes_up_the_batch():
    stage = StageConfig(batch_size=256, micro_batch=16)
    assert [stage.accumulate(processes) for processes in (1, 2, 8)] == [16, 8, 2]
    with pytest.raises(ConfigError, match="Use a multiple of 48, such as 240"):
        stage.accumulate(3)


def test_patch_tokens_are_kept_where_it_pays():
    def kept(device, *overrides):
        config = load(*overrides)
        return [stage for stage in config.stages if config.stores_features(stage, device)]

    assert kept("cpu") == ["align", "finetune"]
    assert kept("cuda") == kept("mps") == []
    assert kept("cuda", "align.epochs=2") == ["align"]
    assert kept("cuda", "data.cache_features=true") == ["align", "finetune"]
    assert kept("cpu", "data.cache_features=false") == []
    assert kept("cpu", "data.augment=true") == []


def test_only_what_decides_the_weights_binds_a_resumed_run():
    base = load().decides_weights()
    free = load(
        "log_steps=1", "keep_checkpoints=5", "processes=2", "data.cache_folder=x", "data.workers=0"
    )
    assert free.decides_weights() == base
    for override in ("seed=1", "align.lr=2e-3", "data.max_length=99", "adapter.pool=2"):
        assert load(override).decides_weights() != base


def test_the_third_stage_binds_a_resumed_run_only_where_it_runs():
    assert load("reinforce.lr=1").decides_weights() == load().decides_weights()
    base = load(*REWARDS, "stage=all").decides_weights()
    assert load(*REWARDS, "stage=all", "reinforce.workers=3").decides_weights() == base
    for override in ("reinforce.samples=3", "reinforce.rewards.bleu=1", "validation_steps=7"):
        assert load(*REWARDS, "stage=all", override).decides_weights() != base


def test_facts_for_the_card_name_no_place_on_this_machine():
    config = load("data.sources=[{path: /home/someone/nih.jsonl, root: /home/someone}]")
    assert "/home" not in str(config.facts())
