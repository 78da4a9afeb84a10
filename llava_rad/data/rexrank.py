"""ReXrank's test sets (IU X-ray, CheXpert Plus, MIMIC-CXR), and ReXGradient-160K, in their splits.

ReXrank's files (``ReXRank_IUXray_test.json``) are an object of studies by id: ``image_path`` (a
list), ``key_image_path`` (the frontal one, whatever its view), ``frontal_lateral`` (NaN, or too
short, where a view is not known), ``context``
(``Age:77.0.Gender:F.Indication: ... Comparison: ...``), ``section_findings``,
``section_impression``. ReXGradient's (``metadata/test_metadata_view_position.json``) have
``ImagePath``, ``ImageViewPosition``, ``Findings``, ``Impression``, ``Indication``, ``Comparison``.
The texts stay as they are, marks too: they are the leaderboard's references. Images are looked for
in the root and in its folders ``images``, ``PNG``, ``files`` and ``deid_png``.

The split is the row's, else the one in the file's name (train, valid, test), else test. The row
itself is kept in ``extra["rexrank"]``, for references and submissions that are the leaderboard's to
the letter.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    frontal_first,
    parse_age,
    parse_sex,
    parse_split,
)
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.errors import DataError, described, shown
from llava_rad.readers import is_missing, read_json
from llava_rad.views import view_of

#: The extra fact that holds a row, as JSON.
ROW = "rexrank"

_FINDINGS = ("section_findings", "findings", "Findings")
_IMPRESSION = ("section_impression", "impression", "Impression")
#: Every name that a row may have for its sections.
SECTIONS = (*_FINDINGS, *_IMPRESSION)
_PATHS = ("image_path", "ImagePath")
_VIEWS = ("frontal_lateral", "ImageViewPosition")
#: Folders of the root that may hold the images.
IMAGE_FOLDERS = ("", "images", "PNG", "files", "deid_png")
_REMEDY = "Give the folder with one of ReXrank's or ReXGradient's JSON files, or name it: -O file="
_CONTEXT = re.compile(
    r"(?:<context>)?\s*(?:Age:(?P<age>[^.]*(?:\.\d+)?)\.)?(?:Gender:(?P<sex>\w*)\.?)?\s*"
    r"(?:Indication:(?P<indication>.*?))?(?:Comparison:(?P<comparison>.*?))?\s*(?:</context>)?",
    re.DOTALL,
)


def read(root: Path, log: ConversionLog, *, file: str = "", images: str = "") -> Iterator[Study]:
    """Read one file of studies.

    Args:
        root: the folder with the file and the images.
        log: filled with what was left out or noted.
        file: the JSON file, in the root or elsewhere, where the root holds several.
        images: the folder of the images, where it is none of the usual ones.
    """
    path = _the_file(root, file)
    folders = [Path(images)] if images else [root / name for name in IMAGE_FOLDERS]
    split = _split_of(path.name)
    for study_id, row in read_rows(path).items():
        study = study_of(study_id, row, path, split, folders, log, source="rexrank")
        if study is not None:
            yield study


def study_of(
    study_id: str,
    row: Mapping[str, Any],
    path: Path,
    split: Split,
    folders: Sequence[Path],
    log: ConversionLog,
    *,
    source: str,
) -> Study | None:
    """The study of a row, or None where none of its images is there.

    Args:
        study_id: its id.
        row: of the file.
        path: the file, for messages.
        split: of the file; the row's own goes first.
        folders: where its images may lie.
        log: filled with what was left out or noted.
        source: the data set's name.

    Raises:
        DataError: images, views or split are none.
    """
    names = _listed(row, _PATHS, study_id, path)
    views = _listed(row, _VIEWS, study_id, path, gaps=True)
    key_image = row.get("key_image_path")
    names_and_views = [(name, views[i] if i < len(views) else "") for i, name in enumerate(names)]
    found = []
    for name, word in sorted(names_and_views, key=lambda pair: pair[0] != key_image):
        place = first_existing(*(folder / _relative(name) for folder in folders))
        if place is None:
            log.leave_out("image_missing", name)
        else:
            view = view_of(word)
            if view == "unknown" and name == key_image:
                view = "frontal"
            found.append(StudyImage(str(place), view, word or None))
    if not found:
        log.leave_out("no_image", study_id)
        return None
    findings, impression = (
        None if is_missing(text) else text
        for text in sections_of(row, f"{path}: study {shown(study_id)}")
    )
    context = _context(row)
    sections = ReportSections(
        findings=findings,
        impression=impression,
        indication=context.get("indication"),
        comparison=context.get("comparison"),
        no_findings_reason=None if findings else "findings_empty",
    )
    fields, extra = text_fields(sections, study_id, log, keep_marks=True)
    kept = {name: value for name, value in row.items() if name != "model_prediction"}
    own_split = row.get("split")
    return Study(
        study_id=study_id,
        patient_id=patient_of(study_id, row) or study_id,
        split=split if is_missing(own_split) else parse_split(str(own_split), path),
        images=frontal_first(found),
        **fields,
        sex=parse_sex(context.get("sex")),
        age=parse_age(context.get("age")),
        source=source,
        extra={**extra, ROW: json.dumps(_plain(kept), ensure_ascii=False)},
    )


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The studies of a file, by id.

    Raises:
        DataError: the file is not an object of objects, or names a study twice.
    """
    rows = read_json(path, expect=dict, remedy=_REMEDY, constants=("NaN",), unique_keys=True)
    for study_id, row in rows.items():
        if not isinstance(row, dict):
            raise DataError(
                f"study {shown(study_id)} is {shown(row)}, not an object",
                where=path,
                remedy=_REMEDY,
                kind="bad_row",
            )
    return rows


def sections_of(row: Mapping[str, Any], where: object = None) -> tuple[str | None, str | None]:
    """Findings and impression of a row as they are written.

    None where they are absent, null or NaN alone: the leaderboard takes every text as it is.

    Args:
        row: of a file.
        where: it stands, for the message.

    Raises:
        DataError: a section is no text.
    """
    found = []
    for names in (_FINDINGS, _IMPRESSION):
        given = {name: row[name] for name in names if name in row}
        value = next((v for v in given.values() if v is not None and v == v), None)
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"'{next(iter(given))}' should be one text, got {described(value)}",
                where=where,
                remedy="Give the section as one text, or null where there is none",
                kind="bad_row",
            )
        found.append(value)
    findings, impression = found
    return findings, impression


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    value = next((row[name] for name in names if not is_missing(row.get(name))), None)
    return None if value is None else str(value)


def _the_file(root: Path, file: str) -> Path:
    if file:
        found = first_existing(root / file, Path(file))
        found_files = [] if found is None else [found]
    else:
        places = ("*.json", "metadata/*view_position.json")
        found_files = sorted(path for place in places for path in root.glob(place))
    if len(found_files) != 1:
        several = ", ".join(path.name for path in found_files[:5])
        raise DataError(
            f"there are several JSON files: {several}"
            if several
            else "there is no JSON file of studies here",
            where=root,
            remedy=_REMEDY,
            kind="missing_table",
        )
    return found_files[0]


def _split_of(name: str) -> Split:
    words = re.findall(r"train|valid|val|test", name.lower())
    return parse_split(words[0]) or "test" if words else "test"


def _listed(
    row: Mapping[str, Any], names: tuple[str, ...], study_id: str, path: Path, *, gaps: bool = False
) -> list[str]:
    """The texts of a list; with ``gaps`` an empty one where the list says nothing."""
    value: Any = next((row[name] for name in names if not is_missing(row.get(name))), [])
    values = [value] if isinstance(value, str) else value
    if gaps and isinstance(values, list):
        values = ["" if is_missing(one) else one for one in values]
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise DataError(
            f"{names[0]} of study {shown(study_id)} is {shown(value)}",
            where=path,
            remedy="Give a list of texts",
            kind="bad_row",
        )
    return values


def _relative(name: str) -> str:
    """A path below the images' folder: files say ``/p10/...`` and ``../deid_png/...``."""
    return re.sub(r"^(?:\.\./)*(?:deid_png/)?/*", "", name)


def _context(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Age, sex, indication and comparison, of the row's own fields or of its ``context``."""
    text = row.get("context")
    match = _CONTEXT.fullmatch(text) if isinstance(text, str) else None
    found: dict[str, str | None] = match.groupdict() if match else {}
    for name, fields in (
        ("age", ("age", "PatientAge")),
        ("sex", ("sex", "PatientSex")),
        ("indication", ("Indication",)),
        ("comparison", ("Comparison",)),
    ):
        found[name] = _first(row, fields) or found.get(name)
    return {
        name: None if is_missing(value) else str(value).strip() for name, value in found.items()
    }


def patient_of(study_id: str, row: Mapping[str, Any]) -> str | None:
    """The patient: the row's, or the part of the id that CheXpert Plus and ReXGradient give."""
    named = _first(row, ("subject_id", "PatientID"))
    if named:
        return named
    match = re.fullmatch(r"(.+?)_(?:study\d+|s\d+.*)", study_id)
    if match:
        return match[1]
    return study_id.split("_")[0] if "ImagePath" in row else None


def _plain(value: Any) -> Any:
    """A value with None where JSON has no number."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
