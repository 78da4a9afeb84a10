"""Any CSV table with a row an image; the columns are named by options.

Rows with the same study id make one study with several images.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    frontal_first,
    parse_age,
    parse_sex,
    parse_split,
)
from llava_rad.data.report_text import TEXT_FIELDS, text_fields
from llava_rad.data.sections import parse_report, with_given
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError
from llava_rad.views import view_of


def read(
    root: Path,
    log: ConversionLog,
    *,
    image: str = "image",
    study: str = "study_id",
    patient: str = "patient_id",
    split: str = "split",
    view: str = "view",
    report: str = "report",
    indication: str = "indication",
    technique: str = "technique",
    comparison: str = "comparison",
    findings: str = "findings",
    impression: str = "impression",
    sex: str = "sex",
    age: str = "age",
    labels: str = "",
    images: str = "",
    language: str = "en",
    keep_marks: bool = True,
) -> Iterator[Study]:
    """Read the table. A column of a default name may be missing, except the image's.

    Args:
        root: the CSV file, or a folder with exactly one.
        log: filled with what was left out or noted.
        image: the column with the image's path.
        study: the column with the study's id; without it each image is a study of its own.
        patient: the column with the patient's id; without it each study is a patient of its own.
        split: the column with the split.
        view: the column with the view or view position.
        report: the column with whole reports, taken apart by their headers.
        indication: the column with this section; it wins over the report's. So do the next four.
        technique: see ``indication``.
        comparison: see ``indication``.
        findings: see ``indication``.
        impression: see ``indication``.
        sex: the column with the sex.
        age: the column with the age in years.
        labels: the label columns, with commas between.
        images: the folder that image paths start from; the table's own by default.
        language: ISO 639-1 code of the texts.
        keep_marks: leave de-identification marks in the texts.
    """
    path = _table(root)
    label_names = [name.strip() for name in labels.split(",") if name.strip()]
    defaults = {
        study: "study_id",
        patient: "patient_id",
        split: "split",
        view: "view",
        report: "report",
        indication: "indication",
        technique: "technique",
        comparison: "comparison",
        findings: "findings",
        impression: "impression",
        sex: "sex",
        age: "age",
    }
    asked = [column for column, default in defaults.items() if column and column != default]
    folder = Path(images) if images else path.parent
    rows_of: dict[str, list[dict]] = {}
    for row in read_table(path, (image, *asked, *label_names), filled=(image,), log=log):
        if not (folder / row[image]).is_file():
            log.leave_out("image_missing", row[image])
        else:
            rows_of.setdefault(row.get(study) or row[image], []).append(row)
    columns = (indication, technique, comparison, findings, impression)
    for study_id, rows in rows_of.items():
        first = rows[0]
        given = {name: first.get(column) for name, column in zip(TEXT_FIELDS, columns, strict=True)}
        sections = with_given(parse_report(first.get(report) or ""), given)
        fields, extra = text_fields(sections, study_id, log, keep_marks=keep_marks)
        yield Study(
            study_id=study_id,
            patient_id=first.get(patient) or study_id,
            split=parse_split(first.get(split)),
            images=frontal_first(
                StudyImage(str(folder / row[image]), view_of(row.get(view)), row.get(view))
                for row in rows
            ),
            **fields,
            labels={name: _label(first[name], name, study_id, log) for name in label_names},
            sex=parse_sex(first.get(sex)),
            age=parse_age(first.get(age)),
            source=path.stem,
            language=language,
            extra=extra,
        )


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise DataError(
            f"the folder holds {len(tables)} CSV files",
            where=root,
            remedy="Give the file itself",
            kind="missing_table",
        )
    return tables[0]


def _label(cell: str, name: str, study_id: str, log: ConversionLog) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        log.note(f"label {name} is not a number", study_id)
        return None
