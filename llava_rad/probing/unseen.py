"""That an encoder is not tested on what it was pretrained on."""

from collections.abc import Iterable
from pathlib import Path

from llava_rad.data import Study
from llava_rad.data.shared_patients import patients_of
from llava_rad.errors import DataError
from llava_rad.probing.examples import Examples
from llava_rad.wording import counted, verb


def require_unseen(
    examples: Examples, studies: Iterable[Study], files: Iterable[str], *, where: object = None
) -> None:
    """Refuse test examples whose file, or whose patient, was pretrained on.

    An encoder that has seen the test images without their labels is still better on them than on
    those of a new patient.

    Args:
        examples: of a task; only the test part counts.
        studies: pretrained on; a patient is known by id and data set, or one that
            holds the same patients.
        files: images pretrained on, of which no more is known.
        where: named in the error.

    Raises:
        DataError: naming the first of them.
    """
    seen_files = {Path(file).absolute() for file in files}
    seen_patients = set()
    for study in studies:
        seen_files.update(Path(image.path).absolute() for image in study.images)
        if study.source:
            seen_patients.add(_patient(study))
    seen = [
        example
        for example in examples.test
        if Path(example.path).absolute() in seen_files or _patient(example.study) in seen_patients
    ]
    if seen:
        raise DataError(
            f"{len(seen)} of {counted(len(examples.test), 'test image')} "
            f"{verb(len(seen), 'belongs', 'belong')} to what the encoder is pretrained "
            f"on (the first is {seen[0].path})",
            where=where,
            remedy="Pretrain on the training split alone",
            kind="test_seen",
        )


def _patient(study: Study) -> tuple[str | None, str]:
    # With several manifests, an example's patient has the data set's name before it.
    owner = patients_of(study.source)
    return owner, study.patient_id.removeprefix(f"{owner}:")
