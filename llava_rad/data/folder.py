"""A folder of images, with reports beside them as text files.

DICOM files of one Study Instance UID are one study with its views
(:mod:`llava_rad.data.dicom_studies`); any other image is a study of its own. ``x.png`` and
``x.txt`` belong together. A folder with one text file of another name (``report.txt``) makes one
study of all its images, unless their headers say that they are several. An image without a text is
a study without findings. A first folder named train, validation (val, valid, dev) or test is the
split.

The ids of DICOM studies are keyed hashes of those in the headers
(:mod:`llava_rad.data.identifiers`), and dates only decide which study came before which. Paths stay
as they are.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.dicom_studies import ImageGroup, group_files, join, patient_name, study_names
from llava_rad.data.fields import parse_split
from llava_rad.data.identifiers import Identifiers
from llava_rad.data.image_files import find_images
from llava_rad.data.priors import add_priors
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, parse_report, tidy
from llava_rad.data.study import Split, Study
from llava_rad.errors import ConfigError, DataError
from llava_rad.names import escape_name
from llava_rad.readers import read_text

#: Noted of a study whose patient nobody names.
NO_PATIENT = "no_patient_id"


@dataclass(frozen=True)
class _Case:
    """Images that make a study, where they lie, and their texts."""

    group: ImageGroup
    name: str
    texts: tuple[Path, ...]


def read(
    root: Path,
    log: ConversionLog,
    identifiers: Identifiers | None = None,
    *,
    patient: str = "",
    language: str = "en",
    text_headers: bool = False,
) -> Iterator[Study]:
    """Read the folder.

    Args:
        root: the folder; it is searched with all its sub-folders.
        log: filled with what was passed over, left out or noted.
        identifiers: make the ids of DICOM studies; by default with a key of their own.
        patient: a regular expression that finds the patient in a study's path below the root (its
            first group, or all of it). Without it the patient is the one that the DICOM header
            names, and a study of which no header names one is a patient of its own
            (:data:`NO_PATIENT`).
        language: ISO 639-1 code of the texts.
        text_headers: the texts have section headers; without it a text without headers is
            findings.
    """
    identifiers = identifiers or Identifiers()
    pattern = _pattern(patient)
    cases = _cases(root, log)
    studies, times = [], {}
    names = study_names([case.group for case in cases], identifiers, log)
    for case, named in zip(cases, names, strict=True):
        study_id, group = named or case.name, case.group
        match = pattern.search(case.name) if pattern else None
        if pattern and match is None:
            log.leave_out("path_names_no_patient", case.name)
            continue
        splits = {_split(_below(root, file)) for file in group.files}
        if len(splits) > 1:
            log.leave_out("in_two_splits", study_id)
            continue
        sections = _report(case.texts, text_headers, root, log)
        fields, extra = text_fields(sections, study_id, log, keep_marks=True)
        if match:
            patient_id: str | None = match[1] if match.re.groups else match[0]
        else:
            patient_id = patient_name(group, identifiers)
        if patient_id is None:
            log.note(NO_PATIENT, study_id)
        if identifiers.keep and group.date is not None:
            extra["study_date"] = group.date
        studies.append(
            Study(
                study_id=study_id,
                patient_id=patient_id or study_id,
                split=splits.pop(),
                images=group.images,
                **fields,
                sex=group.sex,
                age=group.age,
                source="folder",
                language=language,
                extra=extra,
            )
        )
        if group.time is not None:
            times[study_id] = group.time
    yield from add_priors(studies, times, log)


def _pattern(patient: str) -> re.Pattern[str] | None:
    try:
        return re.compile(patient) if patient else None
    except re.error as error:
        raise ConfigError(
            f"patient={patient!r} is not a regular expression ({error})", kind="bad_option"
        ) from error


def _split(name: str) -> Split | None:
    """The split that the first folder names; a study directly in the root has none."""
    first, *rest = Path(name).parts
    try:
        return parse_split(first) if rest else None
    except DataError:  # a folder of any other name
        return None


def _below(root: Path, path: str | Path) -> str:
    return escape_name(Path(path).relative_to(root).as_posix())


def _stem(file: Path) -> str:
    """What a text about a file is called; the last number of a UID is no ending."""
    return file.stem if re.fullmatch(r"\.[A-Za-z]\w*", file.suffix) else file.name


def _cases(root: Path, log: ConversionLog) -> list[_Case]:
    found = find_images(root)
    used: set[Path] = set()
    groups, folder_texts = _with_folder_texts(root, group_files(found.images), log, used)
    stems = Counter((path.parent, _stem(path)) for path in map(Path, found.images))
    cases = []
    for group in groups:
        files = [Path(file) for file in group.files]
        texts = list(folder_texts.get(group, ()))
        texts += [t for file in files if (t := file.with_name(f"{_stem(file)}.txt")).is_file()]
        used.update(texts)
        if group in folder_texts:
            place = folder_texts[group][0].parent
        else:
            # x.png and x.jpg in one folder: the ending tells them apart.
            alone = stems[files[0].parent, _stem(files[0])] == 1
            place = files[0].with_name(_stem(files[0])) if alone else files[0]
        cases.append(_Case(group, _below(root, place), tuple(dict.fromkeys(texts))))
    for reason, paths in found.passed_over.items():
        for path in map(Path, paths):
            if reason != "companion" or path.suffix != ".txt":
                log.leave_out(reason, _below(root, path))
            elif path not in used:
                log.leave_out("text_without_image", _below(root, path))
    return cases


def _with_folder_texts(
    root: Path, groups: list[ImageGroup], log: ConversionLog, used: set[Path]
) -> tuple[list[ImageGroup], dict[ImageGroup, list[Path]]]:
    """Join the images of each folder that has one text for all of them.

    Returns:
        The groups in their order, and the texts of those that were joined so.
    """
    of_file = {file: group for group in groups for file in group.files}
    by_folder: dict[Path, list[str]] = {}
    for file in of_file:
        by_folder.setdefault(Path(file).parent, []).append(file)
    texts_of: dict[ImageGroup, list[Path]] = {}
    for folder, files in by_folder.items():
        texts = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
        if len(texts) != 1 or texts[0].stem in {_stem(Path(file)) for file in files}:
            continue
        members = list(dict.fromkeys(of_file[file] for file in files))
        stated = {group.study_uid for group in members} - {None}
        if len(stated) > 1:
            log.leave_out("text_of_several_studies", _below(root, texts[0]))
            used.add(texts[0])
            continue
        if folder == root and (len(members) > 1 or not stated):
            continue  # many unrelated images may lie there
        merged = members[0]
        if len(members) > 1:
            merged = join(pair for g in members for pair in zip(g.files, g.headers, strict=True))
        texts_of[merged] = [texts[0], *(t for g in members for t in texts_of.pop(g, []))]
        of_file.update(dict.fromkeys(merged.files, merged))
    return list(dict.fromkeys(of_file.values())), texts_of


def _report(
    texts: Sequence[Path], text_headers: bool, root: Path, log: ConversionLog
) -> ReportSections:
    """The sections of a study's text; of several texts that differ none is taken for the right."""
    contents: dict[str, None] = {}
    for path in texts:
        try:
            contents[read_text(path, failure="the text cannot be read")] = None
        except DataError:  # one bad file does not end the others
            log.leave_out("text_unreadable", _below(root, path))
            return ReportSections(no_findings_reason="text_unreadable")
    if len(contents) != 1:
        return ReportSections(no_findings_reason="several_texts" if contents else "no_text_file")
    (content,) = contents
    sections = parse_report(content)
    if text_headers or sections.no_findings_reason != "no_findings_header":
        return sections
    return ReportSections(findings=tidy(content) or None)
