"""Manifests: lists of studies on disk, as JSON lines or Parquet.

Both formats hold the same columns with the same types, so that either can be opened with
``datasets.load_dataset("json" or "parquet", data_files=...)``. An absent text is stored as an
empty string, because a column of nulls has no type; labels and extra facts are lists of
``{"name", "value"}``, because objects whose keys differ from row to row have none either. (Only
a JSON lines file whose first 10 MB hold no age, label or prior, while later rows do, needs
``features=llava_rad.data.features()`` there: datasets takes the types from these first rows.
Parquet stores them.)

Boxes of findings lie with their image, each ``{"finding", "sentence", "reader", "x_min", "y_min",
"x_max", "y_max"}``, the edges in shares of the picture's width and height, 0 to 1, from the upper
left corner. An image without boxes has no such key: a manifest without any is the same file, with
the same hash, as before there were boxes.

Image paths are text in UTF-8; a name that is none is stored as :mod:`llava_rad.names` says.

A manifest written by hand may leave out what it does not know, use null for an absent value and
give labels and extra facts as plain objects.
"""

import difflib
import hashlib
import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, KeysView
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rad.boxes import Box
from llava_rad.data.finding_box import FindingBox
from llava_rad.data.label_names import join_labels
from llava_rad.data.study import PriorStudy, Split, Study, StudyImage
from llava_rad.errors import DataError, shown
from llava_rad.files import write_atomically
from llava_rad.names import escape_name, unescape_name
from llava_rad.outputs import cannot_write, has_keys, make_parent
from llava_rad.readers import is_missing, read_json_lines, read_parquet

if TYPE_CHECKING:
    import datasets

FORMATS = (".jsonl", ".parquet")

_PARQUET_ROWS = 100_000  # of one row group

_TEXTS = (
    "study_id",
    "patient_id",
    "split",
    "indication",
    "technique",
    "comparison",
    "findings",
    "impression",
    "sex",
    "source",
    "language",
)


def load_manifest(
    path: str | Path, *, root: str | Path | None = None, split: Split | None = None
) -> list[Study]:
    """Read a manifest.

    Args:
        path: a ``.jsonl`` or ``.parquet`` file.
        root: the folder that relative image paths start from; the manifest's own by default.
        split: keep only this split. The checks still see the whole manifest.

    Returns:
        The studies in the file's order, image paths resolved.

    Raises:
        DataError: the file is absent, not a manifest, or one of its rows is wrong (the message
            names file, line and reason); a study id comes twice; a patient or an image is in two
            splits.
    """
    path = Path(path)
    base = path.parent if root is None else Path(root)
    studies = []
    for line, row in _rows(path):
        try:
            studies.append(_study(row, base))
        except DataError as error:
            raise _at_line(error, path, line) from error
    if not studies:
        raise DataError("the manifest holds no study", where=path, kind="empty_manifest")
    check_studies(studies, where=path)
    joined = join_labels(studies)
    if joined.spellings:
        warnings.warn(f"{path}: {joined.summary()}", stacklevel=2)
        studies = joined.studies
    if split is None:
        return studies
    chosen = [study for study in studies if study.split == split]
    if not chosen:
        there = sorted({study.split or "none" for study in studies})
        raise DataError(
            f"no study has split {split!r}",
            where=path,
            remedy=f"Choose one that is there: {', '.join(there)}",
            kind="empty_split",
        )
    return chosen


def save_manifest(
    studies: Iterable[Study], path: str | Path, *, root: str | Path | None = None
) -> str:
    """Write studies as a manifest; an existing file is replaced only by a complete one.

    Args:
        studies: the studies, in the order they are to be written in.
        path: a ``.jsonl`` or ``.parquet`` file; its folder is made if it is missing.
        root: image paths are written relative to this folder; the manifest's own by default.

    Returns:
        The manifest's hash, as :func:`hash_manifest` gives it.

    Raises:
        DataError: the ending is unknown, or :func:`check_studies` refuses the studies.
    """
    path = Path(path)
    _check_format(path)
    studies = list(studies)
    check_studies(studies, where=path)
    base = path.parent if root is None else Path(root)
    digest = hashlib.sha256()
    make_parent(path)
    try:
        with write_atomically(path) as temporary:
            write = _write_lines if path.suffix == ".jsonl" else _write_parquet
            write(_hashed((_row(study, base) for study in studies), digest), temporary)
    except OSError as error:
        raise cannot_write(path, error) from error
    return digest.hexdigest()


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest, as far as its first row or its columns tell."""
    if path.suffix != ".parquet":
        if not has_keys(path, "study_id", "patient_id", lines=True):
            return False
        with path.open("rb") as file:
            return set(json.loads(file.readline())) <= set(_STUDY_KEYS)
    import pyarrow
    import pyarrow.parquet

    try:
        return set(pyarrow.parquet.read_schema(path).names) == set(_STUDY_KEYS)
    except (pyarrow.ArrowInvalid, OSError):
        return False


def hash_manifest(path: str | Path) -> str:
    """The SHA-256 of a manifest's content, equal for JSON lines and Parquet of the same studies.

    Image paths count as they are written in the file, so a folder that moves as a whole keeps
    its hash. Defaults count as if they were written out.
    """
    path = Path(path)
    digest = hashlib.sha256()
    for line, row in _rows(path):
        try:
            digest.update(_canonical(_row(_study(row, None), None)).encode("utf-8"))
        except DataError as error:
            raise _at_line(error, path, line) from error
    return digest.hexdigest()


def as_dataset(studies: Iterable[Study]) -> "datasets.Dataset":
    """Studies as a ``datasets.Dataset`` with the columns and types of :func:`features`."""
    import datasets

    rows = [_row(study, None) for study in studies]
    return datasets.Dataset.from_list(rows, features=features())


def features() -> "datasets.Features":
    """The columns of a manifest and their types, the same for every manifest."""
    from datasets import Features

    return Features.from_arrow_schema(_schema())


def check_studies(studies: Iterable[Study], *, where: object = None) -> None:
    """Refuse a study id that comes twice, and a patient or an image that is in two splits.

    Raises:
        DataError: with ``kind`` ``"duplicate_study"``, ``"patient_overlap"`` or
            ``"image_overlap"``; the message names the ids.
    """
    seen: set[str] = set()
    patients: dict[str, set[str]] = {}
    images: dict[str, set[str]] = {}
    for study in studies:
        if study.study_id in seen:
            raise DataError(
                f"study id {study.study_id!r} comes twice",
                where=where,
                remedy="Give each study one row with all its images",
                kind="duplicate_study",
            )
        seen.add(study.study_id)
        split = study.split or "no split"
        patients.setdefault(study.patient_id, set()).add(split)
        for image in study.images:
            images.setdefault(image.path, set()).add(split)
    _refuse_overlap(patients, "patient", where)
    _refuse_overlap(images, "image", where)


def _refuse_overlap(splits_of: dict[str, set[str]], what: str, where: object) -> None:
    overlap = {name: splits for name, splits in splits_of.items() if len(splits) > 1}
    if overlap:
        examples = "; ".join(
            f"{name} in {' and '.join(sorted(splits))}"
            for name, splits in list(overlap.items())[:5]
        )
        raise DataError(
            f"{len(overlap)} {what}(s) are in more than one split ({examples})",
            where=where,
            remedy="Split by patient, so that nothing of a test patient is seen in training",
            kind=f"{what}_overlap",
        )


_STUDY_KEYS = tuple(f.name for f in fields(Study))
_IMAGE_KEYS = tuple(f.name for f in fields(StudyImage))
# Earlier manifests have one mask an image, under a key of its own.
_OLD_MASK = "lung_mask"
_OF_STUDY = dict.fromkeys(_STUDY_KEYS).keys()
_OF_IMAGE = dict.fromkeys((*_IMAGE_KEYS, _OLD_MASK)).keys()
_OF_PRIOR = dict.fromkeys(f.name for f in fields(PriorStudy)).keys()
_EDGES = tuple(f.name for f in fields(Box))
_OF_BOX = dict.fromkeys(("finding", "sentence", "reader", *_EDGES)).keys()
_OF_PAIR = dict.fromkeys(("name", "value")).keys()


def _check_format(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise DataError(
            f"a manifest cannot end in {path.suffix!r}",
            where=path,
            remedy=f"Name it with {' or '.join(FORMATS)}",
            kind="unknown_format",
        )


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line or row number from 1, decoded row)."""
    _check_format(path)
    try:
        there = path.is_file()
    except OSError:  # a name that the system cannot hold
        there = False
    if not there:
        raise DataError(
            "there is no such manifest",
            where=path,
            remedy="Make it with `llava-rad data NAME ROOT -o FILE`",
            kind="no_manifest",
        )
    if path.suffix == ".parquet":
        yield from read_parquet(path)
    else:
        # Python writes a missing value as NaN.
        yield from read_json_lines(path, constants=("NaN",))


def _study(row: Any, base: Path | None) -> Study:
    _check_keys(row, _OF_STUDY, "a row")
    values = {name: value for name, value in row.items() if not _is_missing(name, value)}
    for name in ("study_id", "patient_id"):
        if name not in values:
            remedy = "Give each study one; a study of an unknown patient may give its own id twice"
            raise DataError(f"{name!r} is missing", remedy=remedy, kind="missing_key")
    values["images"] = _images(values.get("images", ()), base)
    prior = values.pop("prior", None)
    if prior is not None:
        _check_keys(prior, _OF_PRIOR, "a prior")
        # Parquet readers give a struct of nulls for a prior that is not there.
        if not is_missing(prior.get("study_id")):
            findings = prior.get("findings")
            values["prior"] = PriorStudy(
                prior["study_id"],
                _images(prior.get("images") or (), base),
                None if is_missing(findings) else findings,
            )
    labels = _pairs(values.get("labels", ()), "labels")
    values["labels"] = {name: None if is_missing(v) else v for name, v in labels.items()}
    values["extra"] = _pairs(values.get("extra", ()), "extra")
    return Study(**values)


def _is_missing(name: str, value: Any) -> bool:
    # Radiologists write "None" where there is no earlier image.
    said = name == "comparison" and isinstance(value, str) and value.strip().lower() == "none"
    return is_missing(value) and not said


def _images(images: Any, base: Path | None) -> tuple[StudyImage, ...]:
    if not isinstance(images, list | tuple):
        raise DataError(
            f"images is {shown(images)}", remedy="Give a list of images", kind="bad_row"
        )
    found = []
    for image in images:
        _check_keys(image, _OF_IMAGE, "an image")
        values = {name: value for name, value in image.items() if not is_missing(value)}
        masks = _pairs(values.pop("masks", ()), "masks")
        if old := values.pop(_OLD_MASK, ""):
            masks = {"lungs": old, **masks}
        if "path" in values:
            values["path"] = _resolved(values["path"], "path", base)
        if masks:
            values["masks"] = {
                name: _resolved(file, f"the mask of {name}", base) for name, file in masks.items()
            }
        if "boxes" in values:
            values["boxes"] = _boxes(values["boxes"])
        found.append(StudyImage(**{"path": "", **values}))
    return tuple(found)


def _boxes(boxes: Any) -> tuple[FindingBox, ...]:
    if not isinstance(boxes, list | tuple):
        raise DataError(f"boxes is {shown(boxes)}", remedy="Give a list of boxes", kind="bad_row")
    found = []
    for box in boxes:
        _check_keys(box, _OF_BOX, "a box")
        values = {name: value for name, value in box.items() if not is_missing(value)}
        edges = Box(*(values.pop(name, None) for name in _EDGES))
        found.append(FindingBox(**{"finding": "", "box": edges, **values}))
    return tuple(found)


def _resolved(value: Any, name: str, base: Path | None) -> str:
    path = unescape_name(_path(value, name))
    # pathlib's way takes ten times as long.
    return path if base is None else os.path.normpath(os.path.join(base, path))  # noqa: PTH118


def _path(value: Any, name: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise DataError(
            f"{name} is {shown(value)}",
            remedy="Give a path as a text",
            kind="bad_path",
        )
    return value


def _pairs(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list | tuple):
        raise DataError(f"{name} is {shown(value)}", remedy="Give an object", kind="bad_row")
    pairs: dict[str, Any] = {}
    what = f"an entry of {name}"
    for pair in value:
        _check_keys(pair, _OF_PAIR, what)
        key = pair.get("name")
        if not isinstance(key, str):
            raise DataError(f"{what} has no name", kind="bad_row")
        # All studies share the few names there are.
        pairs[sys.intern(key)] = pair.get("value")
    return pairs


def _check_keys(row: Any, known: KeysView[str], what: str) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{what} is {shown(row)}", remedy="Give an object", kind="bad_row")
    if row.keys() <= known:
        return
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
            remedy = f"Did you mean {near[0]!r}" if near else f"Known keys: {', '.join(known)}"
            raise DataError(
                f"{what} has an unknown key {shown(key)}", remedy=remedy, kind="unknown_key"
            )


def _at_line(error: DataError, path: Path, line: int) -> DataError:
    what = f"{error.where}: {error.what}" if error.where else error.what
    return DataError(what, where=f"{path}:{line}", remedy=error.remedy, kind=error.kind)


def _row(study: Study, base: Path | None) -> dict[str, Any]:
    """One study as the columns of :func:`features`; image paths relative to ``base``."""
    row: dict[str, Any] = {name: getattr(study, name) or "" for name in _TEXTS}
    row["images"] = _image_rows(study.images, base)
    row["prior"] = None
    if study.prior is not None:
        row["prior"] = {
            "study_id": study.prior.study_id,
            "images": _image_rows(study.prior.images, base),
            "findings": study.prior.findings or "",
        }
    row["labels"] = [{"name": name, "value": value} for name, value in study.labels.items()]
    row["age"] = study.age
    row["extra"] = [{"name": name, "value": value} for name, value in study.extra.items()]
    return {name: row[name] for name in _STUDY_KEYS}


def _image_rows(images: tuple[StudyImage, ...], base: Path | None) -> list[dict[str, Any]]:
    return [
        {
            "path": _relative(image.path, base),
            "view": image.view,
            "view_position": image.view_position or "",
            "masks": [
                {"name": name, "value": _relative(file, base)} for name, file in image.masks.items()
            ],
            **({"boxes": [_box_row(box) for box in image.boxes]} if image.boxes else {}),
        }
        for image in images
    ]


def _box_row(box: FindingBox) -> dict[str, Any]:
    texts = {"finding": box.finding, "sentence": box.sentence or "", "reader": box.reader or ""}
    return {**texts, **asdict(box.box)}


def _relative(path: str, base: Path | None) -> str:
    if base is None:
        return escape_name(path)
    try:
        return escape_name(Path(os.path.relpath(path, base)).as_posix())
    except ValueError:  # on another Windows drive
        return escape_name(str(Path(path).absolute()))


def _schema() -> Any:
    """The columns and their types, of pyarrow."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()

    def pairs(of: Any) -> Any:
        return pyarrow.list_(pyarrow.struct({"name": text, "value": of}))

    of_box = dict.fromkeys(_OF_BOX, text) | dict.fromkeys(_EDGES, number)
    boxes = pyarrow.list_(pyarrow.struct(of_box))
    of_image = dict.fromkeys(_IMAGE_KEYS, text) | {"masks": pairs(text), "boxes": boxes}
    images = pyarrow.list_(pyarrow.struct(of_image))
    prior = pyarrow.struct({"study_id": text, "images": images, "findings": text})
    columns = dict.fromkeys(_TEXTS, text) | {"images": images, "prior": prior, "age": number}
    columns |= {"labels": pairs(number), "extra": pairs(text)}
    return pyarrow.schema({name: columns[name] for name in _STUDY_KEYS})


def _hashed(rows: Iterable[dict[str, Any]], digest: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row with its line, which goes into the digest."""
    for row in rows:
        line = _canonical(row)
        digest.update(line.encode("utf-8"))
        yield row, line


def _write_lines(rows: Iterable[tuple[dict[str, Any], str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line for _, line in rows)


def _write_parquet(rows: Iterable[tuple[dict[str, Any], str]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = _schema()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while group := [row for row, _ in itertools.islice(rows, _PARQUET_ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


# Made once: an encoder takes longer to make than a row to write.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _canonical(row: dict[str, Any]) -> str:
    """A row as its line of a JSON lines file."""
    return f"{_ENCODER.encode(row)}\n"
