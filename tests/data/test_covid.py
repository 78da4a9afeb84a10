"""The COVID-19 image data collection: a small tree, and the real folder."""

import csv
from collections.abc import Callable
from pathlib import Path

from llava_rad.data import ConversionLog, check_studies
from llava_rad.data.covid import read
from llava_rad.data.template import TEMPLATE_NAME

HEADER = "image,split,patient,offset,sex,age,view,finding,license,source_url,notes\n"
NOTE = "Fever. Consolidation in the right lung."


def test_studies(tree: Callable[..., Path]) -> None:
    rows = [
        f"images/pa.jpg,train,P1,3,F,70.0,PA,COVID-19,CC BY,https://x.org,{NOTE}",
        f"images/lat.jpg,train,P1,3,F,70.0,L,COVID-19,CC BY,https://x.org,{NOTE}",
        "images/old.jpg,train,P1,1,F,70.0,AP Supine,COVID-19,CC BY,,",
        f"images/two.jpg,train,P2,,M,,?,todo,CC BY,,{NOTE}",
        f"images/two.jpg,test,P3,,M,,?,todo,CC BY,,{NOTE}",
        "images/hist.jpg,test,P4,?,,,PA,ARDS,CC BY,,Fever for two days.",
        "images/gone.jpg,train,P5,1,M,30,PA,ARDS,CC BY,,",
        "images/pa.jpg,train,,1,M,30,PA,ARDS,CC BY,,",
    ]
    images = ("pa", "lat", "old", "two", "hist")
    root = tree(
        {f"images/{name}.jpg": "" for name in images}
        | {"metadata.csv": HEADER + "\n".join(rows) + "\n", "lung_masks/old.png": ""}
    )
    log = ConversionLog()
    studies = {study.study_id: study for study in read(root, log)}
    check_studies(studies.values())
    assert list(studies) == ["pa", "old", "two", "hist"]
    study = studies["pa"]
    assert [image.view for image in study.images] == ["frontal", "lateral"]
    assert study.findings == "Consolidation in the right lung."
    assert (study.extra["diagnosis"], study.extra["note"]) == ("COVID-19", NOTE)
    assert study.prior is not None and study.prior.study_id == "old"
    assert studies["old"].images[0].masks == {"lungs": str(root / "lung_masks/old.png")}
    assert studies["old"].findings is None
    # Listed in training and test: the test keeps it.
    assert (studies["two"].split, studies["two"].patient_id) == ("test", "P3")
    assert studies["two"].images[0].view == "unknown"
    assert "diagnosis" not in studies["two"].extra
    assert log.left_out == {
        "no patient": ["metadata.csv:9"],
        "image_listed_twice": ["images/two.jpg"],
        "image_missing": ["images/gone.jpg"],
    }
    assert log.noted["notes_empty"] == ["old"]
    assert studies["old"].extra["no_findings_reason"] == "notes_empty"
    assert log.noted["notes_describe_no_image"] == ["hist"]
    assert log.noted["no_usable_age"] == ["two", "hist"]


def test_scores_of_zones_stand_in_where_the_note_says_nothing(tree: Callable[..., Path]) -> None:
    rows = [
        f"images/note.jpg,train,P1,,F,70,PA,COVID-19,CC BY,,{NOTE}",
        "images/zones.jpg,train,P2,,F,70,PA,COVID-19,CC BY,,",
        "images/half.jpg,train,P3,,F,70,PA,COVID-19,CC BY,,",
    ]
    zones = [f"{reader}-{zone}" for reader in "SJ" for zone in "ABCDEF"]
    table = [
        ",".join(["image", *zones]),
        "images/note.jpg," + ",".join("3" * 12),
        "images/zones.jpg,0,0,3,0,0,0,0,1,3,0,0,0",
        "images/half.jpg,0,0,3,0,0,,0,1,3,0,0,",
    ]
    root = tree(
        {f"images/{name}.jpg": "" for name in ("note", "zones", "half")}
        | {
            "metadata.csv": HEADER + "\n".join(rows) + "\n",
            "severity.csv": "\n".join(table) + "\n",
            "lung_masks_v7/zones.png": "",
        }
    )
    note, scored, half = read(root, ConversionLog())
    assert note.findings == "Consolidation in the right lung."
    assert scored.findings is not None and "lower zone of the right lung" in scored.findings
    assert scored.extra["findings_from"] == TEMPLATE_NAME
    assert (scored.extra["brixia_B"], scored.extra["brixia_C"]) == ("0.5", "3")
    assert scored.images[0].masks == {"lungs_v7": str(root / "lung_masks_v7/zones.png")}
    assert half.findings is None and "brixia_C" not in half.extra


def test_the_public_layout(tree: Callable[..., Path]) -> None:
    header = (
        "patientid,offset,sex,age,finding,RT_PCR_positive,view,modality,date,location,folder,"
        "filename,doi,url,license,clinical_notes,other_notes,"
    )
    rows = [
        f"2,3,M,65,Pneumonia/Viral,Y,PA,X-ray,,,images,a.1.jpg,,https://x.org,CC BY,{NOTE},,",
        "2,0,M,65,Pneumonia/Viral/COVID-19,Y,AP,X-ray,,,images,a.png,,,,,,",
        "2,0,M,65,Pneumonia,,Axial,CT,,,volumes,b.nii.gz,,,,,,",
        "5,,,,Pneumonia,,L,X-ray,,,images,a.jpg,,,,,,",
    ]
    scores = ",".join(["filename", *(f"{reader}-{zone}" for reader in "SJ" for zone in "ABCDEF")])
    root = tree(
        {f"images/{name}": "" for name in ("a.1.jpg", "a.png", "a.jpg")}
        | {
            "metadata.csv": "\n".join([header, *rows]) + "\n",
            "annotations/lungVAE-masks/a.1_mask.png": "",
            "public-annotations.csv": f"{scores}\na.png,0,0,3,0,0,0,0,1,3,0,0,0\n",
        }
    )
    log = ConversionLog()
    later, earlier, lateral = read(root, log)
    assert [s.study_id for s in (later, earlier, lateral)] == ["a.1.jpg", "a.png", "a.jpg"]
    assert (later.patient_id, later.split, later.sex, later.age) == ("2", None, "M", 65.0)
    assert later.findings == "Consolidation in the right lung."
    assert later.extra["source_url"] == "https://x.org"
    assert later.prior is not None and later.prior.study_id == "a.png"
    masks = {"lungs": str(root / "annotations/lungVAE-masks/a.1_mask.png")}
    assert later.images[0].masks == masks
    assert earlier.findings is not None and earlier.extra["brixia_C"] == "3"
    assert lateral.images[0].view == "lateral"
    assert log.left_out == {"no_radiograph": ["b.nii.gz"]}


def test_the_real_folder(shared_data: Path) -> None:
    log = ConversionLog()
    studies = list(read(shared_data / "covid", log))
    check_studies(studies)
    with (shared_data / "covid" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images = [image for study in studies for image in study.images]
    # Every row is an image of some study or listed as left out.
    assert len(images) + sum(map(len, log.left_out.values())) == len(rows) == 342
    assert len({image.path for image in images}) == len(images)
    lateral = {row["image"] for row in rows if row["view"] == "L"}
    assert sum(image.view == "lateral" for image in images) == len(lateral)
    assert sum("lungs" in image.masks for image in images) == 113
    split_of = {row["patient"]: row["split"] for row in rows}
    assert all(study.split == split_of[study.patient_id] for study in studies)
    assert len(log.noted["notes_empty"]) == sum(not row["notes"].strip() for row in rows) == 83
    assert sum(study.findings is not None for study in studies) > 180
    assert all(study.prior is None or study.prior.study_id != study.study_id for study in studies)
