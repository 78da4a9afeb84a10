"""Only what a note says about the radiograph becomes findings."""

import csv
import re
from pathlib import Path

import pytest

from llava_rad.data.image_sentences import image_sentences


@pytest.mark.parametrize(
    ("note", "findings"),
    [
        # history before the description
        (
            "Fever and cough for ten days. Consolidation along the left costal margin.",
            "Consolidation along the left costal margin.",
        ),
        # structured notes: the imaging part alone
        (
            "Presentation: Cough and fever. . Imaging Notes: Heart size normal.  Lungs clear.. "
            "Discussion: Patchy consolidation is typical of pneumonia.",
            "Heart size normal. Lungs clear.",
        ),
        # what introduces the description goes
        (
            "A man of 50 was admitted. Chest X-ray on admission showed only a small opacity (arrow)"
            " in the right lung (Fig. 1). CT was done.",
            "A small opacity in the right lung.",
        ),
        ("Patient 2 - CXR: Normal", "Normal."),
        # a negation is never cut off
        (
            "Chest radiograph did not show abnormal pleural changes.",
            "Chest radiograph did not show abnormal pleural changes.",
        ),
        # CT and other examinations
        ("Ground-glass opacities were seen on CT.", None),
        (
            "The lungs are of normal volume. A body CT was performed. Small cysts in the lungs.",
            "The lungs are of normal volume.",
        ),
        ("Postmortem radiography showed bilateral opacities.", None),
        # teaching and conclusions about the disease
        ("Pneumonia is usually caused by typical organisms.", None),
        ("If left untreated, chest X-ray may progress to consolidation.", None),
        ("https://example.org/opacity", None),
        # said twice, kept once
        ("No pleural effusion. No pleural effusion.", "No pleural effusion."),
        ("", None),
        ("Fever and two days of odynophagia", None),
    ],
)
def test_what_is_kept(note: str, findings: str | None) -> None:
    assert image_sentences(note) == findings


def test_real_notes_yield_no_history_and_no_links(shared_data: Path) -> None:
    with (shared_data / "covid" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        notes = {row["notes"] for row in csv.DictReader(file)}
    kept = [text for text in map(image_sentences, sorted(notes)) if text]
    assert len(kept) > 0.8 * len(notes)
    told = re.compile(
        r"http|fever|cough|year-old|years old|PCR|admitted|discharge|smok|history|\bCT\b"
        r"|laborator|\bmale\b|\bfemale\b|Discussion|Presentation:|\(arrow|Fig",
        re.IGNORECASE,
    )
    assert [text for text in kept if told.search(text)] == []
    # Each kept sentence is the note's own words: nothing is added.
    for note in notes:
        words = set(re.findall(r"\w+", note.lower()))
        assert set(re.findall(r"\w+", (image_sentences(note) or "").lower())) <= words
