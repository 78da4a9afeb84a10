"""The probe of the teacher, on labelled pictures made here."""

import numpy as np
import pytest
import torch
from PIL import Image

from llava_rad.data import Study, StudyImage, save_manifest
from llava_rad.dinov2.config import ProbeConfig
from llava_rad.dinov2.probe import Probe
from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError

SIZE, HALF = 56, 28
PREPROCESSING = Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
CPU = torch.device("cpu")


def _study(folder, number, split):
    """The left half is bright with a nodule, the right half for men; its level is the age."""
    rng = np.random.default_rng(number)
    nodule, male, age = rng.random() < 0.5, rng.random() < 0.5, float(rng.integers(20, 80))
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[:HALF, :HALF], pixels[:HALF, HALF:] = 200 * nodule, 200 * male
    pixels[HALF:] = 3 * age
    pixels[0, 0], pixels[0, 1] = 0, 255  # min-max rendering leaves the rest as it is
    path = folder / f"{split}{number}.png"
    Image.fromarray(pixels).save(path)
    uncertain = number % 7 == 0
    return Study(
        study_id=path.stem,
        patient_id=path.stem,
        split=split,
        images=(StudyImage(str(path), view="lateral" if number % 5 == 0 else "frontal"),),
        labels={"Nodule": -1.0 if uncertain else float(nodule), "Never": 0.0},
        sex="M" if male else "F",
        age=None if number % 11 == 0 else age,
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    studies = [_study(folder, n, "train") for n in range(60)]
    studies += [_study(folder, n, "validation") for n in range(100, 130)]
    studies += [_study(folder, n, "test") for n in range(200, 203)]
    save_manifest(studies, folder / "labels.jsonl")
    for study in studies[-3:]:  # the test split must not be opened
        (folder / f"{study.study_id}.png").unlink()
    return folder / "labels.jsonl"


def _probe(manifest, views=None, **settings):
    config = ProbeConfig(manifest, **{"targets": ["Nodule", "sex", "age"], **settings})
    return Probe(config, views, "minmax", lambda source: source)


def _averages(images):
    """A teacher that sees what the pictures say, beside two values that mean nothing."""
    parts = [images[:, :, 2:HALF, :HALF], images[:, :, 2:HALF, HALF:], images[:, :, HALF:]]
    noise = torch.randn(len(images), 2, generator=torch.Generator().manual_seed(0))
    return torch.cat([*(part.mean((2, 3)) for part in parts), 0.1 * noise], dim=1)


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_a_teacher_that_sees_everything_scores_high(manifest, method):
    probe = _probe(manifest, method=method, neighbours=5)
    scores = probe.scores(probe.features(_averages, PREPROCESSING, 0, CPU))
    assert scores["probe Nodule AUROC"] > 0.95
    assert scores["probe sex AUROC"] > 0.95
    assert scores["probe age error"] < 6


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_a_teacher_that_sees_nothing_scores_as_chance(manifest, method):
    probe = _probe(manifest, method=method)
    features = np.random.default_rng(0).normal(size=(len(probe.images), 4))
    scores = probe.scores(features)
    assert 0.2 < scores["probe Nodule AUROC"] < 0.8
    assert scores["probe age error"] > 10


def test_features_are_in_the_images_order(manifest):
    probe = _probe(manifest)
    features = probe.features(_averages, PREPROCESSING, 0, CPU)
    one = _averages(PREPROCESSING(probe.images.read(70))[None, :1])
    assert len(features) == len(probe.images) == 90
    np.testing.assert_allclose(features[70, :3], one[0, :3], atol=1e-5)


def test_unknown_targets_are_left_out(manifest):
    probe = _probe(manifest)
    assert np.isnan(probe.targets["Nodule"]).sum() == sum(
        n % 7 == 0 for n in (*range(60), *range(100, 130))
    )
    assert np.isnan(probe.targets["age"]).sum() == 8
    assert probe.is_train.sum() == 60


def test_only_the_views_asked_for(manifest):
    assert len(_probe(manifest, views=["frontal"]).images) == 72


@pytest.mark.parametrize("target", ["Never", "Pneumonia"])
def test_a_target_that_does_not_vary_is_refused_before_the_run(manifest, target):
    with pytest.raises(DataError, match="fewer than two known values among the train") as caught:
        _probe(manifest, targets=[target])
    assert "sex, age, Never, Nodule" in str(caught.value)
