"""What a user names on the command line, as studies: files, folders, globs, manifests."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from llava_rad.data.image_files import find_images
from llava_rad.data.manifest import FORMATS, load_manifest
from llava_rad.data.study import Study, StudyImage
from llava_rad.errors import DataError


def expand_inputs(paths: Iterable[str | Path]) -> list[Study]:
    """Turn inputs into studies.

    Args:
        paths: each is an image file of any name, a folder (searched with its sub-folders for
            image files), a glob pattern, or a manifest (``.jsonl`` or ``.parquet``).

    Returns:
        The studies, in the order of the inputs; folders and globs sorted by path. An image file
        becomes a study of its own whose study id is the path as it was given. What is named
        twice comes once.

    Raises:
        DataError: an input names no file, or two manifests hold different studies of one id.
    """
    studies: dict[str, Study] = {}
    for given in paths:
        for study in _expand(str(given)):
            known = studies.setdefault(study.study_id, study)
            if known != study:
                raise DataError(
                    f"study id {study.study_id!r} stands for two different studies",
                    where=given,
                    remedy="Report on the inputs one after the other",
                    kind="duplicate_study",
                )
    return list(studies.values())


def files_of(studies: Iterable[Study], given: Iterable[str | Path] = ()) -> Iterator[str]:
    """All files that are read: what was named, and images, priors' images and masks."""
    for path in given:
        yield str(path)
    for study in studies:
        for image in (*study.images, *(study.prior.images if study.prior else ())):
            yield image.path
            if image.lung_mask:
                yield image.lung_mask


def _expand(given: str) -> Iterator[Study]:
    path = Path(given)
    if path.is_dir():
        found = list(find_images(path))
        if not found:
            raise DataError(
                "the folder holds no image file",
                where=given,
                remedy="Image files end in .dcm, .png, .jpg or .tif, or are DICOM without ending",
                kind="no_input",
            )
        yield from (_single_image(str(image)) for image in found)
    elif path.is_file():
        if path.suffix in FORMATS:
            yield from load_manifest(path)
        else:
            yield _single_image(given)
    elif glob.has_magic(given):
        matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 (pathlib's takes no absolute one)
        files = [match for match in matches if Path(match).is_file()]
        if not matches:
            raise DataError("the pattern matches no file", where=given, kind="no_input")
        # "folder/**" matches folders beside their files; "scans/*" may match only folders.
        for match in files or matches:
            yield from _expand(match)
    else:
        raise DataError(
            "there is no such file or folder",
            where=given,
            remedy="Check the path; a pattern with * must be quoted or match something",
            kind="no_input",
        )


def _single_image(name: str) -> Study:
    return Study(study_id=name, patient_id=name, images=(StudyImage(name),))
