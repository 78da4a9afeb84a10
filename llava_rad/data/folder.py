"""A folder of images, with reports beside them as text files.

``x.png`` and ``x.txt`` make a study. A sub-folder with several images and one text file of
another name (``report.txt``) makes one study of all its images. An image without a text is a
study without findings. A first folder named train, validation (val, valid, dev) or test is the
split.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import parse_split
from llava_rad.data.image_files import find_images
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, parse_report, tidy
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.errors import DataError


def read(
    root: Path,
    log: ConversionLog,
    *,
    patient: str = "",
    language: str = "en",
    headers: bool = False,
) -> Iterator[Study]:
    """Read the folder.

    Args:
        root: the folder; it is searched with all its sub-folders.
        log: filled with what was left out or noted.
        patient: a regular expression that finds the patient in a study's path below the root (its
            first group, or all of it); without it each study is a patient of its own.
        language: ISO 639-1 code of the texts.
        headers: the texts have section headers; without it a text without headers is findings.
    """
    pattern = _pattern(patient)
    used_texts = set()
    for name, images, text_file in _studies(root):
        if text_file is None:
            sections = ReportSections(no_findings_reason="no_text_file")
        else:
            used_texts.add(text_file)
            sections = _read_report(text_file, headers)
        match = pattern.search(name) if pattern else None
        if pattern and match is None:
            log.leave_out("path_names_no_patient", name)
            continue
        fields, extra = text_fields(sections, name, log, keep_marks=True)
        yield Study(
            study_id=name,
            patient_id=(match[1] if match.re.groups else match[0]) if match else name,
            split=_split(name),
            images=tuple(StudyImage(str(image)) for image in images),
            **fields,
            source="folder",
            language=language,
            extra=extra,
        )
    for text_file in sorted(root.rglob("*.txt")):
        if text_file not in used_texts:
            log.leave_out("text_without_image", text_file.relative_to(root).as_posix())


def _pattern(patient: str) -> re.Pattern[str] | None:
    try:
        return re.compile(patient) if patient else None
    except re.error as error:
        raise DataError(
            f"patient={patient!r} is not a regular expression ({error})", kind="bad_option"
        ) from error


def _split(name: str) -> Split | None:
    """The split that the first folder names; a study directly in the root has none."""
    first, *rest = Path(name).parts
    try:
        return parse_split(first) if rest else None
    except DataError:  # a folder of any other name
        return None


def _studies(root: Path) -> Iterator[tuple[str, list[Path], Path | None]]:
    """(path below the root, images, text file) of each study."""
    by_folder: dict[Path, list[Path]] = {}
    for image in find_images(root):
        by_folder.setdefault(image.parent, []).append(image)
    for folder, images in by_folder.items():
        texts = {path.stem: path for path in sorted(folder.glob("*.txt"))}
        common = [path for stem, path in texts.items() if stem not in {i.stem for i in images}]
        if folder != root and len(common) == len(texts) == 1:
            yield folder.relative_to(root).as_posix(), images, common[0]
            continue
        stems = [image.stem for image in images]
        for image in images:
            # x.png and x.jpg in one folder: the ending tells them apart.
            name = image.with_suffix("") if stems.count(image.stem) == 1 else image
            yield name.relative_to(root).as_posix(), [image], texts.get(image.stem)


def _read_report(path: Path, headers: bool) -> ReportSections:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the text is not UTF-8 ({error})", where=path, kind="bad_text") from error
    sections = parse_report(text)
    if headers or sections.no_findings_reason != "no_findings_header":
        return sections
    return ReportSections(findings=tidy(text) or None)
