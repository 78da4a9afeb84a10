"""The wrong images of each study, to see whether a model's text depends on the image.

A language model writes fluent findings whatever it is shown. So each study is also reported on with
all its pictures exchanged and every word of its context kept. ``other_patient``: the pictures of
another patient's study, in the same roles where it has them, each study used about once. ``noise``:
every gray from 0 to 255 equally likely in each pixel that the encoder sees. ``blank``: black. All
go through the model's own preprocessing. ``text_only``: the mean tokens of the training images,
where the model knows them (:mod:`llava_rad.evaluation.text_only`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llava_rad.data import Study, StudyImage
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.evaluation.baselines import other_patients
from llava_rad.evaluation.image_gain import (
    CONTROLS,
    ImageControl,
    control_markdown,
    control_to_json,
    measure_control,
)
from llava_rad.evaluation.primary import PRIMARY
from llava_rad.evaluation.split_reports import (
    SplitReports,
    WrittenReports,
    ignore_progress,
)
from llava_rad.evaluation.text_only import text_only
from llava_rad.images import Radiograph
from llava_rad.metrics import Scorer
from llava_rad.model import PromptTemplate, ReportModel, RequestImage
from llava_rad.outputs import write_result
from llava_rad.reports.request import StudyRequest, study_request
from llava_rad.reports.study import Failure, StudyReader, read_study


def control_reader(
    control: str, studies: Sequence[Study], template: PromptTemplate, *, seed: int = 0
) -> StudyReader:
    """What shows a model the wrong pictures of a study.

    Args:
        control: a name out of :data:`llava_rad.evaluation.CONTROLS`, but for ``text_only``.
        studies: all that will be read.
        template: of the model.
        seed: of the choice of other patients and of the noise.

    Raises:
        MetricError: another patient's image is wanted and all studies are of one patient.
    """
    if control == "other_patient":
        partners = partner_studies(studies, template, seed=seed)
        return lambda model, study: _of_partner(model, study, partners[study.study_id])
    draw = _noise if control == "noise" else _blank

    def read(model: ReportModel, study: Study) -> StudyRequest | Failure:
        own = read_study(model, study)
        if isinstance(own, Failure):
            return own
        preprocessing = model.processor.preprocessing
        side = preprocessing.shorter_side or preprocessing.image_size
        drawn = [
            replace(
                image,
                radiograph=Radiograph(
                    pixels=draw(side, f"{seed} {study.study_id} {image.role}"),
                    rendering=preprocessing.rendering,
                    view="unknown",
                    view_position=None,
                    laterality=None,
                    pixel_spacing=None,
                    photometric={},
                    warnings=(),
                    source=control,
                ),
            )
            for image in own.request.images
        ]
        return _shown(own, drawn, images=())

    return read


def partner_studies(
    studies: Sequence[Study], template: PromptTemplate, *, seed: int = 0
) -> dict[str, Study]:
    """For each study, by id, a study of another patient, with pictures in the same roles if any.

    Raises:
        MetricError: all studies are of one patient.
    """
    patients = np.array([study.patient_id for study in studies])
    chosen = other_patients(patients.tolist(), seed=seed)
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, study in enumerate(studies):
        alike.setdefault(_roles(study, template), []).append(i)
    for group in alike.values():
        if len(set(patients[group])) > 1:
            chosen[group] = np.array(group)[other_patients(patients[group].tolist(), seed=seed)]
    return {study.study_id: studies[i] for study, i in zip(studies, chosen, strict=True)}


def write_controls(
    split: SplitReports,
    *,
    seed: int = 0,
    progress: Callable[[str], None] = ignore_progress,
) -> dict[str, WrittenReports]:
    """Write the reports on wrong images into ``control_reports`` of the split's folder.

    All processes call this together.

    Args:
        split: the studies and the model.
        seed: of the choice of other patients and of the noise.
        progress: told now and then how many reports are done.

    Raises:
        MetricError: all studies are of one patient.
        DataError: a file is of another run or cannot be written.
    """
    template = split.model.processor.template
    blind = text_only(split.model)
    written = {}
    for control in CONTROLS:
        file = f"control_reports/{control}.jsonl"
        if control != "text_only":
            read = control_reader(control, split.studies, template, seed=seed)
            written[control] = split.write(
                file, read, variant=f"{control} {seed}", progress=progress
            )
        elif blind is not None:
            without = replace(split, model=blind)
            written[control] = without.write(file, variant=control, progress=progress)
    return written


def judge_controls(
    split: SplitReports,
    right: WrittenReports,
    wrong: Mapping[str, WrittenReports],
    scorer: Scorer,
    *,
    resamples: int,
    primary: str = PRIMARY,
    seed: int = 0,
    progress: Callable[[str], None] = ignore_progress,
) -> ImageControl:
    """Measure the gain from the right image, on the studies that have all their reports.

    Writes ``image_control.json``, ``image_control.jsonl`` (the texts, a study a line) and
    ``image_control.md`` (a section for the model card) into the split's folder.

    Args:
        split: the studies and the model.
        right: reports on the right images.
        wrong: from :func:`write_controls`.
        scorer: the metrics.
        resamples: of the intervals.
        primary: the value that the verdict rests on, as ``metric/value``.
        seed: of the resamples, and what :func:`write_controls` was given.
        progress: told what is being computed.

    Raises:
        DataError: no study has all its reports, or the folder cannot be written.
        MetricError: no metric, or not a required one, can be computed.
        WeightsError: weights are damaged, or a required metric's are missing.
    """
    written = {"right": right, **wrong}
    pairs = [
        (study, findings)
        for study, findings in zip(split.studies, split.selection.texts, strict=True)
        if all(study.study_id in reports.texts for reports in written.values())
    ]
    if not pairs:
        raise DataError(
            "no study has a report on the right and on all wrong images",
            remedy="Check the manifest's image paths",
            kind="no_report",
        )
    texts = {
        name: [reports.texts[study.study_id] for study, _ in pairs]
        for name, reports in written.items()
    }
    references = [findings for _, findings in pairs]
    result = measure_control(
        texts,
        references,
        scorer,
        patients=[study.patient_id for study, _ in pairs],
        primary=primary,
        languages=split.languages,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    facts = {**split.facts(right), "seed": seed, "not_compared": len(split.studies) - len(pairs)}
    summary = {**control_to_json(result), "generation": facts}
    partners = partner_studies(split.studies, split.model.processor.template, seed=seed)
    lines = [
        json.dumps(
            {
                "id": study.study_id,
                "other_patient_study": partners[study.study_id].study_id,
                "reference": references[i],
                **{name: some[i] for name, some in texts.items()},
            },
            ensure_ascii=False,
        )
        for i, (study, _) in enumerate(pairs)
    ]
    write_result(
        split.folder / "image_control.json",
        json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    )
    write_result(split.folder / "image_control.jsonl", "\n".join(lines) + "\n")
    write_result(split.folder / "image_control.md", control_markdown(result, facts))
    return result


def _roles(study: Study, template: PromptTemplate) -> tuple[str, ...]:
    try:
        return tuple(image.role for image in study_request(study, template).request.images)
    except LlavaRadError:
        return ()  # the model cannot be shown this study, which its own report will say


def _of_partner(model: ReportModel, study: Study, partner: Study) -> StudyRequest | Failure:
    own, other = read_study(model, study), read_study(model, partner)
    if isinstance(own, Failure):
        return own
    if isinstance(other, Failure):
        return Failure(study.study_id, other.error)
    theirs = {
        image.role: (image.radiograph, shown)
        for image, shown in zip(other.request.images, other.images, strict=True)
    }
    taken = [theirs.get(image.role, theirs["current_frontal"]) for image in own.request.images]
    return _shown(
        own,
        [
            replace(image, radiograph=radiograph)
            for image, (radiograph, _) in zip(own.request.images, taken, strict=True)
        ],
        images=tuple(shown for _, shown in taken),
    )


def _shown(
    own: StudyRequest, pictures: Sequence[RequestImage], images: tuple[StudyImage, ...]
) -> StudyRequest:
    return StudyRequest(replace(own.request, images=tuple(pictures)), images, warnings=())


def _noise(side: int, key: str) -> NDArray[np.uint8]:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def _blank(side: int, _: str) -> NDArray[np.uint8]:
    return np.zeros((side, side), dtype=np.uint8)
