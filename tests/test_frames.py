"""One picture of a file that holds several, chosen by its number wherever pictures are read."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, tiny_encoder
from PIL import Image

from llava_rad.data import Study, StudyImage
from llava_rad.encoders.pictures import encode_images
from llava_rad.images import load_radiograph
from llava_rad.reports.file import run_id
from llava_rad.reports.generate import GenerationSettings
from llava_rad.reports.study import Failure, read_study


@pytest.fixture
def frames(tmp_path):
    """Three pictures, and a TIFF file that holds them."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (70, 60), dtype=np.uint8)) for _ in range(3)]
    path = tmp_path / "frames.tif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return pictures, str(path)


def test_a_study_is_read_from_the_chosen_frame(frames):
    pictures, path = frames
    model = build(byte_level_tokenizer())
    study = Study("s", "p", images=(StudyImage(path, view="frontal"),))
    for number, picture in enumerate(pictures, 1):
        shown = read_study(model, study, frame=number)
        pixels = shown.request.images[0].radiograph.pixels
        assert np.abs(pixels.astype(int) - np.asarray(picture)).max() <= 1
    for number in (None, 4):
        failure = read_study(model, study, frame=number)
        assert isinstance(failure, Failure) and failure.error.kind == "multi_frame"


def test_tokens_are_those_of_the_chosen_frame(frames):
    encoder = tiny_encoder().eval()
    path = frames[1]
    ((_, (cls, patches)),) = encode_images(encoder, [path], frame=2)
    pixels = encoder.preprocessing(load_radiograph(path, frame=2))
    with torch.inference_mode():
        expected = encoder.encode(pixels[None])
    torch.testing.assert_close(cls, expected.cls[0])
    torch.testing.assert_close(patches, expected.patches[0])


def test_another_frame_is_another_run():
    class Model:
        folder_hash = "0"

    runs = {
        run_id(Model(), GenerationSettings(), precision="float32", frame=frame)
        for frame in (None, 1, 2)
    }
    assert len(runs) == 3
