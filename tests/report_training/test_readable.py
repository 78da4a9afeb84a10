"""Every image of a run is opened before its first step."""

from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from helpers.tiny_models import tiny_encoder
from PIL import Image

from llava_rad.data import PriorStudy, Study, StudyImage
from llava_rad.errors import DataError
from llava_rad.features import FeatureStore
from llava_rad.report_training import readable
from llava_rad.report_training.config import DataConfig
from llava_rad.report_training.studies import RunStudies, Split

ENCODER = tiny_encoder()


@pytest.fixture
def studies(tmp_path: Path) -> RunStudies:
    """Three studies of a frontal and a lateral image; two files are damaged, one is gone."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        images = []
        for view in ("frontal", "lateral"):
            path = tmp_path / f"{number}_{view}.png"
            Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
            images.append(StudyImage(str(path), view))
        prior = PriorStudy("old", (StudyImage(str(tmp_path / "gone.png"), "frontal"),))
        found.append(Study(f"s{number}", f"p{number}", images=tuple(images), prior=prior))
    (tmp_path / "0_lateral.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "2_frontal.png").write_text("no picture")
    return RunStudies(train=Split(found[:2]), validation=Split(found[2:]))


def check(studies: RunStudies, output: Path, **settings) -> None:
    config = DataConfig(workers=0, **settings)
    store = FeatureStore(output / "features", ENCODER)
    readable.check_readable(studies, config, ENCODER, output, store, Accelerator(cpu=True))


ALL = ["current_frontal", "current_lateral", "prior_frontal"]


def test_all_are_listed_with_their_studies(studies, tmp_path, capsys):
    with pytest.raises(DataError, match="3 of 7 images cannot be read") as caught:
        check(studies, tmp_path / "run", images=ALL)
    assert caught.value.kind == "unreadable_images"
    said = [line for line in capsys.readouterr().out.splitlines() if "cannot be read    " in line]
    assert [line.split()[4] for line in said] == ["s0:", "s0:", "s2:"]
    for line, name in zip(said, ("0_lateral.png", "gone.png", "2_frontal.png"), strict=True):
        assert name in line


def test_what_is_not_shown_is_not_asked_for(studies, tmp_path):
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read: .*2_frontal\.png"):
        check(studies, tmp_path / "run", images=["current_frontal"])


def test_they_are_left_out_when_that_is_set(studies, tmp_path, capsys):
    check(studies, tmp_path / "run", images=ALL, unreadable="leave_out")
    assert "left out          3 of 7 images cannot be read" in capsys.readouterr().out
    kept = [
        [i.view for i in s.images] for s in (*studies.train.studies, *studies.validation.studies)
    ]
    assert kept == [["frontal"], ["frontal", "lateral"], ["lateral"]]
    assert all(not s.prior.images for s in studies.train.studies)


def test_what_was_opened_or_encoded_is_not_opened_again(studies, tmp_path, monkeypatch):
    opened = []
    real = readable.check_images

    def counting(paths, **options):
        opened.append([Path(path).name for path in paths])
        return real(paths, **options)

    monkeypatch.setattr(readable, "check_images", counting)
    settings = {"images": ["current_frontal"], "unreadable": "leave_out"}
    whole = list(studies.validation.studies)
    for _ in range(2):
        studies.validation.studies = list(whole)
        check(studies, tmp_path / "run", **settings)
    assert opened == [["0_frontal.png", "1_frontal.png", "2_frontal.png"], ["2_frontal.png"]]
    paths = [str(tmp_path / f"{n}_frontal.png") for n in (0, 1)]
    FeatureStore(tmp_path / "other" / "features", ENCODER).fill(paths)
    studies.validation.studies = whole
    check(studies, tmp_path / "other", **settings)
    assert opened[2] == ["2_frontal.png"]
