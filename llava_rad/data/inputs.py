"""What a user names on the command line, as studies: files, folders, globs, manifests."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.dicom_studies import as_one_study, group_files, studies_of
from llava_rad.data.identifiers import Identifiers
from llava_rad.data.image_files import FoundImages, find_images, match_files, summarise
from llava_rad.data.manifest import FORMATS, load_manifest
from llava_rad.data.mask_rows import MaskRows
from llava_rad.data.study import Study
from llava_rad.errors import DataError
from llava_rad.names import escape_name


@dataclass(frozen=True)
class Unusable:
    """An input of which no study can be made.

    Attributes:
        given: the input.
        error: why.
    """

    given: str
    error: DataError


def expand_inputs(
    paths: Iterable[str | Path],
    *,
    identifiers: Identifiers | None = None,
    log: ConversionLog | None = None,
) -> list[Study]:
    """Turn inputs into studies.

    Args:
        paths: each is an image file of any name, a folder (searched with its sub-folders for
            image files, see :mod:`llava_rad.data.image_files`), a glob pattern, or a manifest
            (``.jsonl`` or ``.parquet``).
        identifiers: make the ids of DICOM studies. Without them a study's id is the path of its
            first file, and patients have names that hold within this call only.
        log: filled with what was passed over and noted.

    Returns:
        The studies, in the order of the inputs; folders and globs sorted by path. DICOM files of
        one Study Instance UID become one study with its views; any other image file becomes a
        study of its own whose study id is the path as it was given. What is named twice comes
        once.

    Raises:
        DataError: an input names no file, or two manifests hold different studies of one id.
    """

    def refuse(given: str, error: DataError) -> NoReturn:
        raise error

    found = _studies(paths, identifiers, log, refuse)
    return [study for study in found if isinstance(study, Study)]


def try_inputs(
    paths: Iterable[str | Path], *, log: ConversionLog | None = None
) -> list[Study | Unusable]:
    """As :func:`expand_inputs`, with an :class:`Unusable` in the place of what names no file.

    Raises:
        DataError: two manifests hold different studies of one id.
    """
    return _studies(paths, None, log, Unusable)


def _studies(
    paths: Iterable[str | Path],
    identifiers: Identifiers | None,
    log: ConversionLog | None,
    unusable: Callable[[str, DataError], Unusable],
) -> list[Study | Unusable]:
    log = log if log is not None else ConversionLog()
    files: list[str] = []
    listed: dict[str, tuple[str, Study]] = {}
    order: list[Study | str | Unusable] = []
    for given in paths:
        try:
            items = list(_expand(os.fspath(given), log))
        except DataError as error:
            order.append(unusable(os.fspath(given), error))
            continue
        order += items
        for found in items:
            if isinstance(found, str):
                files.append(found)
                continue
            known = listed.setdefault(found.study_id, (os.fspath(given), found))
            if known[1] != found:
                raise _two_studies(found.study_id, given)
    groups = group_files(_once(files))
    made = studies_of(groups, identifiers or Identifiers(), log, named_by_file=identifiers is None)
    starting = {group.files[0]: study for group, study in zip(groups, made, strict=True)}
    studies: dict[str, Study | Unusable] = {}
    for item in order:
        if isinstance(item, Unusable):
            studies.setdefault(item.given, item)
            continue
        study = starting.get(item) if isinstance(item, str) else item
        if study is not None and studies.setdefault(study.study_id, study) != study:
            raise _two_studies(study.study_id, item if isinstance(item, str) else study.study_id)
    return list(studies.values())


def expand_study(paths: Sequence[str | Path], *, log: ConversionLog | None = None) -> Study:
    """Turn inputs into one study.

    Args:
        paths: one input as :func:`expand_inputs` takes it, or image files that are the views of
            one study. What says nothing of its study, such as a PNG file, goes with the others.
        log: as for :func:`expand_inputs`.

    Raises:
        DataError: an input names no file, one input holds several studies (``several_studies``),
            or files state different studies or patients (``different_studies``).
    """
    studies = expand_inputs(paths, log=log)
    if len(studies) == 1:
        return studies[0]
    if len(paths) < 2:
        raise DataError(
            f"{len(studies)} studies are there, one was expected",
            where=paths[0] if paths else None,
            remedy="Use model.reports for a report each, or give the files of one study",
            kind="several_studies",
        )
    groups = group_files(expand_images(paths))
    whole = as_one_study(
        groups, remedy="Use model.reports for a report each; a Study may hold any images"
    )
    return studies_of([whole], Identifiers(), ConversionLog(), named_by_file=True)[0]


def files_of(studies: Iterable[Study], given: Iterable[str | Path] = ()) -> Iterator[str]:
    """All files that are read: what was named, and images, priors' images and masks."""
    for path in given:
        yield str(path)
    for study in studies:
        for image in (*study.images, *(study.prior.images if study.prior else ())):
            yield image.path
            for mask in image.masks.values():
                place = MaskRows.parse(mask)
                yield mask if place is None else place.table


def expand_images(paths: Iterable[str | Path], *, log: ConversionLog | None = None) -> list[str]:
    """The image files of inputs, one by one and each once, as :func:`expand_inputs` takes them."""
    log = log if log is not None else ConversionLog()
    files: list[str] = []
    for given in paths:
        for item in _expand(os.fspath(given), log):
            files += [item] if isinstance(item, str) else [image.path for image in item.images]
    return _once(files)


def _once(files: Iterable[str]) -> list[str]:
    seen: dict[str, str] = {}
    for file in files:
        seen.setdefault(str(Path(file).absolute()), file)
    return list(seen.values())


def _expand(given: str, log: ConversionLog) -> Iterator[Study | str]:
    if os.path.isdir(given):  # noqa: PTH112 (pathlib's raises for a path that is too long)
        yield from _images(find_images(given), given, log)
    elif os.path.isfile(given):  # noqa: PTH113
        if Path(given).suffix in FORMATS:
            yield from load_manifest(given)
        else:
            yield given
    elif glob.has_magic(given):
        yield from _matches(given, log)
    else:
        raise DataError(
            "there is no such file or folder",
            where=given,
            remedy="Check the path; a pattern with * must be quoted or match something",
            kind="no_input",
        )


def _matches(pattern: str, log: ConversionLog) -> Iterator[Study | str]:
    found = FoundImages()
    matches = match_files(pattern, found)
    if not matches and not found.passed_over:
        raise DataError("the pattern matches no file", where=pattern, kind="no_input")
    files = [match for match in matches if not Path(match).is_dir()]
    if matches and not files:  # "scans/*" may match only folders
        for match in matches:
            yield from _expand(match, log)
        return
    if pattern.endswith(FORMATS):
        for file in files:
            yield from load_manifest(file)
        return
    for file in files:
        found.add(file)
    yield from _images(found, pattern, log)


def _images(found: FoundImages, given: str, log: ConversionLog) -> list[str]:
    for reason, paths in found.passed_over.items():
        for path in paths:
            log.leave_out(reason, escape_name(path))
    if not found.images:
        said = summarise(found.passed_over)
        raise DataError(
            f"no image file is there{'; ' if said else ''}{'; '.join(said)}",
            where=given,
            remedy="Give DICOM, PNG, JPEG or TIFF files",
            kind="no_input",
        )
    return found.images


def _two_studies(study_id: str, given: object) -> DataError:
    return DataError(
        f"study id {study_id!r} stands for two different studies",
        where=given,
        remedy="Report on the inputs one after the other",
        kind="duplicate_study",
    )
