"""Reports with the tokens they were drawn as."""

from dataclasses import replace

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer

from llava_rad.model import ReportRequest, RequestImage
from llava_rad.report_training.writing import _Tokens, write
from llava_rad.reports.generate import GenerationSettings, generate_reports

SETTINGS = GenerationSettings(max_new_tokens=12, temperature=1.0)


@pytest.fixture(scope="module")
def model():
    return build(byte_level_tokenizer()).eval()


def test_texts_are_those_of_generation_and_tokens_those_of_the_texts(model):
    request = ReportRequest((RequestImage("current_frontal", None),))
    patches = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    asked = ([request] * 3, SETTINGS)
    written = write(model, asked[0], patches, SETTINGS, ["a", "b", "c"])
    reports = generate_reports(model, *asked, patches=patches, keys=["a", "b", "c"])
    assert [one.text for one in written] == [report.findings for report in reports]
    for one, report in zip(written, reports, strict=True):
        assert one.stopped == (one.tokens[-1] in model.end_ids)
        assert len(one.tokens) == report.tokens + one.stopped
        assert model.processor.decode(one.tokens) == one.text
    assert len({one.text for one in written}) == 3


def test_what_fills_up_behind_the_end_is_not_kept(model):
    row, end = _Tokens(model), model.processor.end_id
    assert row.take([7]) and row.take([7, 8]) and not row.ended
    assert not row.take([7, 8, end])
    assert not row.take([7, 8, end, 0])
    assert (row.tokens, row.ended) == ([7, 8, end], True)


def test_a_text_that_ends_reports_ends_it_too():
    tokenizer = byte_level_tokenizer()
    model = build(tokenizer)
    model.processor.template = replace(model.processor.template, stop_texts=("USER:",))
    row = _Tokens(model)
    tokens = tokenizer("Clear. USER: and more", add_special_tokens=False).input_ids
    going = [row.take(tokens[: n + 1]) for n in range(len(tokens))]
    assert row.ended and going.index(False) == len(row.tokens) - 1
    assert tokenizer.decode(row.tokens).endswith("USER:")
