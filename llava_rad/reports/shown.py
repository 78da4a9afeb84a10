"""What a model was shown of a study, kept with its report: a resumed run must show the same."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_rad.data import Study, StudyImage
from llava_rad.names import escape_name

# Texts up to this length are kept as they are, so that a refusal can quote both.
_SHORT = 60


def shown_of(study: Study) -> dict[str, Any]:
    """Texts and images of a study, as JSON holds them: long texts and images as fingerprints.

    Fields that are empty are left out. An image is ``[view, size, time of change in ns, CRC-32]``;
    one that cannot be read has its view alone.
    """
    texts = {
        "indication": study.indication,
        "technique": study.technique,
        "comparison": study.comparison,
        "prior report": study.prior.findings if study.prior else None,
    }
    shown: dict[str, Any] = {name: _text(text) for name, text in texts.items() if text}
    images = {escape_name(image.path): _image(image) for image in study.images}
    further = study.prior.images if study.prior else ()
    prior = {escape_name(image.path): _image(image) for image in further}
    return {**shown, "images": images, **({"prior images": prior} if prior else {})}


def changes(before: Mapping[str, Any], study: Study) -> list[str]:
    """What differs in a study from what was shown, with both values where they are short.

    An image whose time alone differs, as after a copy, is the same. Its content is read only then.
    """
    now = shown_of_names(study)
    found = []
    for name in sorted((before.keys() | now.keys()) - {"images", "prior images"}):
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            found.append(f"{name}: {_quoted(old)} in the file, {_quoted(new)} now")
    for kind, images in (
        ("images", study.images),
        ("prior images", study.prior.images if study.prior else ()),
    ):
        then: Mapping[str, Any] = before.get(kind, {})
        names = {escape_name(image.path): image for image in images}
        if then.keys() != names.keys():
            gone, come = sorted(then.keys() - names.keys()), sorted(names.keys() - then.keys())
            parts = [*(f"{path} is gone" for path in gone), *(f"{path} is new" for path in come)]
            found.append(f"{kind}: {', '.join(parts[:4])}{' ...' * (len(parts) > 4)}")
        for name in sorted(then.keys() & names.keys()):
            change = _image_change(then[name], names[name])
            found += [change] if change else []
    return found


def shown_of_names(study: Study) -> dict[str, Any]:
    """The texts of :func:`shown_of`, without looking at the images."""
    bare = Study(
        study_id=study.study_id,
        patient_id=study.patient_id,
        indication=study.indication,
        technique=study.technique,
        comparison=study.comparison,
        prior=study.prior,
    )
    return {k: v for k, v in shown_of(bare).items() if "images" not in k}


def _image_change(then: list[Any], image: StudyImage) -> str | None:
    view, *stamp = then
    if view != image.view:
        return f"{image.path}: view {view} in the file, {image.view} now"
    now = _stamp(image.path)
    if stamp[:2] == now:
        return None
    if not now:
        return f"{image.path}: cannot be read now"
    if not stamp:
        return f"{image.path}: could not be read then"
    if stamp[0] == now[0] and stamp[2] == _crc(image.path):
        return None
    if stamp[0] != now[0]:
        return f"{image.path}: {stamp[0]} bytes in the file, {now[0]} now"
    return f"{image.path}: the picture was replaced"


def _image(image: StudyImage) -> list[Any]:
    stamp = _stamp(image.path)
    return [image.view, *stamp, _crc(image.path)] if stamp else [image.view]


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (a text is what the caller has)
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns]


def _crc(path: str) -> str:
    total = 0
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                total = zlib.crc32(block, total)
    except OSError:
        return ""
    return f"{total:08x}"


def _text(text: str) -> str:
    if len(text) <= _SHORT:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{len(text)} characters, sha256 {digest[:12]}"


def _quoted(value: Any) -> str:
    return value if value == "none" else json.dumps(value, ensure_ascii=False)
