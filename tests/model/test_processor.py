import pytest
import torch
from helpers.tiny_models import byte_level_tokenizer, picture, tiny_encoder

from llava_rad.errors import ModelError
from llava_rad.model import (
    IGNORE,
    IMAGE_TOKEN,
    LLAVA_RAD,
    VICUNA_V1,
    PromptTemplate,
    ReportProcessor,
    ReportRequest,
    RequestImage,
)

REQUEST = ReportRequest((RequestImage("current_frontal"),), indication="cough")
PREPROCESSING = tiny_encoder().preprocessing


def processor(tokenizer, tokens=4, **template):
    if not tokenizer.chat_template:
        template = {**VICUNA_V1, **template}
    return ReportProcessor(
        tokenizer, PromptTemplate.for_tokenizer(tokenizer, **template), PREPROCESSING, tokens
    )


def test_only_the_report_and_its_end_are_targets(any_tokenizer):
    made = processor(any_tokenizer)
    sample = made.encode(REQUEST, "No acute disease.")
    targets = [label for label in sample.labels if label != IGNORE]
    assert targets[-1] == made.end_id
    assert any_tokenizer.decode(targets[:-1]).strip() == "No acute disease."
    start = len(sample.labels) - len(targets)
    assert sample.labels[:start] == [IGNORE] * start
    assert sample.input_ids[start:] == targets
    # what is learnt follows exactly the ids that generation starts from
    assert sample.input_ids[:start] == made.encode(REQUEST).input_ids


def test_prompt_ids_are_those_of_the_reference_implementation(shared_parity):
    import json

    from llava_rad.model import load_tokenizer

    folder = shared_parity / "llava_rad_checkpoint"
    expected = json.loads((folder / "expected.json").read_text())
    made = ReportProcessor(
        load_tokenizer(str(folder / "base_llm")),
        PromptTemplate(**LLAVA_RAD),
        PREPROCESSING,
        tokens_per_image=1,
    )
    assert expected["image_token_index"] == IMAGE_TOKEN
    assert made.encode(REQUEST).input_ids == expected["input_ids"]


def test_each_image_becomes_its_own_run_of_image_tokens(tokenizer):
    made = processor(tokenizer, tokens=3)
    request = ReportRequest(
        (RequestImage("current_frontal"), RequestImage("prior_frontal")), prior_report="Clear."
    )
    ids = made.encode(request).input_ids
    runs = "".join("#" if i == IMAGE_TOKEN else "." for i in ids).split(".")
    assert [len(run) for run in runs if run] == [3, 3]
    assert "Prior frontal image:" in tokenizer.decode([i for i in ids if i != IMAGE_TOKEN])


def test_truncation_cuts_the_report_only_and_is_counted(tokenizer):
    made = processor(tokenizer)
    report = "No acute disease. The lungs are clear."
    whole = made.encode(REQUEST, report)
    cut = made.encode(REQUEST, report, max_length=len(whole.input_ids) - 5)
    assert cut.truncated == 5 and whole.truncated == 0
    assert cut.input_ids == whole.input_ids[:-5]
    assert cut.input_ids.count(IMAGE_TOKEN) == 4
    with pytest.raises(ModelError, match="prompt alone takes"):
        made.encode(REQUEST, report, max_length=10)


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_a_report_without_a_token_is_an_error(tokenizer, empty):
    with pytest.raises(ModelError, match="empty"):
        processor(tokenizer).encode(REQUEST, empty)


def test_a_template_whose_end_merges_with_the_report_is_refused(tokenizer):
    made = processor(tokenizer, after="\n disea", separator="")
    with pytest.raises(ModelError, match="merged"):
        made.encode(REQUEST, "se is normal.")


def test_pads_on_the_side_it_is_told(tokenizer):
    made = processor(tokenizer)
    short, long = made.encode(REQUEST, "Clear."), made.encode(REQUEST, "The lungs are clear.")
    gap = len(long.input_ids) - len(short.input_ids)
    for side, empty in (("left", slice(0, gap)), ("right", slice(-gap, None))):
        batch = made.pad([short, long], side)
        assert batch["attention_mask"][0, empty].sum() == 0
        assert batch["attention_mask"].sum(1).tolist() == [
            len(short.input_ids),
            len(long.input_ids),
        ]
        assert (batch["labels"][0, empty] == IGNORE).all()
        kept = batch["input_ids"][0][batch["attention_mask"][0].bool()]
        assert kept.tolist() == short.input_ids


def test_decoding_ends_at_the_end_token_and_at_stop_texts(any_tokenizer):
    made = processor(any_tokenizer, stop_texts=("USER:",))
    ids = any_tokenizer("The lungs are clear. USER: No effusion.", add_special_tokens=False)
    assert made.decode(ids["input_ids"]) == "The lungs are clear."
    ids = any_tokenizer("Clear.", add_special_tokens=False)["input_ids"]
    assert made.decode([*ids, made.end_id, *ids]) == "Clear."


def test_saves_and_loads_unchanged(tmp_path, any_tokenizer):
    made = processor(any_tokenizer)
    made.save_pretrained(tmp_path)
    again = ReportProcessor.from_pretrained(tmp_path)
    report = "No acute disease. naïve  2.5 cm"
    assert again.encode(REQUEST, report) == made.encode(REQUEST, report)
    assert again.template == made.template
    assert again.preprocessing == made.preprocessing
    one = ReportRequest((RequestImage("current_frontal", picture()),))
    assert torch.equal(again.pixel_values([one]), made.pixel_values([one]))


def test_says_which_picture_is_missing(tokenizer):
    with_picture = ReportRequest((RequestImage("current_frontal", picture()),))
    with pytest.raises(ModelError, match="image 2 of the batch"):
        processor(tokenizer).pixel_values([with_picture, REQUEST])


def test_refuses_a_stop_that_is_no_token():
    with pytest.raises(ModelError, match="not a token"):
        processor(byte_level_tokenizer(), stop="<|never|>")
