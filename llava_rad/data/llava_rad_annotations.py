"""The LLaVA-Rad MIMIC-CXR annotations (Zambrano Chaves et al., 2025): one JSON file a split.

A file is a list of rows with ``id`` (``<subject>_<study>``), ``image`` (below MIMIC-CXR-JPG's
``files``, with ``mimic/`` before it), ``view``, ``reason``, ``generate_method`` (``gpt4`` or
``rule-based``: who took the findings out of the report), ``impression``, ``chexpert_labels`` and
``conversations``, whose second value is the findings text.

As in that project, training and validation take all rows of a frontal view (AP, PA) with findings
text, by either method; the test split only those marked rule-based. A row is a study of its own,
since one image has up to two texts. :func:`prompt` words the question as that project does.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_rad.data.chexpert_labels import parse_chexpert_labels
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import is_file, parse_split
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.errors import DataError
from llava_rad.readers import is_missing, read_json

FRONTAL_VIEWS = ("AP", "PA")
TEST_METHOD = "rule-based"
_QUESTION = "Provide a description of the findings in the radiology image"


def prompt(indication: str | None) -> str:
    """The question LLaVA-Rad was trained with, without the image token and its line break."""
    if indication is None:
        return f"{_QUESTION}."
    return f"{_QUESTION} given the following indication: " + indication.replace("\n", " ")


def read(root: Path, log: ConversionLog, *, images: str = "", split: str = "") -> Iterator[Study]:
    """Read the annotations.

    Args:
        root: one JSON file, or the folder with those of all splits. A file's split is the word
            train, dev, val, valid, validation or test in its name.
        log: filled with what was left out or noted.
        images: MIMIC-CXR-JPG's ``files`` folder; by default ``files`` beside the annotations.
        split: the split of a single file whose name does not tell it.
    """
    folder = root if root.is_dir() else root.parent
    image_folder = Path(images) if images else folder / "files"
    files = sorted(root.glob("*.json")) if root.is_dir() else [root]
    if not files:
        raise DataError(
            "there is no annotation file (*.json) here",
            where=root,
            remedy="Give the folder of the LLaVA-Rad MIMIC-CXR annotations",
            kind="missing_table",
        )
    for path in files:
        yield from _read_file(path, parse_split(split) or _split_of(path), image_folder, log)


def _read_file(path: Path, split: Split, images: Path, log: ConversionLog) -> Iterator[Study]:
    remedy = "Give the LLaVA-Rad MIMIC-CXR annotations: a list of objects"
    for place, row in enumerate(read_json(path, expect=list, remedy=remedy, constants=("NaN",))):
        row_id = f"{path.name}[{place}]"
        try:
            image = str(row["image"]).removeprefix("mimic/")
            findings = row["conversations"][1]["value"]
            method, view, patient = row["generate_method"], row["view"], row["id"].split("_")[0]
            indication = None if is_missing(row["reason"]) else row["reason"]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            log.leave_out(f"row lacks {error}", row_id)
            continue
        if not all(isinstance(text, str) for text in (method, patient, indication or "")):
            log.leave_out("row has a value of the wrong type", row_id)
            continue
        study_id = f"{row['id']}/{Path(image).stem}/{method}"
        if split == "test" and method != TEST_METHOD:
            log.leave_out("test_row_not_rule_based", study_id)
        elif not isinstance(findings, str) or is_missing(findings):
            log.leave_out("no_findings", study_id)
        elif view not in FRONTAL_VIEWS:
            log.leave_out("not_frontal", study_id)
        elif not is_file(images / image):
            log.leave_out("image_missing", study_id)
        else:
            yield Study(
                study_id=study_id,
                patient_id=f"p{patient}",
                split=split,
                images=(StudyImage(str(images / image), "frontal", view),),
                indication=indication,
                findings=findings,
                impression=None if is_missing(row.get("impression")) else row["impression"],
                labels=parse_chexpert_labels(_labels(row)),
                source="llava-rad",
                extra={"generate_method": method, "prompt": prompt(indication)},
            )


def _split_of(path: Path) -> Split:
    for word in path.stem.split("_"):
        with suppress(DataError):
            split = parse_split(word)
            if split is not None:
                return split
    raise DataError(
        "the file's name does not tell its split",
        where=path,
        remedy="Give the file alone, with split=train, validation or test",
        kind="unknown_split",
    )


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    labels = row.get("chexpert_labels")
    return labels if isinstance(labels, dict) else {}
