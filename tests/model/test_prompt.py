import pytest
from helpers.tiny_models import byte_level_tokenizer

from llava_rad.errors import ConfigError, ModelError
from llava_rad.model import LLAVA_RAD, PromptTemplate, ReportRequest, RequestImage

FRONTAL = RequestImage("current_frontal")


def text(template, request, **options):
    return "<image>".join(template.parts(request, **options))


def test_each_image_is_named_and_context_lines_are_optional():
    template = PromptTemplate()
    all_images = tuple(
        RequestImage(role) for role in ("current_frontal", "current_lateral", "prior_frontal")
    )
    bare = text(template, ReportRequest((FRONTAL,)))
    assert bare == "Frontal image: <image>\nDescribe the findings of this chest X-ray.\n"
    full = text(
        template,
        ReportRequest(
            all_images,
            indication=" cough\nfor  a week ",
            technique="portable AP",
            comparison="none",
            prior_report="Clear lungs.",
        ),
    )
    assert full == (
        "Frontal image: <image>\nLateral image: <image>\nPrior frontal image: <image>\n"
        "Prior report: Clear lungs.\nIndication: cough for a week\nTechnique: portable AP\n"
        "Comparison: none\nDescribe the findings of this chest X-ray.\n"
    )
    assert len(template.parts(ReportRequest(all_images))) == 4


def test_blank_context_has_no_line():
    request = ReportRequest((FRONTAL,), indication="  \n", comparison="")
    assert text(PromptTemplate(), request) == text(PromptTemplate(), ReportRequest((FRONTAL,)))


def test_context_cannot_bring_in_images_or_special_tokens():
    request = ReportRequest((FRONTAL,), indication="cough <image> <|im_end|> fever")
    parts = PromptTemplate().parts(request, special_tokens=["<|im_end|>"])
    assert len(parts) == 2
    assert "Indication: cough fever\n" in parts[1]


def test_words_the_request_as_llava_rad_does():
    template = PromptTemplate(**LLAVA_RAD)
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    assert text(template, ReportRequest((FRONTAL,), indication="cough")) == (
        f"{system}USER: <image>\nProvide a description of the findings in the radiology image "
        "given the following indication: cough ASSISTANT:"
    )
    assert text(template, ReportRequest((FRONTAL,))) == (
        f"{system}USER: <image>\nProvide a description of the findings in the radiology image."
        " ASSISTANT:"
    )


def test_takes_the_chat_format_of_the_tokenizer():
    template = PromptTemplate.for_tokenizer(byte_level_tokenizer())
    assert template.before == "<|im_start|>user\n"
    assert template.after == "<|im_end|>\n<|im_start|>assistant\n"
    assert template.stop == "<|im_end|>"


def test_round_trips_through_plain_values():
    template = PromptTemplate(**LLAVA_RAD)
    assert PromptTemplate.from_dict(template.to_dict()) == template


def test_refuses_a_role_the_model_was_not_trained_with():
    with pytest.raises(ModelError, match=r"image 2 is a current lateral.*current frontal"):
        PromptTemplate(**LLAVA_RAD).parts(ReportRequest((FRONTAL, RequestImage("current_lateral"))))
    with pytest.raises(ModelError, match="at least one image"):
        PromptTemplate().parts(ReportRequest(()))


def test_refuses_templates_that_cannot_work():
    with pytest.raises(ConfigError, match="unknown image role 'frontal'"):
        PromptTemplate(image_lines={"frontal": "<image>"})
    with pytest.raises(ConfigError, match="exactly once"):
        PromptTemplate(image_lines={"current_frontal": "no picture"})
    with pytest.raises(ConfigError, match="unknown field 'history'"):
        PromptTemplate(field_lines={"history": "{text}"})


def test_what_ends_an_image_line_is_part_of_the_template():
    template = PromptTemplate(**{**LLAVA_RAD, "image_end": " "})
    first, second = template.parts(ReportRequest((FRONTAL,)))
    assert first.endswith("USER: ") and second.startswith(" Provide")
    assert PromptTemplate.from_dict(template.to_dict()) == template
    older = {k: v for k, v in template.to_dict().items() if k != "image_end"}
    assert PromptTemplate.from_dict(older).image_end == "\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"instruction": {"a": 1}},
        {"before": None},
        {"stop": 3},
        {"stop_texts": ("USER:", 1)},
        {"field_lines": ["indication"]},
        {"field_lines": {"indication": 2}},
        {"image_lines": {"current_frontal": None}},
        {"image_lines": 7},
    ],
)
def test_what_is_no_text_is_refused(changes):
    with pytest.raises(ConfigError, match="Give it as a text"):
        PromptTemplate.from_dict({**PromptTemplate().to_dict(), **changes})
