"""ReXGradient-160K: three files of studies, and priors by date."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_rad.data import ConversionLog
from llava_rad.data.rexgradient import read

FILE = "metadata/{}_metadata_view_position.json"


def study(patient: str, date: str, *views: str | None, **fields: Any) -> dict[str, Any]:
    paths = [f"../deid_png/{patient}/A{date}/studies/1/{i}.png" for i in range(len(views))]
    return {
        "PatientID": patient,
        "PatientSex": "F",
        "PatientAge": "045Y",
        "StudyDate": date,
        "ImagePath": paths,
        "ImageViewPosition": list(views),
        "Findings": "Lungs are clear.",
        "Impression": "None",
        "Indication": "Cough.",
        **fields,
    }


def test_the_splits_and_priors(tree: Callable[..., Path]) -> None:
    train = {
        "P1_A2_1": study("P1", "20200301", "LL", "POSTERO_ANTERIOR", None),
        "P1_A1_1": study("P1", "20190301", "AP", Findings="Small effusion."),
    }
    test = {"P2_A3_1": study("P2", "20180101", "N/A"), "P3_A4_1": study("P3", "20180101", "PA")}
    rows = {"train": train, "test": test}
    files = {FILE.format(split): json.dumps(content) for split, content in rows.items()}
    images = [
        path.removeprefix("../")
        for content in rows.values()
        for row in content.values()
        for path in row["ImagePath"]
        if "P3" not in path
    ]
    log = ConversionLog()
    root = tree(files | dict.fromkeys(images, ""))
    later, earlier, other = read(root, log)
    assert [image.view for image in later.images] == ["frontal", "lateral", "unknown"]
    assert later.images[2].view_position is None
    assert (later.patient_id, later.split, later.source) == ("P1", "train", "rexgradient")
    assert (later.sex, later.age, later.indication) == ("F", 45.0, "Cough.")
    assert (later.findings, later.impression) == ("Lungs are clear.", None)
    assert later.prior is not None and later.prior.study_id == "P1_A1_1"
    assert later.prior.findings == "Small effusion." and earlier.prior is None
    assert (other.split, other.prior, other.images[0].view) == ("test", None, "unknown")
    assert log.left_out["no_image"] == ["P3_A4_1"]

    (root / "deid_png").rename(root / "unpacked")
    for folder in ("unpacked", "elsewhere"):
        assert len(list(read(root, ConversionLog(), images=str(root / folder)))) == 3
        if folder == "unpacked":
            (root / "elsewhere").mkdir()
            (root / "unpacked").rename(root / "elsewhere/deid_png")
