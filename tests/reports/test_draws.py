"""Draws of a study depend on the seed and its id, and follow the probabilities."""

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, picture
from transformers import TopPLogitsWarper

from llava_rad.model import ReportRequest, RequestImage
from llava_rad.reports.draws import StudyDraws, nucleus
from llava_rad.reports.generate import GenerationSettings, generate_reports


def requests(count):
    words = "cough fever dyspnea chest pain after fall"
    return [
        ReportRequest(
            (RequestImage("current_frontal", picture(i)),),
            indication=" ".join([words] * (i % 4)) or None,
        )
        for i in range(count)
    ]


def test_texts_do_not_depend_on_the_batch():
    model = build(byte_level_tokenizer())
    asked, keys = requests(9), [f"study {i}" for i in range(9)]
    for options in ({}, {"top_p": 0.9}, {"num_beams": 2}):
        settings = GenerationSettings(max_new_tokens=10, temperature=1.5, seed=3, **options)

        def texts(size, settings=settings):
            return [
                made.findings
                for start in range(0, 9, size)
                for made in generate_reports(
                    model,
                    asked[start : start + size],
                    settings,
                    keys=keys[start : start + size],
                )
            ]

        alone = texts(1)
        assert texts(4) == alone
        assert texts(9) == alone
        assert len(set(alone)) > 5


def test_studies_and_seeds_draw_differently():
    model = build(byte_level_tokenizer())
    (asked,) = requests(1)
    settings = GenerationSettings(max_new_tokens=10, temperature=2.0)
    made = generate_reports(model, [asked] * 4, settings, keys=["a", "b", "c", "a"])
    texts = [each.findings for each in made]
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3


def test_draws_follow_the_probabilities():
    # 4,000 draws: three standard deviations of a share of 0.3 are 0.022.
    count = 4000
    scores = torch.tensor([0.1, 0.3, 0.6]).log().repeat(count, 1)
    draws = StudyDraws([str(i) for i in range(count)], 0, 1.0, 1.0)
    chosen = draws(torch.zeros(count, 1), scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=3) / count
    assert torch.allclose(shares, torch.tensor([0.1, 0.3, 0.6]), atol=0.022)
    # at half the temperature probabilities are squared
    sharp = StudyDraws([str(i) for i in range(count)], 0, 0.5, 1.0)
    chosen = sharp(torch.zeros(count, 1), scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=3) / count
    assert torch.allclose(shares, torch.tensor([0.01, 0.09, 0.36]) / 0.46, atol=0.022)


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-300])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_the_smallest_temperature_chooses_the_most_probable(temperature, top_p):
    scores = torch.tensor([[20.0, 22.5, 22.0]])
    noisy = StudyDraws(["a"], 0, temperature, top_p)(torch.zeros(1, 1), scores)
    assert noisy.argmax() == 1 and not noisy.isnan().any()


def test_the_nucleus_is_the_librarys():
    scores = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    for top_p in (0.05, 0.5, 0.9, 0.99):
        assert torch.equal(nucleus(scores, top_p), TopPLogitsWarper(top_p)(None, scores))
