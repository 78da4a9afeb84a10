"""Any table with a row an image (CSV, TSV, Parquet); the columns are named by options.

Rows with the same study id make one study with several images.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    frontal_first,
    is_file,
    parse_age,
    parse_number,
    parse_sex,
    parse_split,
)
from llava_rad.data.report_text import TEXT_FIELDS, text_fields
from llava_rad.data.sections import parse_report, with_given
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import ConfigError, DataError, shown
from llava_rad.readers import TABLE_ENDINGS, Row, read_columns
from llava_rad.views import view_of
from llava_rad.wording import counted, listed, nearest_name

_TRUTH = {"true": 1.0, "false": 0.0}


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
    only: str = "",
    extra: str = "",
    source: str = "",
    language: str = "en",
    keep_marks: bool = True,
) -> Iterator[Study]:
    """Read the table. A column of a default name may be missing, except the image's.

    Columns are found by their names, capitals aside.

    Args:
        root: the table, or a folder with exactly one.
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
        only: ``COLUMN=VALUE``, the rows to take; all of them by default.
        extra: columns to keep as further facts, with commas between.
        source: what the data set is called; the table's name by default.
        language: ISO 639-1 code of the texts.
        keep_marks: leave de-identification marks in the texts.
    """
    path = _table(root)
    defaults = {
        "study_id": study,
        "patient_id": patient,
        "split": split,
        "view": view,
        "report": report,
        "indication": indication,
        "technique": technique,
        "comparison": comparison,
        "findings": findings,
        "impression": impression,
        "sex": sex,
        "age": age,
    }
    there = read_columns(path)
    image = _column(there, image, path, log, option="image", needed=True)
    column = {
        default: _column(
            there, name, path, log, option=default.removesuffix("_id"), needed=name != default
        )
        for default, name in defaults.items()
    }
    label_columns, extra_columns = (
        {
            name: _column(there, name, path, log, option=option, needed=True)
            for name in map(str.strip, names.split(","))
            if name
        }
        for option, names in (("labels", labels), ("extra", extra))
    )
    chosen, equals, value = only.partition("=")
    if only and not equals:
        raise ConfigError(
            f"option only is {shown(only)}",
            remedy="Give a column and its value, such as only=source=nih",
            kind="bad_option",
        )
    chosen = _column(there, chosen, path, log, option="only", needed=bool(only))
    of_study = [*(name for key, name in column.items() if key != "view"), *label_columns.values()]
    of_study += extra_columns.values()
    compare = [*of_study, column["view"]]
    folder = Path(images) if images else path.parent
    rows_of: dict[str, list[Row]] = {}
    for row in read_table(path, filled=(image,), once=image, compare=compare, log=log):
        if only and row[chosen] != value:
            log.leave_out(f"not {only}", row[image])
        elif not is_file(folder / row[image]):
            log.leave_out("image_missing", row[image])
        else:
            rows_of.setdefault(row.get(column["study_id"]) or row[image], []).append(row)
    for study_id, rows in rows_of.items():
        first = rows[0]
        if any(row.get(name) != first.get(name) for row in rows for name in of_study):
            log.note("rows_of_study_disagree", study_id)
        if first.get(column["patient_id"]) == "":
            log.note("no_patient_id", study_id)
        given = {name: first.get(column[name]) for name in TEXT_FIELDS}
        sections = with_given(parse_report(first.get(column["report"]) or ""), given)
        fields, facts = text_fields(sections, study_id, log, keep_marks=keep_marks)
        yield Study(
            study_id=study_id,
            patient_id=first.get(column["patient_id"]) or study_id,
            split=parse_split(first.get(column["split"]), first.where),
            images=frontal_first(_image(folder, row, image, column["view"]) for row in rows),
            **fields,
            labels={
                name: _label(first[found], name, study_id, log)
                for name, found in label_columns.items()
            },
            sex=parse_sex(first.get(column["sex"])),
            age=parse_age(first.get(column["age"])),
            source=source or path.stem,
            language=language,
            extra=facts
            | {name: first[found] for name, found in extra_columns.items() if first[found]},
        )


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = sorted(path for path in root.iterdir() if path.name.lower().endswith(TABLE_ENDINGS))
    if len(tables) != 1:
        raise DataError(
            f"the folder holds {counted(len(tables), 'table')} ({', '.join(TABLE_ENDINGS)})",
            where=root,
            remedy="Give the file itself",
            kind="missing_table",
        )
    return tables[0]


def _column(
    there: list[str], name: str, path: Path, log: ConversionLog, *, option: str, needed: bool
) -> str:
    """The table's own name of a column, or an empty text where it may be missing and is."""
    if not name or name in there:
        return name
    alike = [found for found in there if found.casefold() == name.strip().casefold()]
    if len(alike) == 1:
        log.note(f"column {alike[0]!r} taken as {name!r}", path.name)
        return alike[0]
    if alike or needed:
        what = f"more than one column {name!r}, capitals aside" if alike else f"no column {name!r}"
        raise DataError(
            f"the table has {what}",
            where=path,
            remedy=f"{listed(there, 'column')}; name the right one with -O {option}="
            + (nearest_name(name, there) or "COLUMN")
            if there
            else "It has no columns: is the file empty?",
            kind="missing_column",
        )
    return ""


def _image(folder: Path, row: Row, image: str, view: str) -> StudyImage:
    position = row.get(view)
    return StudyImage(str(folder / row[image]), view_of(position), position)


def _label(cell: str, name: str, study_id: str, log: ConversionLog) -> float | None:
    if not cell:
        return None
    value = _TRUTH.get(cell.lower(), parse_number(cell))
    if value is None:
        log.note(f"label {name} is not a number", study_id)
    return value
