"""All images opened, whatever happens to the process that opens them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_rad import images
from llava_rad.data import checking


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_takes_its_process_down_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    paths = [str(tmp_path / f"{number:02}.png") for number in range(20)]
    for path in paths:
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(path)
    Path(paths[7]).write_text("no picture")
    real = images.load_radiograph

    def crash(path: str, rendering: str):
        if path == paths[4]:
            os._exit(1)
        return real(path, rendering=rendering)

    monkeypatch.setattr(images, "load_radiograph", crash)
    told = []
    found = checking.check_images(paths, workers=workers, progress=lambda: told.append(1))
    assert {path: error.kind for path, error in found.items()} == {
        paths[4]: "decoder_crashed",
        paths[7]: "unknown_format",
    }
    assert len(told) == 20
    assert checking.by_reason(found)[0][1:] == (1, paths[4])


def test_a_study_names_its_images_and_its_priors() -> None:
    from llava_rad.data import PriorStudy, Study, StudyImage

    prior = PriorStudy("s0", (StudyImage("a.png"),))
    studies = [
        Study("s1", "p", images=(StudyImage("b.png"),), prior=prior),
        Study("s2", "p", images=(StudyImage("b.png"), StudyImage("c.png"))),
    ]
    assert checking.images_of(studies) == {"b.png": "s1", "a.png": "s1", "c.png": "s2"}
