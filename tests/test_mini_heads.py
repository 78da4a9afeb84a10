"""What the bundled model tells beside the text, and pictures that it must not take for its own."""

from dataclasses import replace

import numpy as np
import pydicom.data
import pytest
import torch
from PIL import Image

from llava_rad.bundled import BUNDLED
from llava_rad.data import ConversionLog
from llava_rad.data.nih import read
from llava_rad.images import load_radiograph
from llava_rad.model import ReportModelConfig
from llava_rad.model.encoder_heads import load_heads
from llava_rad.model.report_model import load_own_encoder
from llava_rad.model.training_summary import cell_means
from llava_rad.observations import OBSERVATIONS

FOLDER = BUNDLED["mini"]


@pytest.fixture(scope="module")
def mini():
    config = ReportModelConfig.load(FOLDER)
    return load_own_encoder(FOLDER, config), load_heads(FOLDER, config.encoder)


@pytest.fixture(scope="module")
def is_strange(mini):
    encoder, heads = mini

    def strange(*pictures):
        pixels = torch.stack([encoder.preprocessing(picture) for picture in pictures])
        grid = encoder.grid(encoder.image_size, encoder.image_size)
        with torch.inference_mode():
            cells = cell_means(encoder.encode(pixels).patches, grid)
        return (heads.summary.distance(cells) > heads.summary.threshold).tolist()

    return strange


def file(name):
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    return load_radiograph(path)


def test_it_has_all_three(mini):
    _, heads = mini
    assert set(heads.observations.names) <= set(OBSERVATIONS)
    assert {"heart", "left_lung", "right_lung"} <= set(heads.segmentation.structures)
    assert heads.summary.threshold > 1


def test_a_leg_is_strange(is_strange):
    assert is_strange(file("RG3_UNCR.dcm")) == [True]


def test_photographs_and_noise_are_strange(is_strange):
    datasets = pytest.importorskip("sklearn.datasets")
    photographs = [
        load_radiograph(Image.fromarray(i)) for i in datasets.load_sample_images().images
    ]
    rng = np.random.default_rng(0)
    noise = [
        load_radiograph(rng.integers(0, 256, (side, side), dtype=np.uint8)) for side in (256, 512)
    ]
    assert all(is_strange(*photographs, *noise))


@pytest.mark.slow
def test_films_of_its_kind_are_not_and_turned_or_inverted_ones_are(is_strange, shared_data):
    tested = [s for s in read(shared_data / "nih", ConversionLog()) if s.split == "test"]
    films = [load_radiograph(study.images[0].path) for study in tested]
    assert np.mean(is_strange(*films)) <= 0.05
    some = films[::4]
    inverted = [replace(film, pixels=255 - film.pixels) for film in some]
    turned = [replace(film, pixels=film.pixels[::-1, ::-1].copy()) for film in some]
    assert np.mean(is_strange(*inverted)) >= 0.9
    assert np.mean(is_strange(*turned)) >= 0.8
