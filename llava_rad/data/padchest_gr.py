"""PadChest-GR (Castro et al., 2024): single-finding sentences with boxes, English and Spanish.

Layout: ``grounded_reports_*.json``, a list of studies with ``StudyID``, ``ImageID``,
``PreviousStudyID``, ``PreviousImageID`` and ``findings``, each with ``sentence_en``,
``sentence_es``, ``abnormal``, ``boxes`` and ``extra_boxes`` (of a first and a second reader; left,
upper, right and lower edge in shares of the picture), ``labels``, ``locations``, ``progression``;
``master_table.csv`` with ``StudyID, PatientID, split`` and, where known, ``PatientAge`` and
``PatientSex_DICOM``; the images in ``Padchest_GR_files``, those of the studies before in
``PadChest_GR_progression_prior_studies``, or all in the root. The split is the official one.

A study's findings are its sentences, one after the other: a language model cut and translated the
Spanish reports, and radiologists checked them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_rad.boxes import Box
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing, parse_age, parse_sex, parse_split
from llava_rad.data.finding_box import FindingBox
from llava_rad.data.study import PriorStudy, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import ConfigError, DataError, shown
from llava_rad.readers import Row, is_missing, read_json

_READERS = (("boxes", "first"), ("extra_boxes", "second"))
_LANGUAGES = ("en", "es")
_FOLDERS = (
    "Padchest_GR_files",
    "Padchest_GR_files/PadChest_GR",
    "PadChest_GR_progression_prior_studies",
    "",
)


def read(root: Path, log: ConversionLog, *, language: str = "en") -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the table, the JSON file and the images.
        log: filled with what was left out or noted.
        language: of the sentences, ``en`` or ``es``.
    """
    if language not in _LANGUAGES:
        raise ConfigError(
            f"language is {shown(language)}", remedy="Use en or es", kind="bad_option"
        )
    files = sorted(root.glob("grounded_reports_*.json"))
    if not files:
        raise DataError(
            "there is no grounded_reports_*.json here",
            where=root,
            remedy="Give the folder that PadChest-GR was unpacked into",
            kind="missing_table",
        )
    rows: dict[str, Row] = {}
    columns = ("StudyID", "PatientID", "split")
    for line in read_table(root / "master_table.csv", columns, filled=columns[:2], log=log):
        rows.setdefault(line["StudyID"], line)
    for number, entry in enumerate(read_json(files[-1], expect=list), 1):
        where = f"{files[-1]}: study {number}"
        if not isinstance(entry, dict):
            raise _wrong(f"it is {shown(entry)}", where)
        study_id, image_id = _text(entry, "StudyID", where), _text(entry, "ImageID", where)
        row = rows.get(study_id)
        if row is None:
            log.leave_out("not_in_master_table", study_id)
            continue
        path = _image(root, image_id)
        if path is None:
            log.leave_out("image_missing", image_id)
            continue
        stated = _list(entry, "findings", where)
        findings = [_Finding(value, language, where, log) for value in stated]
        said = [finding for finding in findings if finding.sentence]
        if not said:
            log.note("no_text", study_id)
        boxes = tuple(box for finding in findings for box in finding.boxes)
        progression = sorted({finding.progression for finding in said if finding.progression})
        extra = {"progression": ", ".join(progression)} if progression else {}
        yield Study(
            study_id=study_id,
            patient_id=row["PatientID"],
            split=parse_split(row["split"], row.where),
            images=(StudyImage(str(path), "frontal", boxes=boxes),),
            prior=_prior(root, entry, where, log),
            findings=" ".join(finding.sentence for finding in said) or None,
            labels={label: 1.0 for f in findings if f.abnormal for label in f.labels},
            sex=parse_sex(row.get("PatientSex_DICOM")),
            age=parse_age(row.get("PatientAge")),
            source="padchest-gr",
            language=language,
            extra=extra if said else {**extra, "no_findings_reason": "no_text"},
        )


class _Finding:
    """One entry of a study's ``findings``."""

    def __init__(self, value: Any, language: str, where: str, log: ConversionLog) -> None:
        if not isinstance(value, dict):
            raise _wrong(f"a finding is {shown(value)}", where)
        sentence = " ".join((_text(value, f"sentence_{language}", where, needed=False)).split())
        if sentence and sentence[-1] not in ".!?":
            sentence += "."
        self.sentence = sentence
        self.abnormal = value.get("abnormal") is True
        labels = _list(value, "labels", where)
        self.labels = [str(label).strip() for label in labels if not is_missing(label)]
        self.progression = _text(value, "progression", where, needed=False)
        self.boxes: list[FindingBox] = []
        named = ", ".join(self.labels) or self.sentence
        for key, reader in _READERS:
            for edges in _list(value, key, where):
                try:
                    box = Box(*edges)
                except (DataError, TypeError):  # not four, or no edges of a box
                    log.leave_out("bad_box", where.rpartition("/")[2])
                    continue
                if named:
                    self.boxes.append(FindingBox(named, box, sentence, reader))


def _prior(root: Path, entry: dict[str, Any], where: str, log: ConversionLog) -> PriorStudy | None:
    study_id = _text(entry, "PreviousStudyID", where, needed=False)
    if not study_id:
        return None
    image_id = _text(entry, "PreviousImageID", where, needed=False)
    path = _image(root, image_id) if image_id else None
    if path is None:
        log.note("prior_image_missing", study_id)
        return PriorStudy(study_id)
    return PriorStudy(study_id, (StudyImage(str(path), "frontal"),))


def _image(root: Path, image_id: str) -> Path | None:
    return first_existing(*(root / folder / image_id for folder in _FOLDERS))


def _text(value: dict[str, Any], key: str, where: str, *, needed: bool = True) -> str:
    found = value.get(key)
    if found is None and not needed:
        return ""
    if not isinstance(found, str) or (needed and not found):
        raise _wrong(f"{key} is {shown(found)}", where)
    return found


def _list(value: dict[str, Any], key: str, where: str) -> list[Any]:
    found = value.get(key) or []
    if not isinstance(found, list):
        raise _wrong(f"{key} is {shown(found)}", where)
    return found


def _wrong(what: str, where: str) -> DataError:
    return DataError(what, where=where, remedy="Restore the file", kind="bad_row")
