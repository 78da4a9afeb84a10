"""The model in transformers: the same logits, cached or not, padded on either side."""

import pytest
import torch
from helpers.tiny_checkpoints import request
from helpers.tiny_models import picture

from llava_rad.hf import LlavaRadConfig, LlavaRadForConditionalGeneration
from llava_rad.model import ReportRequest, RequestImage
from llava_rad.reports.generate import GenerationSettings, generate_reports

ONE = request(1)
TWO_IMAGES = ReportRequest(
    (
        RequestImage("current_frontal", picture(2)),
        RequestImage("current_lateral", picture(3, 64, 80)),
    ),
    technique="AP view",
)


def inputs_of(processor, *requests, side="left"):
    return processor.apply_chat_template(
        [processor.messages(each) for each in requests],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
    )


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch_have_the_logits_of_our_model(whole, side):
    inputs = inputs_of(whole.processor, ONE, TWO_IMAGES, side=side)
    logits = whole.model(**inputs).logits
    rows = whole.own.config.llm.vocab_size
    for row, each in enumerate((ONE, TWO_IMAGES)):
        batch = whole.own.processor.pad([whole.own.processor.encode(each)], "right")
        batch.pop("labels")
        pixels = whole.own.processor.pixel_values([each])
        wanted = whole.own(**batch, pixel_values=pixels).logits[0]
        found = logits[row][inputs["attention_mask"][row].bool()]
        torch.testing.assert_close(found[:, :rows], wanted, atol=1e-5, rtol=1e-5)


def test_generated_texts_are_those_of_our_model(whole):
    inputs = inputs_of(whole.processor, ONE, TWO_IMAGES)
    start = inputs["input_ids"].shape[1]
    cached = whole.model.generate(**inputs, max_new_tokens=12)
    uncached = whole.model.generate(**inputs, max_new_tokens=12, use_cache=False)
    assert torch.equal(cached, uncached)
    texts = [whole.processor.decode_report(row[start:]) for row in cached]
    settings = GenerationSettings(max_new_tokens=12)
    wanted = generate_reports(whole.own, [ONE, TWO_IMAGES], settings)
    assert texts == [report.findings for report in wanted] and all(texts)


def test_beams_penalties_and_draws_take_prompts_with_images(whole):
    inputs = inputs_of(whole.processor, ONE, TWO_IMAGES)
    length = inputs["input_ids"].shape[1]
    for options in ({"num_beams": 3}, {"repetition_penalty": 1.2}, {"do_sample": True}):
        made = whole.model.generate(**inputs, max_new_tokens=6, **options)
        assert made.shape[0] == 2 and length < made.shape[1] <= length + 6
        assert torch.equal(made[:, :length], inputs["input_ids"])


def test_features_encoded_before_give_the_same(whole):
    inputs = inputs_of(whole.processor, TWO_IMAGES)
    with torch.no_grad():
        wanted = whole.model(**inputs).logits
        images = whole.model.get_image_features(inputs.pop("pixel_values"))
        found = whole.model(**inputs, mm_encoder_outputs={"image": images}).logits
    assert torch.equal(found, wanted)
    assert images.last_hidden_state.shape == (2, 16, 24)
    assert [tokens.shape for tokens in images.pooler_output] == [(16, 64)] * 2


def test_images_that_do_not_match_the_prompt_are_refused(whole):
    inputs = inputs_of(whole.processor, TWO_IMAGES)
    with pytest.raises(ValueError, match="32 image tokens, the images give 16"):
        whole.model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        whole.model(pixel_values=inputs["pixel_values"])


def test_image_tokens_are_no_targets(whole):
    inputs = inputs_of(whole.processor, ONE)
    labels = inputs["input_ids"].clone()
    masked = labels.masked_fill(labels == whole.model.config.image_token_id, -100)
    with torch.no_grad():
        losses = [whole.model(**inputs, labels=each).loss for each in (labels, masked)]
    assert torch.equal(*losses) and torch.isfinite(losses[0])


def test_what_ends_a_report_is_in_the_generation_settings(whole):
    settings = whole.model.generation_config
    assert set(settings.eos_token_id) == whole.own.end_ids
    assert settings.pad_token_id == whole.processor.tokenizer.pad_token_id


def test_saved_and_loaded_again_it_is_bit_for_bit_the_same(whole, tmp_path):
    whole.model.save_pretrained(tmp_path)
    again, info = LlavaRadForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    state = whole.model.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    found, wanted = again.config.to_dict(), whole.model.config.to_dict()
    assert {**found, "_name_or_path": ""} == {**wanted, "_name_or_path": ""}


def test_it_loads_in_half_precision_and_by_a_device_map(whole):
    model = LlavaRadForConditionalGeneration.from_pretrained(
        whole.folder, dtype=torch.bfloat16, device_map="auto"
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {"Adapter", "Dinov2Encoder", "LlamaDecoderLayer"} == set(model._no_split_modules)
    inputs = inputs_of(whole.processor, ONE)
    assert torch.isfinite(model(**inputs).logits).all()


def test_the_encoder_is_frozen_and_the_rest_is_not(whole):
    model = LlavaRadForConditionalGeneration.from_pretrained(whole.folder).train()
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert frozen == {"vision_tower"} and trained == {"multi_modal_projector", "language_model"}
    assert not model.vision_tower.training


def test_a_model_can_be_made_from_a_configuration_alone():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaRadConfig(
        vision_config={"model_type": "dinov2", "image_size": 28, "patch_size": 14, **sizes},
        text_config={"model_type": "llama", "vocab_size": 40, "intermediate_size": 16, **sizes},
        adapter={"layers": 1, "pool": 2},
        image_size=28,
        image_token_id=39,
    )
    model = LlavaRadForConditionalGeneration(config)
    ids = torch.tensor([[1, 39, 2]])
    assert model(input_ids=ids, pixel_values=torch.zeros(1, 3, 28, 28)).logits.shape == (1, 3, 40)
