"""CANDID-PTX: images named by their UID, several mask rows an image."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from llava_rad.data import ConversionLog
from llava_rad.data.candid_ptx import read

REPORT = "Clinical details:\nChest pain.\nFindings:\nReviewed by <###>. Small left pneumothorax.\n"


def test_studies(tree: Callable[..., Path]) -> None:
    rows = [
        ("1.2.1", "P1_a.dcm", "12 3 4 5", REPORT),
        ("1.2.1", "P1_b.dcm", "99 1", REPORT),
        ("1.2.2", "P2_a.dcm", "-1", "COMMENT:\nNo change.\n"),
        ("1.2.3", "P3_a.dcm", "-1", REPORT),
        ("1.2.3", "P4_a.dcm", "-1", REPORT),
        ("1.2.4", "P5_a.dcm", "-1", REPORT),
        ("", "P6_a.dcm", "-1", REPORT),
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("SOPInstanceUID", "filename", "EncodedPixels", "Report"))
    writer.writerows(rows)
    root = tree(
        {
            "Pneumothorax_reports.csv": text.getvalue(),
            "chest_tube.csv": "anon_SOPUID,annotation_ref,mask_rle\n1.2.2,x,1 2\n",
            "dataset/1.2.1": "",
            "dataset/1.2.2": "",
            "dataset/1.2.3": "",
        }
    )
    log = ConversionLog()
    first, second = read(root, log)
    assert (first.patient_id, first.indication) == ("P1", "Chest pain.")
    assert first.findings == "Small left pneumothorax."
    assert first.labels == {"Pneumothorax": 1.0, "Chest Tube": 0.0}
    assert second.labels == {"Pneumothorax": 0.0, "Chest Tube": 1.0}
    assert (second.findings, second.impression) == (None, "No change.")
    assert log.left_out == {
        "no SOPInstanceUID": ["Pneumothorax_reports.csv:30"],
        "image_of_two_patients": ["1.2.3"],
        "image_missing": ["1.2.4"],
    }
