"""BRAX: labels without reports, fictitious dates."""

from collections.abc import Callable
from pathlib import Path

from llava_rad.data import ConversionLog
from llava_rad.data.brax import read

HEADER = (
    "DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,No Finding,"
    "Enlarged Cardiomediastinum,Cardiomegaly,Lung Lesion,Lung Opacity,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices,"
    "ViewPosition,Rows,Columns,Manufacturer\n"
)
IMAGE = "Study_{1}/Series_1/image-{2}"


def row(patient: str, accession: str, image: str, view: str, age: str = "60") -> str:
    dicom = f"Anonymized_DICOMs/id_{patient}/{IMAGE.format(patient, accession, image)}.dcm"
    png = f"images/id_{patient}/{IMAGE.format(patient, accession, image)}.png"
    labels = "0,,1,,-1,,,,,,,,,"
    return f"{dicom},{png},{patient},F,{age},{accession},20080101,{labels},{view},1,1,1\n"


def test_studies(tree: Callable[..., Path]) -> None:
    root = tree(
        {
            "master_spreadsheet_update.csv": HEADER
            + row("p1", "7", "1", "RL")
            + row("p1", "7", "2", "PA")
            + row("p2", "7", "1", "AP", "85 or more")
            + row("p3", "8", "1", "PA"),
            "images/id_p1/Study_7/Series_1/image-1.png": "",
            "images/id_p1/Study_7/Series_1/image-2.png": "",
            "Anonymized_DICOMs/id_p2/Study_7/Series_1/image-1.dcm": "",
        }
    )
    log = ConversionLog()
    first, second = read(root, log)
    assert [image.view for image in first.images] == ["frontal", "lateral"]
    assert (first.patient_id, first.sex, first.age, first.findings) == ("p1", "F", 60, None)
    assert (first.labels["No Finding"], first.labels["Cardiomegaly"]) == (0, 1)
    assert first.labels["Lung Opacity"] == -1 and first.labels["Edema"] is None
    # The same accession number of another patient is another study.
    assert second.study_id != first.study_id
    assert second.images[0].path.endswith(".dcm")
    assert second.age == 85
    assert first.prior is second.prior is None
    assert log.left_out["no_image"] == ["p3/8"]
