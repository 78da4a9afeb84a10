"""Measure ``chexpert-rules`` against the MeSH codes that people gave to the Open-i reports.

    python eval/rules_labeler.py NLMCXR_reports.tgz

Open-i (Demner-Fushman et al., JAMIA 2016) publishes 3,955 reports, each coded by trained annotators
with MeSH terms and qualifiers. This program maps the codes to CheXpert observations, labels
findings and impression by the rules, and prints for each observation how far the two agree. Reports
without text and reports coded "No Indexing" are counted and left out.

How to read it: the rules were written with an eye on these reports, so the table is no held-out
test. The annotators coded what a report asserts and often left out what it only considers, which
is why both policies for uncertain mentions are shown; support devices are often de-identified
away in the text ("right chest XXXX") but coded.

The table goes to standard output.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from llava_rad.cli.command import program_app
from llava_rad.data import ConversionLog
from llava_rad.data.openi import read
from llava_rad.ending import program_ending
from llava_rad.errors import DataError
from llava_rad.evaluation.table import text_table
from llava_rad.metrics import label_f1, label_reports
from llava_rad.observations import OBSERVATIONS, Mention

# MeSH heading to observation, whatever the qualifiers.
HEADINGS = {
    "cardiomegaly": "Cardiomegaly",
    "airspace disease": "Lung Opacity",
    "infiltrate": "Lung Opacity",
    "opacity": "Lung Opacity",
    "nodule": "Lung Lesion",
    "mass": "Lung Lesion",
    "cavitation": "Lung Lesion",
    "pulmonary edema": "Edema",
    "pulmonary congestion": "Edema",
    "heart failure": "Edema",
    "consolidation": "Consolidation",
    "pneumonia": "Pneumonia",
    "pulmonary atelectasis": "Atelectasis",
    "pneumothorax": "Pneumothorax",
    "hydropneumothorax": "Pneumothorax",
    "hemopneumothorax": "Pneumothorax",
    "pleural effusion": "Pleural Effusion",
    "hemothorax": "Pleural Effusion",
    "pleura": "Pleural Other",
    "fractures, bone": "Fracture",
    "catheters, indwelling": "Support Devices",
    "implanted medical device": "Support Devices",
    "medical device": "Support Devices",
    "tube, inserted": "Support Devices",
    "stents": "Support Devices",
}
# MeSH heading with one of some qualifiers to observation.
QUALIFIED: tuple[tuple[str, set[str], str], ...] = (
    ("cardiac shadow", {"enlarged", "borderline"}, "Cardiomegaly"),
    ("heart", {"enlarged", "borderline"}, "Cardiomegaly"),
    ("heart ventricles", {"enlarged"}, "Cardiomegaly"),
    ("heart atria", {"enlarged"}, "Cardiomegaly"),
    ("mediastinum", {"enlarged", "prominent"}, "Enlarged Cardiomediastinum"),
    ("density", {"lung", "pulmonary"}, "Lung Opacity"),
    ("density", {"round"}, "Lung Lesion"),
    ("opacity", {"round"}, "Lung Lesion"),
    ("costophrenic angle", {"blunted"}, "Pleural Effusion"),
    ("hydropneumothorax", set(), "Pleural Effusion"),
    ("hemopneumothorax", set(), "Pleural Effusion"),
    ("thickening", {"pleura"}, "Pleural Other"),
    ("calcinosis", {"pleura"}, "Pleural Other"),
    ("cicatrix", {"pleura"}, "Pleural Other"),
)
NOT_CODED = "No Indexing"


def main(
    reports: Annotated[
        Path,
        typer.Argument(
            metavar="REPORTS", help="Open-i's NLMCXR_reports.tgz, or its unpacked folder."
        ),
    ],
) -> None:
    """Read, label, compare, print."""
    with program_ending():
        texts, coded, counts = _read(reports)
    result = label_f1("chexpert_rules", label_reports(texts), coded, facts={})
    values = result.values
    rows = []
    for name in OBSERVATIONS:
        counted, strict = (
            f"uncertain_{policy}/class/{name}" for policy in ("positive", "negative")
        )
        rows.append(
            [
                name,
                f"{values[f'{counted}/support']:.0f}",
                *(f"{values[f'{counted}/{m}']:.3f}" for m in ("precision", "recall", "f1")),
                *(f"{values[f'{strict}/{m}']:.3f}" for m in ("precision", "recall", "f1")),
            ]
        )
    for average in ("micro", "macro"):
        cells = [
            f"{values[f'uncertain_{policy}/14/{average}/{m}']:.3f}"
            for policy in ("positive", "negative")
            for m in ("precision", "recall", "f1")
        ]
        rows.append([f"{average} average", "", *cells])
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    print("uncertain mentions counted as positive (+) or as negative (-)\n")
    head = ["observation", "MeSH", "P +", "R +", "F1 +", "P -", "R -", "F1 -"]
    print(text_table(head, rows))


def observations_of(terms: str) -> set[str]:
    """CheXpert observations of MeSH codes such as ``Cardiomegaly/mild;Opacity/lung``."""
    found = set()
    for term in terms.lower().split(";"):
        heading, *qualifiers = (part.strip() for part in term.split("/"))
        if heading in HEADINGS:
            found.add(HEADINGS[heading])
        if heading == "markings" and "bronchovascular" not in qualifiers:
            # Crowded bronchovascular markings are a sign of low volumes, not an opacity.
            found.add("Lung Opacity")
        found |= {
            observation
            for name, wanted, observation in QUALIFIED
            if name == heading and (not wanted or wanted & set(qualifiers))
        }
    return found


def _read(reports: Path) -> tuple[list[str], np.ndarray, dict[str, int]]:
    """Texts, coded observations [reports, 14], and what became of the reports."""
    texts: list[str] = []
    coded: list[list[int]] = []
    counts = {"reports": 0, "without text": 0, "not coded": 0, "compared": 0}
    for study in read(reports, ConversionLog()):
        counts["reports"] += 1
        text = "\n\n".join(part for part in (study.findings, study.impression) if part)
        terms = study.extra.get("mesh", "")
        if not text:
            counts["without text"] += 1
        elif not terms or NOT_CODED in terms.split(";"):
            counts["not coded"] += 1
        else:
            found = observations_of(terms)
            if not found - {"Support Devices"}:
                found.add("No Finding")
            texts.append(text)
            coded.append(
                [Mention.POSITIVE if name in found else Mention.BLANK for name in OBSERVATIONS]
            )
            counts["compared"] += 1
    if not texts:
        raise DataError(
            "there are no coded reports with text",
            where=reports,
            remedy="Give Open-i's NLMCXR_reports.tgz or its unpacked folder",
            kind="no_reports",
        )
    return texts, np.array(coded), counts


app = program_app(main, __doc__, "eval/rules_labeler.py")

if __name__ == "__main__":
    app()
