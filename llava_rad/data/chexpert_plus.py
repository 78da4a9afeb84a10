"""CheXpert Plus (Chambon et al., 2024): images and reports.

``df_chexpert_plus_240401.csv`` has a row an image: ``path_to_image``
(``train/patient42142/study5/view1_frontal.jpg``), ``frontal_lateral``, ``ap_pa``,
``deid_patient_id``, ``patient_report_date_order``, ``report``, ``section_findings`` and further
sections, ``age``, ``sex``, ``split`` (train, valid). Labels come from ``report_fixed.json`` (JSON
lines with ``path_to_image`` and the 14 observations), where it lies in the root or in
``chexbert_labels``. Images are looked for as ``.jpg``, ``.png`` and ``.dcm`` in the root and in
``PNG`` and ``DICOM``.

All rows of one study folder make one study. Their reports may differ, because each image's copy
was anonymised on its own: the first in the order of paths is taken, and the study is noted.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from llava_rad.data.chexpert_labels import parse_chexpert_labels
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    frontal_first,
    parse_age,
    parse_number,
    parse_sex,
    parse_split,
)
from llava_rad.data.priors import add_priors
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, parse_report, with_given
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError
from llava_rad.readers import Row, read_json_lines
from llava_rad.views import view_of

_COLUMNS = (
    "path_to_image",
    "frontal_lateral",
    "deid_patient_id",
    "patient_report_date_order",
    "section_findings",
    "section_impression",
    "split",
)


def read(root: Path, log: ConversionLog, *, images: str = "") -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the table.
        log: filled with what was left out or noted.
        images: the folder that holds ``train`` and ``valid``, where it is none of the usual ones.
    """
    tables = sorted(root.glob("df_chexpert_plus*.csv"))
    if not tables:
        raise DataError(
            "there is no df_chexpert_plus*.csv here",
            where=root,
            remedy="Give the folder that CheXpert Plus was unpacked into",
            kind="missing_table",
        )
    folders = [Path(images)] if images else [root, root / "PNG", root / "DICOM"]
    labels = _labels(root)
    rows_of: dict[str, list[Row]] = {}
    filled = ("path_to_image", "deid_patient_id")
    for row in read_table(tables[-1], _COLUMNS, filled=filled, once="path_to_image", log=log):
        rows_of.setdefault(str(PurePosixPath(row["path_to_image"]).parent), []).append(row)

    studies = []
    order: dict[str, tuple[float, ...]] = {}
    for study_id, rows in rows_of.items():
        rows.sort(key=lambda row: row["path_to_image"])
        study_images = []
        for row in rows:
            path = _image_path(folders, row["path_to_image"])
            if path is None:
                log.leave_out("image_missing", row["path_to_image"])
                continue
            position = row.get("ap_pa") or row["frontal_lateral"]
            view = view_of(row["frontal_lateral"])
            study_images.append(StudyImage(str(path), view, position))
        if not study_images:
            log.leave_out("no_image", study_id)
            continue
        first = rows[0]
        if any(_texts(row) != _texts(first) for row in rows[1:]):
            log.note("report_versions_differ", study_id)
        fields, extra = text_fields(_sections(first), study_id, log)
        studies.append(
            Study(
                study_id=study_id,
                patient_id=first["deid_patient_id"],
                split=parse_split(first["split"], first.where),
                images=frontal_first(study_images),
                **fields,
                labels=labels.get(first["path_to_image"], {}),
                sex=parse_sex(first.get("sex")),
                age=parse_age(first.get("age")),
                source="chexpert-plus",
                extra=extra,
            )
        )
        place = parse_number(first["patient_report_date_order"])
        if place is None:
            log.note("no_date_order", study_id)
        else:
            order[study_id] = (place,)
    yield from add_priors(studies, order, log)


def _texts(row: Row) -> tuple[str, ...]:
    return row.get("report", ""), row["section_findings"], row["section_impression"]


def _sections(row: Row) -> ReportSections:
    """The table's own sections, completed by those of the whole report."""
    return with_given(
        parse_report(row.get("report", "")),
        {
            "indication": row.get("section_clinical_history") or row.get("section_history"),
            "technique": row.get("section_technique"),
            "comparison": row.get("section_comparison"),
            "findings": row["section_findings"],
            "impression": row["section_impression"],
        },
    )


def _image_path(folders: list[Path], name: str) -> Path | None:
    endings = (PurePosixPath(name).suffix, ".jpg", ".png", ".dcm")
    return first_existing(
        *((folder / name).with_suffix(ending) for folder in folders for ending in endings)
    )


def _labels(root: Path) -> dict[str, dict[str, float | None]]:
    path = first_existing(root / "report_fixed.json", root / "chexbert_labels/report_fixed.json")
    if path is None:
        return {}
    labels = {}
    for line, row in read_json_lines(path, constants=("NaN",)):
        image = row.get("path_to_image")
        if not isinstance(image, str):
            raise DataError(
                "a row of labels has no path_to_image", where=f"{path}:{line}", kind="bad_row"
            )
        labels[image] = parse_chexpert_labels(row)
    return labels
