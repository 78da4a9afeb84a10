"""One tiny model with tokens after the final norm, and its folder for transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_rad.interchange import convert
from llava_rad.model import LoraSettings, ReportModel


@dataclass
class Whole:
    """A model of this project and the same in transformers."""

    own: ReportModel
    folder: Path
    model: Any
    processor: Any


@pytest.fixture(scope="session")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture(scope="session")
def whole(tokenizer, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    made = build(tokenizer, lora=LoraSettings(r=2, alpha=8))
    torch.manual_seed(0)
    for name, parameter in made.llm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    made.eval().merge().save_pretrained(place / "own")
    convert(place / "own", place / "whole", to="transformers")
    return Whole(
        own=ReportModel.from_pretrained(place / "own"),
        folder=place / "whole",
        model=AutoModelForImageTextToText.from_pretrained(place / "whole").eval(),
        processor=AutoProcessor.from_pretrained(place / "whole"),
    )
