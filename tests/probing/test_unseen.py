from dataclasses import replace

import pytest

from llava_rad.data import load_manifest
from llava_rad.errors import DataError
from llava_rad.probing import read_examples
from llava_rad.probing.unseen import require_unseen


@pytest.fixture
def task(probing_data):
    return read_examples([probing_data]), load_manifest(probing_data)


def test_training_and_validation_may_be_seen(task):
    examples, studies = task
    require_unseen(examples, [s for s in studies if s.split != "test"], [])


def test_a_test_image_may_not(task, tmp_path):
    examples, studies = task
    test = [s for s in studies if s.split == "test"]
    with pytest.raises(DataError, match="18 of 18 test images") as caught:
        require_unseen(examples, studies, [], where="bright")
    assert str(caught.value).startswith("bright: ") and test[0].images[0].path in str(caught.value)
    with pytest.raises(DataError, match="1 of 18"):
        require_unseen(
            examples, [], [f"{tmp_path}/../{tmp_path.name}/other.png", examples.test[3].path]
        )


def test_nor_another_image_of_a_test_patient(task):
    examples, studies = task
    named = [replace(s, source="nih") for s in studies]
    other = replace(next(s for s in named if s.split == "test"), images=(), split="train")
    inside = replace(
        examples,
        test=tuple(replace(e, study=replace(e.study, source="nih")) for e in examples.test),
    )
    with pytest.raises(DataError, match="2 of 18"):
        require_unseen(inside, [other], [])
    # The same id in another data set is another patient, unless it has the same patients.
    require_unseen(inside, [replace(other, source="covid")], [])
    with pytest.raises(DataError, match="2 of 18"):
        require_unseen(inside, [replace(other, source="rsna")], [])
