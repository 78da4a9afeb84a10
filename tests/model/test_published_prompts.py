"""Prompts of published models against what their own code makes."""

import pytest
from helpers.tiny_models import sentencepiece_tokenizer

from llava_rad.encoders import Preprocessing
from llava_rad.model import (
    IGNORE,
    IMAGE_TOKEN,
    MISTRAL,
    PLAIN,
    PROMPTS,
    PromptTemplate,
    ReportProcessor,
    ReportRequest,
    RequestImage,
)
from llava_rad.model.published_prompts import MAIRA_2

REQUEST = ReportRequest(
    (RequestImage("current_frontal"),), indication="cough", prior_report="Clear."
)
PREPROCESSING = Preprocessing(image_size=28, mean=0.5, std=0.5)


def text_of(fields):
    return "<image>".join(PromptTemplate(**fields).parts(REQUEST))


@pytest.fixture(params=[True, False], ids=["legacy", "not-legacy"])
def tokenizer(request, tmp_path):
    return sentencepiece_tokenizer(tmp_path, legacy=request.param)


def test_plain_is_the_image_the_report_and_a_lines_end(tokenizer):
    """LLaVA's preprocess_plain: what follows the image is learnt to the last token."""
    processor = ReportProcessor(tokenizer, PromptTemplate(**PLAIN), PREPROCESSING, 3)
    report = "The lungs are clear.\nNo effusion."
    sample = processor.encode(REQUEST, report)
    target = tokenizer("The lungs are clear. No effusion.\n", add_special_tokens=False)["input_ids"]
    start = [*processor.start_ids, *[IMAGE_TOKEN] * 3]
    assert sample.input_ids == [*start, *target]
    assert sample.labels == [*[IGNORE] * len(start), *target]
    assert tokenizer.eos_token_id not in sample.input_ids
    assert processor.encode(REQUEST).input_ids == start
    assert processor.decode([*target, *target]) == "The lungs are clear. No effusion."


def test_plain_reads_back_and_other_templates_end_with_their_token(tokenizer):
    template = PromptTemplate(**PLAIN)
    assert PromptTemplate.from_dict(template.to_dict()) == template
    older = {k: v for k, v in PromptTemplate().to_dict().items() if k != "report_end"}
    assert PromptTemplate.from_dict(older) == PromptTemplate()
    other = ReportProcessor(tokenizer, PromptTemplate(**MISTRAL), PREPROCESSING, 1)
    assert other.encode(REQUEST, "Clear.").input_ids[-1] == tokenizer.eos_token_id


def test_each_is_worded_as_its_code_words_it():
    request = "Provide a description of the findings in the radiology image given the following"
    assert text_of(MISTRAL) == f"[INST] <image>\n{request} indication: cough [/INST]"
    assert text_of(MAIRA_2) == (
        "You are an expert radiology assistant tasked with interpreting a chest X-ray study.  "
        "USER:  Given the current frontal image only<image> Provide a description of the findings "
        "in the radiology study in comparison to the prior frontal image. INDICATION: cough "
        "TECHNIQUE: N/A COMPARISON: N/A  ASSISTANT: "
    )
    assert text_of(PLAIN) == "<image>"
    for fields in PROMPTS.values():
        PromptTemplate(**fields)
