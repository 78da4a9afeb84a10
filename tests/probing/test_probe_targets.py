import math
from dataclasses import replace

import numpy as np
import pytest

from llava_rad.data import Study, StudyImage, save_manifest
from llava_rad.errors import ConfigError, DataError
from llava_rad.probing import column_target, label_names, label_targets, read_examples


@pytest.fixture(scope="module")
def examples(probing_data):
    return read_examples([probing_data])


def test_splits_are_kept(examples):
    assert [len(p) for p in (examples.train, examples.validation, examples.test)] == [48, 14, 18]
    assert str(examples).startswith("48 training images of 24 patients")
    assert not {e.patient for e in examples.train} & {e.patient for e in examples.test}


def test_labels_not_stated_are_nan_and_all_is_what_can_be_measured(examples):
    assert label_names(examples) == ["Bright", "Doubtful", "Never"]
    targets = label_targets(examples)
    assert [t.name for t in targets] == ["Bright", "Doubtful"]
    assert np.isnan(targets[0].train).sum() == 3
    assert set(targets[0].train[~np.isnan(targets[0].train)]) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("uncertain", "value"), [("unknown", math.nan), ("positive", 1.0), ("negative", 0.0)]
)
def test_uncertain_labels(examples, uncertain, value):
    (target,) = label_targets(examples, ["Doubtful"], uncertain=uncertain)
    assert target.train[1] == pytest.approx(value, nan_ok=True)


def test_columns_of_every_kind(examples):
    sex = column_target(examples, "sex")
    assert (sex.kind, sex.classes) == ("category", ("F", "M"))
    assert column_target(examples, "weight").kind == "number"
    assert column_target(examples, "ward").classes == ("north", "south")
    assert column_target(examples, "Bright").kind == "binary"
    age = column_target(examples, "age")
    assert age.kind == "number" and np.isnan(age.train).sum() == 3
    group = column_target(examples, "age_group")
    assert group.ordered and group.classes == ("40-44", "60-64")
    known = ~np.isnan(age.train)
    assert [group.classes[int(i)].split("-")[0] for i in group.train[known]] == [
        str(int(years // 5 * 5)) for years in age.train[known]
    ]


def test_errors_name_what_there_is(examples):
    with pytest.raises(DataError, match="Did you mean 'Bright'"):
        label_targets(examples, ["Brigth"])
    with pytest.raises(DataError, match="sex, age, age_group"):
        column_target(examples, "creatinine")
    with pytest.raises(DataError, match="'view' has fewer than two"):
        column_target(examples, "view")
    with pytest.raises(DataError, match="'Never' has fewer than two"):
        label_targets(examples, ["Never"])
    with pytest.raises(ConfigError, match="positive"):
        label_targets(examples, uncertain="maybe")


def test_views_choose_images(probing_data):
    with pytest.raises(ConfigError, match="frontal, lateral or unknown"):
        read_examples([probing_data], ["AP"])
    with pytest.raises(DataError, match="no image of view lateral"):
        read_examples([probing_data], ["lateral"])


def test_a_split_without_images_is_named(tmp_path):
    studies = [_study(i, split, "one") for i, split in enumerate(("train", "validation", "test"))]
    save_manifest([studies[0], replace(studies[1], images=()), studies[2]], tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"the validation split has no image\. Make the manifest"):
        read_examples([tmp_path / "a.jsonl"])


def _study(number, split, source):
    image = StudyImage(f"{source}{number}.png")
    return Study(f"s{number}", f"p{number}", split, (image,), source=source)


def test_a_missing_validation_split_is_made_by_patient(tmp_path):
    studies = [_study(i, "train" if i < 60 else "test", "one") for i in range(80)]
    save_manifest(studies, tmp_path / "one.jsonl")
    examples = read_examples([tmp_path / "one.jsonl"])
    assert 2 < len(examples.validation) < 20
    assert len(examples.train) + len(examples.validation) == 60


def test_equal_ids_of_two_data_sets_are_two_patients(tmp_path):
    for source, splits in (("one", "train test validation"), ("two", "test train validation")):
        studies = [_study(i, split, source) for i, split in enumerate(splits.split())]
        save_manifest(studies, tmp_path / f"{source}.jsonl")
    examples = read_examples([tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
    assert {e.patient for e in examples.train} == {"one:p0", "two:p1"}


def test_a_patient_in_two_splits_of_two_manifests_is_refused(tmp_path):
    rest = [_study(8, "validation", "one"), _study(9, "test", "one")]
    save_manifest([_study(0, "train", "one"), *rest], tmp_path / "a.jsonl")
    other = Study("s5", "p0", "test", (StudyImage("x.png"),), source="one")
    save_manifest([other, _study(6, "train", "one")], tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="patient"):
        read_examples([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_a_patient_of_two_data_sets_that_share_patients_is_refused_too(tmp_path):
    for source, splits in (("chexpert", "train validation test"), ("chexpert-plus", "test train")):
        studies = [_study(i, split, source) for i, split in enumerate(splits.split())]
        save_manifest(studies, tmp_path / f"{source}.jsonl")
    with pytest.raises(DataError, match="chexpert:p0"):
        read_examples([tmp_path / "chexpert.jsonl", tmp_path / "chexpert-plus.jsonl"])


def test_a_manifest_without_test_patients_says_what_to_do(tmp_path):
    save_manifest([_study(0, "train", "one")], tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"no study has split 'test'.*--test"):
        read_examples([tmp_path / "a.jsonl"])
