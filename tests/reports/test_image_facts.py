"""What stands beside the text: probabilities, the warning that comes first, sure sentences."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, picture

from llava_rad.data import Study, StudyImage
from llava_rad.grounded_text import read_grounded
from llava_rad.model import ReportRequest, RequestImage
from llava_rad.model.encoder_heads import EncoderHeads
from llava_rad.model.observation_head import ObservationHead
from llava_rad.model.training_summary import TrainingSummary, cell_means
from llava_rad.reports.generate import GenerationSettings, generate_reports
from llava_rad.reports.report import CAUTION, Report, Sentence
from llava_rad.reports.request import StudyRequest
from llava_rad.reports.study import report_studies

SHORT = GenerationSettings(max_new_tokens=40)


def request(*seeds):
    roles = ("current_lateral", "current_frontal")[-len(seeds) :]
    images = tuple(RequestImage(role, picture(s)) for role, s in zip(roles, seeds, strict=True))
    return ReportRequest(images)


@pytest.fixture(scope="module")
def model():
    made = build(byte_level_tokenizer())
    torch.manual_seed(0)
    observations = ObservationHead(
        ("Edema", "Pneumonia"), 0.3 * torch.randn(2, 48), torch.randn(2), torch.ones(2)
    )
    pixels = made.processor.pixel_values([request(seed) for seed in range(30)])
    cells = cell_means(made.see(pixels).patches, made.grid)
    summary = TrainingSummary.fit(cells)
    far = float(summary.distance(cells).max())
    made.heads = EncoderHeads(observations, replace(summary, threshold=1.5 * far))
    return made


def test_probabilities_are_of_the_current_frontal_image(model):
    alone, both = generate_reports(model, [request(1), request(2, 1)], SHORT)
    assert list(alone.observations) == ["Edema", "Pneumonia"]
    assert alone.observations == pytest.approx(both.observations, abs=1e-3)
    other = generate_reports(model, [request(2)], SHORT)[0]
    assert other.observations != pytest.approx(alone.observations, abs=1e-3)
    seen = model.see(model.processor.pixel_values([request(1)]))
    wanted = model.heads.observations.probabilities(*seen)[0].tolist()
    assert list(alone.observations.values()) == pytest.approx(wanted, abs=1e-3)


def strange():
    flat = picture(1).pixels.copy()
    flat[:] = 0
    flat[:20] = 255
    return replace(picture(1), pixels=flat)


def test_a_strange_picture_is_called_so_before_anything_else(model):
    images = (StudyImage("usual.png"), StudyImage("strange.png"))
    studies = [Study(f"s{i}", "p", images=(image,)) for i, image in enumerate(images)]

    def read(model, study):
        radiograph = strange() if study.study_id == "s1" else picture(1)
        asked = ReportRequest((RequestImage("current_frontal", radiograph),))
        return StudyRequest(asked, study.images, ("view_unknown: taken as frontal",))

    usual, odd = report_studies(model, studies, SHORT, batch_size=2, read=read)
    assert not usual.unlike_training and CAUTION not in usual.to_text()
    assert odd.unlike_training
    assert odd.warnings[0].startswith("unlike_training: ") and len(odd.warnings) >= 2
    assert odd.to_text().startswith(CAUTION)
    assert odd.to_text(heading=True).splitlines()[1] == CAUTION
    shown = odd._repr_html_()
    assert shown.index(CAUTION) < shown.index("white-space:pre-line")


def test_sentences_are_as_probable_as_the_model_says(model):
    [report] = generate_reports(model, [request(1)], SHORT)
    processor = model.processor
    ids = processor.encode(request(1)).input_ids
    patches = model.encode_images(processor.pixel_values([request(1)]))
    written, total = [], 0.0
    with torch.no_grad():
        for _ in range(report.tokens):
            embeds = model.embed(torch.tensor([ids + written]), patches)
            scores = model.llm(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
            token = int(scores.argmax())
            total += float(scores[token])
            written.append(token)
    # Random weights write no full stop: all is one sentence.
    (sentence,) = report.sentences
    assert sentence.text == report.findings
    assert sentence.log_probability == pytest.approx(total / report.tokens, abs=2e-3)


def test_each_sentence_has_its_own_tokens(model, monkeypatch):
    from llava_rad.reports import generate

    text = "Clear lungs. No effusion."
    ids = model.processor.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    first = len(model.processor.tokenizer(" Clear lungs.", add_special_tokens=False)["input_ids"])
    sure = [-1.0] * first + [-3.0] * (len(ids) - first)
    found = generate._sentences(model, read_grounded(text), f" {text}", ids, sure)
    assert found == (Sentence("Clear lungs.", -1.0), Sentence("No effusion.", -3.0))


def test_beams_have_none_and_json_has_all(model):
    [report] = generate_reports(model, [request(1)], replace(SHORT, num_beams=2, max_new_tokens=4))
    assert report.sentences == ()
    [report] = generate_reports(model, [request(1)], SHORT)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["sentences"][0]["log_probability"] < 0
    assert set(values["observations"]) == {"Edema", "Pneumonia"}
    given = {**values, "images": (), "roles": (), "warnings": tuple(values["warnings"])}
    assert Report(**given) == replace(report, roles=())
