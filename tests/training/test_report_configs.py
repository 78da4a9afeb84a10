"""Every configuration of report training loads and says what it should."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llava_rad.config import load_config
from llava_rad.encoders.registry import ENCODERS
from llava_rad.model import PLAIN
from llava_rad.report_training import ReportTrainingConfig
from llava_rad.report_training.plan import plan

CONFIGS = Path(__file__).parents[2] / "configs"
REPORT = sorted((CONFIGS / "report").glob("*.yaml"))


def load(name, *overrides):
    return load_config(ReportTrainingConfig, CONFIGS / "report" / f"{name}.yaml", overrides)


@pytest.mark.parametrize("name", ["phi2_lora", "phi3_mini_qlora", "smollm2_mini", "vicuna_7b_full"])
def test_the_other_encoder_changes_nothing_else(name):
    other = load(f"{name}_biomedclip_cxr")
    same = replace(other, encoder="rad-dino", output=Path("runs") / name)
    assert same == load(name)


@pytest.mark.parametrize("path", REPORT, ids=lambda path: path.stem)
def test_each_can_be_planned_without_a_connection(path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", refuse_connection)
    config = load(path.stem)
    found = plan(config, studies=1000)
    # Both encoders see 518 pixels in patches of 14.
    assert found.stages[-1].image_tokens == math.ceil(37 / config.adapter.pool) ** 2
    assert found.stages[-1].tokens <= config.data.max_length


def refuse_connection(*_arguments):
    raise AssertionError("a plan asked for a connection")


@pytest.mark.parametrize("path", REPORT, ids=lambda path: path.stem)
def test_each_loads_and_divides_on_its_launchers(path):
    config = load(path.stem)
    assert config.encoder in ENCODERS
    assert config.output == Path("runs") / path.stem
    for processes in (1, 2, 4):
        for stage in config.stages:
            assert config.of(stage).accumulate(processes) >= 1
    load(path.stem, "data.sources=[{path: a.jsonl}]")


@pytest.mark.parametrize("name", ["vicuna_7b_lora", "vicuna_7b_lora_biomedclip_cxr", "phi2_lora"])
def test_lora_recipes_are_the_published_one(name):
    config = load(name)
    align, finetune = config.align, config.finetune
    assert (align.epochs, align.lr, align.batch_size) == (1, 1e-3, 256)
    assert (finetune.epochs, finetune.lr, finetune.batch_size, finetune.micro_batch) == (
        3,
        1e-4,
        64,
        16,
    )
    assert {(s.warmup, s.weight_decay) for s in (align, finetune)} == {(0.03, 0.0)}
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (64, 128, 0.05)
    assert (config.precision, config.data.max_length) == ("bf16", 2048)


@pytest.mark.parametrize(
    "name", ["vicuna_7b_lora_biomedclip_cxr", "vicuna_7b_lora", "vicuna_7b_full"]
)
def test_the_published_alignment_has_no_words_but_the_report(name):
    config = load(name)
    assert (config.align.prompt, config.finetune.prompt) == ("plain", None)
    assert config.prompt_changes("align") == PLAIN
    assert config.prompt_changes("finetune") != PLAIN
    found = plan(config, studies=1000)
    # 1,369 of the image and 90 of the report
    assert [stage.tokens for stage in found.stages] == [1459, 1539]


@pytest.mark.parametrize("path", REPORT, ids=lambda path: path.stem)
def test_token_counts_in_headers_are_those_of_the_plan(path):
    text = path.read_text(encoding="utf-8")
    told = {int(n.replace(",", "")) for n in re.findall(r"([\d,]+) tokens", text)}
    config = load(path.stem)
    tokens = plan(config, studies=1000).stages[-1].image_tokens
    assert told <= {tokens}, "a count of another encoder"
    megabytes = re.search(r"([\d.]+) MB an image", text)
    if megabytes:
        assert float(megabytes[1]) == round(37 * 37 * 768 * 2 / 1e6, 1)
