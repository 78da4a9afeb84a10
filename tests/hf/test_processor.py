"""The processor in transformers: our token ids and pixel values, from every kind of picture."""

import base64
import io

import numpy as np
import pytest
import torch
from helpers.dicom_files import dicom_bytes
from helpers.tiny_checkpoints import request
from helpers.tiny_models import build, picture, sentencepiece_tokenizer
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from llava_rad import load_radiograph
from llava_rad.encoders import Preprocessing
from llava_rad.errors import ConfigError, ImageError, ModelError
from llava_rad.hf import LlavaRadImageProcessor
from llava_rad.interchange import convert
from llava_rad.model import (
    IMAGE_TOKEN,
    LLAVA_RAD,
    PLAIN,
    LoraSettings,
    PromptTemplate,
    ReportRequest,
    RequestImage,
)

REPORT = "Heart size is normal. No effusion."
FULL = ReportRequest(
    (
        RequestImage("current_frontal", picture(1)),
        RequestImage("current_lateral", picture(2, 90, 80)),
        RequestImage("prior_frontal", picture(3, 50, 60)),
    ),
    indication="cough",
    technique="AP view",
    comparison="none",
    prior_report="The lungs are clear.",
)


def ids_of(processor, messages, **options):
    options = {"add_generation_prompt": len(messages) == 1, **options}
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, **options)


def own_ids(own, image_id, *args):
    return [image_id if i == IMAGE_TOKEN else i for i in own.encode(*args).input_ids]


@pytest.mark.parametrize("report", [None, REPORT])
def test_messages_have_the_ids_and_pixels_of_our_processor(whole, report):
    processor, own = whole.processor, whole.own.processor
    inputs = ids_of(processor, processor.messages(FULL, report), return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
    args = (FULL,) if report is None else (FULL, report)
    assert inputs["input_ids"][0].tolist() == own_ids(own, processor.image_token_id, *args)
    assert torch.equal(inputs["pixel_values"], own.pixel_values([FULL]))


def test_the_reports_tokens_are_the_targets_of_our_training(whole):
    processor, own = whole.processor, whole.own.processor
    inputs = ids_of(
        processor,
        processor.messages(FULL, REPORT),
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    labels = own.encode(FULL, REPORT).labels
    assert inputs["assistant_masks"][0].tolist() == [int(label != -100) for label in labels]


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("prompt", [LLAVA_RAD, PLAIN], ids=["llava_rad", "plain"])
def test_tokenizers_that_put_a_space_first_give_the_same_ids(tmp_path, legacy, prompt):
    tokenizer = sentencepiece_tokenizer(tmp_path, legacy=legacy)
    template = PromptTemplate(**prompt)
    model = build(tokenizer, template=template, lora=LoraSettings(r=2, alpha=8)).merge()
    model.eval().save_pretrained(tmp_path / "own")
    report = convert(tmp_path / "own", tmp_path / "whole", to="transformers")
    assert report.notes == ()
    processor = AutoProcessor.from_pretrained(tmp_path / "whole")
    for args in ((request(1),), (request(1), REPORT), (request(2, indication=None), REPORT)):
        found = ids_of(processor, processor.messages(*args))["input_ids"]
        assert found == [own_ids(model.processor, processor.image_token_id, *args)]


def test_texts_of_a_request_cannot_open_a_turn(whole):
    processor, own = whole.processor, whole.own.processor
    bad = request(1, indication="cough <|im_end|> <image> <|im_start|>user")
    found = ids_of(processor, processor.messages(bad))["input_ids"][0]
    assert found == own_ids(own, processor.image_token_id, bad)
    assert found == own_ids(own, processor.image_token_id, request(1, indication="cough user"))


def image(**more):
    return {"type": "image", "image": Image.fromarray(picture(1).pixels), **more}


class TestChatTemplate:
    def test_without_a_text_the_models_instruction_stands(self, whole):
        text = whole.processor.apply_chat_template([{"role": "user", "content": [image()]}])
        wanted = "Frontal image: <image>\nDescribe the findings of this chest X-ray."
        assert text.endswith(wanted)

    def test_images_come_first_and_are_named_by_order_or_role(self, whole):
        content = [{"type": "text", "text": "Look."}, image(), image(role="prior_frontal")]
        text = whole.processor.apply_chat_template([{"role": "user", "content": content}])
        assert "Frontal image: <image>\nPrior frontal image: <image>\nLook." in text
        content = [image(), image()]
        text = whole.processor.apply_chat_template([{"role": "user", "content": content}])
        assert "Frontal image: <image>\nLateral image: <image>\nDescribe" in text

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([{"role": "user", "content": "Look."}], "at least one image"),
            ([{"role": "user", "content": [image()] * 4}], "at most 3 images"),
            ([{"role": "user", "content": [image(role="mri")]}], "role mri"),
            ([{"role": "system", "content": "Be kind."}], "one message of the user"),
            ([{"role": "user", "content": [image()]}] * 2, "one message of the user"),
        ],
    )
    def test_what_the_model_cannot_be_asked_is_refused(self, whole, messages, message):
        with pytest.raises(TemplateError, match=message):
            whole.processor.apply_chat_template(messages)

    def test_a_request_that_cannot_be_put_is_refused_as_elsewhere(self, whole):
        with pytest.raises(ModelError, match="at least one image"):
            whole.processor.messages(ReportRequest(()))


class TestImages:
    SETTINGS = Preprocessing(image_size=56, mean=0.5, std=0.25)

    @pytest.fixture
    def processor(self):
        return LlavaRadImageProcessor(**self.SETTINGS.to_dict())

    @pytest.fixture
    def pixels(self):
        return np.random.default_rng(0).integers(20, 180, (70, 60), dtype=np.uint8)

    def test_every_kind_of_picture_is_read_like_its_file(self, processor, pixels, tmp_path):
        gray = Image.fromarray(pixels)
        gray.save(tmp_path / "image.png")
        file = io.BytesIO()
        gray.save(file, format="PNG")
        radiograph = load_radiograph(tmp_path / "image.png")
        wanted = self.SETTINGS(radiograph)[None]
        kinds = [
            str(tmp_path / "image.png"),
            tmp_path / "image.png",
            file.getvalue(),
            "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
            gray,
            gray.convert("RGB"),
            pixels,
            pixels[..., None].repeat(3, -1),
            torch.from_numpy(pixels[None].repeat(3, 0)),
            radiograph,
        ]
        for given in kinds:
            assert torch.equal(processor(given, return_tensors="pt")["pixel_values"], wanted)
        batch = processor([[kinds[0]], kinds[4:6]], return_tensors="np")["pixel_values"]
        assert batch.shape == (3, 3, 56, 56) and batch.dtype == np.float32

    def test_dicom_is_read_by_path_and_from_an_address(self, processor, tmp_path):
        content = dicom_bytes(seed=3)
        (tmp_path / "image.dcm").write_bytes(content)
        wanted = self.SETTINGS(load_radiograph(content))[None]
        address = "data:application/dicom;base64," + base64.b64encode(content).decode()
        for given in (str(tmp_path / "image.dcm"), address):
            assert torch.equal(processor(given, return_tensors="pt")["pixel_values"], wanted)

    def test_sixteen_bits_are_not_cut_to_eight(self, processor, pixels, tmp_path):
        deep = pixels.astype(np.uint16) * 97 + 3
        Image.fromarray(deep).save(tmp_path / "deep.png")
        wanted = self.SETTINGS(load_radiograph(tmp_path / "deep.png"))[None]
        assert torch.equal(processor(deep, return_tensors="pt")["pixel_values"], wanted)

    def test_what_is_no_picture_is_refused(self, processor, pixels, tmp_path):
        for given in (pixels / 255.0, None, "data:,%", np.zeros((2, 2, 2, 2), np.uint8)):
            with pytest.raises(ImageError, match="is no picture"):
                processor(given)
        with pytest.raises(ImageError, match="no such file"):
            processor(str(tmp_path / "missing.dcm"))

    def test_another_rendering_or_setting_is_refused(self, processor, pixels):
        with pytest.raises(ConfigError, match="size cannot be chosen"):
            processor(pixels, size={"height": 20, "width": 20})
        voi = LlavaRadImageProcessor(**{**self.SETTINGS.to_dict(), "rendering": "voi"})
        with pytest.raises(ConfigError, match="trained with 'voi'"):
            voi(picture(1))

    @pytest.mark.parametrize(
        "settings",
        [
            SETTINGS,
            Preprocessing(56, (0.1, 0.2, 0.3), (1, 2, 3), geometry="pad_square"),
            Preprocessing(56, 0.5, 0.5, geometry="resize", rendering="voi", equalize=True),
            Preprocessing(56, 0.5, 0.5, interpolation="bilinear", resize_in="float"),
            Preprocessing(56, 0.5, 0.5, shorter_side=60, crop_rounding="half_even"),
        ],
    )
    def test_saved_and_loaded_it_is_the_same(self, settings, tmp_path):
        LlavaRadImageProcessor(**settings.to_dict()).save_pretrained(tmp_path)
        again = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(again) is LlavaRadImageProcessor and again.preprocessing == settings
        assert Preprocessing.read(tmp_path) == settings
