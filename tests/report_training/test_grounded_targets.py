"""What is learnt with boxes: MAIRA-2's text in the encoder's square, of the image that is shown."""

import numpy as np
import pytest
from helpers.tiny_models import build, byte_level_tokenizer
from PIL import Image

from llava_rad.boxes import Box
from llava_rad.data import FindingBox, Study, StudyImage, save_manifest
from llava_rad.errors import ConfigError
from llava_rad.grounded_text import read_grounded
from llava_rad.report_training.config import DataConfig, SourceConfig
from llava_rad.report_training.samples import ReportSamples
from llava_rad.report_training.studies import load_studies

NODULE = "There is a nodule."


@pytest.fixture(scope="module")
def processor():
    return build(byte_level_tokenizer()).processor


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "wide.png"
    pixels = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    Image.fromarray(pixels).save(path)
    boxes = (
        FindingBox("Nodule", Box(0.5, 0.25, 0.6, 0.75), NODULE, "first"),
        FindingBox("Nodule", Box(0.1, 0.1, 0.9, 0.9), NODULE, "second"),
        FindingBox("Mass", Box(0.3, 0.3, 0.4, 0.4)),
    )
    images = (StudyImage(str(path), "frontal", boxes=boxes),)
    text = f"The heart is normal. {NODULE}"
    studies = [
        Study("s1", "p1", split="train", images=images, findings=text),
        Study("s2", "p2", split="train", images=(StudyImage(str(path)),), findings="Clear."),
    ]
    save_manifest(studies, tmp_path / "m.jsonl")
    config = DataConfig(sources=[SourceConfig(tmp_path / "m.jsonl")], boxes=True)
    return load_studies(config).train


def test_targets_are_of_the_form_and_metrics_see_words(processor, split):
    samples = ReportSamples(split, processor, 512)
    learnt = []
    for index in range(2):
        tokens = samples.sample(index).tokens
        learnt.append(processor.decode([i for i in tokens.labels if i != -100]))
    read = read_grounded(learnt[0], strict=True)
    [box] = read.phrases[1].boxes
    assert read.phrases[0].boxes == () and read.text[read.phrases[1].start :] == NODULE
    # The tiny encoder crops 200 x 100 to its middle square: columns 50 to 150.
    assert (box.x_min, box.x_max) == (pytest.approx(0.505), pytest.approx(0.705))
    assert (box.y_min, box.y_max) == (pytest.approx(0.255), pytest.approx(0.755))
    assert learnt[1] == "<obj>Clear.</obj>"
    assert samples.text(0) == f"The heart is normal. {NODULE}"


def test_without_the_setting_nothing_changes(processor, split):
    split.boxes = False
    sample = ReportSamples(split, processor, 512).sample(0)
    assert "<" not in processor.decode([i for i in sample.tokens.labels if i != -100])


def test_images_that_are_turned_have_no_boxes_to_learn():
    with pytest.raises(ConfigError, match="elsewhere than its boxes say"):
        DataConfig(boxes=True, augment=True)
