"""Reports on one split of a manifest: shared by the processes of a run, resumable, compared later.

``torchrun`` (or ``accelerate launch``) starts the processes. Studies are decoded in batches that
depend on the manifest alone, and whole batches are handed out, so that the texts are those of a
single process; the main process alone writes.
"""

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list

from llava_rad.boxes import Box
from llava_rad.data import SECTIONS, Section, Study, TargetSelection, load_manifest, select_targets
from llava_rad.data.manifest import hash_manifest
from llava_rad.data.study import Split
from llava_rad.devices import pick_dtype
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.evaluation.boxes import (
    SaidBoxes,
    boxes_of_report,
    boxes_of_study,
    boxes_to_json,
)
from llava_rad.model import ReportModel, load
from llava_rad.model.llm import Quantization
from llava_rad.observations import OBSERVATIONS
from llava_rad.outputs import write_result
from llava_rad.processes import process_state, share_jobs
from llava_rad.readers import read_json_lines
from llava_rad.reports.file import Remembering, ReportFile, run_facts, run_id
from llava_rad.reports.generate import GenerationSettings
from llava_rad.reports.report import Report
from llava_rad.reports.study import READERS, Failure, StudyReader, read_study, report_studies
from llava_rad.wording import counted, verb

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_PROGRESS_SECONDS = 10.0

#: What became of a study, and what it showed.
_Result = tuple[Report | Failure, Mapping[str, Any] | None]


def ignore_progress(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class WrittenReports:
    """What is in a file of reports after a run.

    Attributes:
        texts: the findings by study id; in the main process alone, empty in the others.
        truncated: reports that were cut off at the longest length.
        repetitive: reports that go on repeating a phrase.
        empty: reports without text; they are scored as they are.
        failures: studies without a report.
        boxes: of the findings by study id, of a model that writes boxes.
    """

    texts: dict[str, str]
    truncated: int
    repetitive: int
    empty: int
    failures: tuple[Failure, ...]
    boxes: dict[str, SaidBoxes] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitReports:
    """A model, the studies of a split that have findings, and the folder for the reports.

    Attributes:
        model: writes the reports.
        selection: the studies, their findings, and the studies without findings.
        training: findings of the manifest's training studies by id, where another split is judged.
        manifest: its file's name.
        manifest_hash: hash of the manifest's content.
        split: the split's name, or ``all``.
        settings: of the decoding.
        precision: number format of the weights, and how the LLM is quantised, if it is.
        folder: where files of reports go.
        batch_size: studies decoded together.
        section: of the reports that the model's are compared with.
        trained: the settings that chose the texts the model was trained on, where it says so.
        training_boxes: boxes of the manifest's training studies, where another split is judged.
    """

    model: ReportModel
    selection: TargetSelection
    training: dict[str, str]
    manifest: str
    manifest_hash: str
    split: str
    settings: GenerationSettings
    precision: str
    folder: Path
    batch_size: int
    section: Section = "findings"
    trained: Mapping[str, Any] = field(default_factory=dict)
    training_boxes: tuple[Box, ...] = ()

    @property
    def studies(self) -> list[Study]:
        """The studies that have findings, in the manifest's order."""
        return self.selection.studies

    @property
    def languages(self) -> list[str]:
        """The languages of the findings."""
        return sorted({study.language for study in self.studies})

    def write(
        self,
        name: str,
        read: StudyReader = read_study,
        *,
        variant: str = "",
        progress: Callable[[str], None] = ignore_progress,
    ) -> WrittenReports:
        """Write one report a study into ``folder/name``; what an earlier run wrote is kept.

        All processes call this together.

        Args:
            name: of the file of JSON lines.
            read: how a study becomes what the model is shown.
            variant: says what ``read`` does; reports of another variant are not gone on with.
            progress: told now and then how many are done, in the main process alone.

        Raises:
            DataError: the file is of another run or cannot be written, or no study has a report.
        """
        state = process_state()
        file, done = self._open(self.folder / name, variant)
        shown = Remembering(read)
        batches = [
            self.studies[i : i + self.batch_size]
            for i in range(0, len(self.studies), self.batch_size)
        ]
        # A batch that was cut off is decoded whole again, in the company it always has.
        todo = [b for b in batches if not done.issuperset(study.study_id for study in b)]

        mine = todo[state.process_index :: state.num_processes]
        results_of_mine = report_studies(
            self.model,
            itertools.chain.from_iterable(mine),
            self.settings,
            batch_size=self.batch_size,
            workers=READERS,
            read=shown,
        )

        def decode(batch: Sequence[Study]) -> list[_Result] | LlavaRadError:
            """The results of the next batch of this process; the one after it is read meanwhile."""
            try:
                reports = itertools.islice(results_of_mine, len(batch))
                return [(result, shown.take(result.study_id)) for result in reports]
            except LlavaRadError as error:
                return error

        failures: list[Failure] = []
        count, said = len(done), time.monotonic()
        with file or contextlib.nullcontext(), contextlib.closing(results_of_mine):
            for start in range(0, len(todo), state.num_processes):
                for results in share_jobs(decode, todo[start : start + state.num_processes]):
                    if isinstance(results, LlavaRadError):
                        raise results
                    failures += [r for r, _ in results if isinstance(r, Failure)]
                    for report, of_study in results:
                        if isinstance(report, Report) and report.study_id not in done:
                            count += 1
                            if file is not None:
                                file.write(report, of_study)
                if file is not None and time.monotonic() - said > _PROGRESS_SECONDS:
                    said = time.monotonic()
                    progress(f"{name}: {count} of {counted(len(self.studies), 'report')}")
        if count == 0:
            raise DataError(
                f"no study has a report; the first failed with: {failures[0].error}",
                remedy="Check the manifest's images and the model",
                kind="no_report",
            )
        if file is None:
            return WrittenReports({}, 0, 0, 0, tuple(failures))
        progress(f"{name}: {count} of {counted(len(self.studies), 'report')}")
        rows = [row for _, row in read_json_lines(file.path)]
        return WrittenReports(
            texts={row["study_id"]: row["findings"] for row in rows},
            truncated=sum(row["truncated"] for row in rows),
            repetitive=sum(row["repetitive"] for row in rows),
            empty=sum(not row["findings"] for row in rows),
            failures=tuple(failures),
            boxes={row["study_id"]: boxes_of_report(row) for row in rows if row.get("grounding")},
        )

    def _open(self, path: Path, variant: str) -> tuple[ReportFile | None, set[str]]:
        """The file in the main process, and what is in it already in all of them."""
        parts = [
            run_id(self.model, self.settings, precision=self.precision),
            self.manifest_hash,
            self.split,
            variant,
        ]
        run = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        file: ReportFile | None = None
        answer: list[Any] = [set(), None]
        if process_state().is_main_process:
            try:
                made_with = run_facts(self.model, self.settings, precision=self.precision)
                made_with |= {"manifest": self.manifest_hash[:12], "split": self.split}
                made_with |= {"pictures": variant} if variant else {}
                file = ReportFile(path, run, made_with=made_with, studies=self.studies)
                answer[0] = set(file.done)
            except LlavaRadError as error:
                answer[1] = error
        broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return file, answer[0]

    def facts(self, written: WrittenReports) -> dict[str, Any]:
        """What the reports depend on and how they came out, for JSON."""
        return {
            "model": self.model.config.name,
            "model_sha256": self.model.folder_hash,
            "settings": self.settings.to_dict(),
            "precision": self.precision,
            "manifest": self.manifest,
            "manifest_sha256": self.manifest_hash,
            "split": self.split,
            "section": self.section,
            "model_section": self.trained.get("section"),
            "studies": len(self.studies),
            "left_out": {reason: len(ids) for reason, ids in self.selection.left_out.items()},
            "failed": [failure.study_id for failure in written.failures],
            "truncated": written.truncated,
            "repetitive": written.repetitive,
            "empty": written.empty,
        }

    def notes(self, written: WrittenReports) -> tuple[str, ...]:
        """What a reader of the scores must know about studies that are not among them."""
        notes = []
        own = self.trained.get("section", self.section)
        if own != self.section:
            notes.append(
                f"the model was trained to write {_spoken(own)}, and is compared with "
                f"{_spoken(self.section)}"
            )
        if self.trained.get("drop_prior_comparisons"):
            notes.append(
                "the model was trained on texts without sentences that compare with an earlier "
                "image; the references have theirs"
            )
        if self.selection.left_out:
            notes.append(f"studies: {self.selection.summary()}")
        if written.failures:
            lost, total = len(written.failures), counted(len(self.studies), "study", "studies")
            notes.append(
                f"{lost} of {total} {verb(lost, 'has', 'have')} no report and {verb(lost)} not "
                "scored, because pictures could not be read or nothing could be written"
            )
        for count, does, what in (
            (written.truncated, ("was", "were"), "cut off at the longest length"),
            (written.repetitive, ("goes", "go"), "on repeating a phrase"),
            (written.empty, ("is", "are"), "empty, and scored as such"),
        ):
            if count:
                total = counted(len(written.texts), "report")
                notes.append(f"{count} of {total} {verb(count, *does)} {what}")
        return tuple(notes)

    def write_predictions(self, path: Path, written: WrittenReports) -> None:
        """Write reports beside the findings, as ``eval/findings.py`` reads them.

        Raises:
            DataError: the file cannot be written.
        """
        lines = [
            json.dumps(
                {
                    **_prediction(study, text, written.texts[study.study_id], path.parent),
                    **_boxes(study, written.boxes.get(study.study_id, ())),
                    "section": self.section,
                }
            )
            for study, text in zip(self.studies, self.selection.texts, strict=True)
            if study.study_id in written.texts
        ]
        write_result(path, "\n".join(lines) + "\n")


def open_split(
    model: str,
    manifest: Path,
    folder: Path,
    *,
    split: Split | Literal["all"] = "test",
    section: Section | None = None,
    headed: bool = False,
    settings: GenerationSettings | None = None,
    batch_size: int = 1,
    precision: Precision = "auto",
    device: torch.device | None = None,
    quantize: Quantization | Literal["none"] | None = None,
    base_llm: str | None = None,
) -> SplitReports:
    """Read a manifest and load a model onto this process's device.

    Args:
        model: ``mini``, a folder or a hub id.
        manifest: of the studies.
        folder: for the reports.
        split: whose studies are judged; ``all`` for a manifest without splits.
        section: of the reports to compare with; None is the one that the model was trained to
            write, or findings where it does not say.
        headed: compare with 'Findings: ... Impression: ...', as ReXrank does.
        settings: of the decoding.
        batch_size: studies decoded together.
        precision: of the weights; see :func:`llava_rad.devices.pick_dtype`.
        device: where to compute; None is this process's own.
        quantize: of the LLM, as :func:`llava_rad.load` takes it.
        base_llm: another place of the model's base LLM.

    Raises:
        DataError: the manifest is wrong, or no study of the split has findings.
        WeightsError: the model is not found, incomplete or damaged.
        ModelError: the base LLM is another one.
    """
    studies = load_manifest(manifest, split=None if split == "all" else split)
    device = device or process_state().device
    dtype = pick_dtype(precision, device)
    loaded = load(model, dtype=dtype, device=device, quantize=quantize, base_llm=base_llm)
    shown_dtype = str(dtype).removeprefix("torch.")
    trained = _target_settings(loaded)
    if section is None:
        section = trained.get("section", "findings")
    use_joint = bool(trained.get("use_joint_sections", False))
    how: dict[str, Any] = {"section": section, "use_joint_sections": use_joint, "headed": headed}
    selection = select_targets(studies, **how)
    training, boxes = {}, []
    if split in ("validation", "test"):
        of_training = [study for study in load_manifest(manifest) if study.split == "train"]
        boxes = [box for study in of_training for _, box in boxes_of_study(study)]
        with contextlib.suppress(DataError):  # none of them has the section
            chosen = select_targets(of_training, **how)
            training = {
                study.study_id: text
                for study, text in zip(chosen.studies, chosen.texts, strict=True)
            }
    return SplitReports(
        model=loaded,
        selection=selection,
        training=training,
        manifest=manifest.name,
        manifest_hash=hash_manifest(manifest),
        split=split,
        settings=settings or GenerationSettings(),
        precision=f"{shown_dtype}, {loaded.quantize}" if loaded.quantize else shown_dtype,
        folder=folder,
        batch_size=batch_size,
        section=section,
        trained=trained,
        training_boxes=tuple(boxes),
    )


def _target_settings(model: ReportModel) -> Mapping[str, Any]:
    """The settings that chose a model's training texts; empty where it does not say."""
    settings = model.config.training.get("settings")
    data = settings.get("data") if isinstance(settings, Mapping) else None
    return data if isinstance(data, Mapping) and data.get("section") in SECTIONS else {}


def _spoken(section: str) -> str:
    return section.replace("_", " ")


def _view(study: Study) -> str | None:
    """The data set's word for the first image's view, else ours, where it is known."""
    image = study.images[0]
    return image.view_position or (None if image.view == "unknown" else image.view)


def _boxes(study: Study, said: SaidBoxes) -> dict[str, Any]:
    """Boxes of a text and the true ones; nothing where there are neither."""
    found = {"boxes": said, "reference_boxes": boxes_of_study(study)}
    return (
        {name: boxes_to_json(boxes) for name, boxes in found.items()} if any(found.values()) else {}
    )


def _prediction(study: Study, findings: str, text: str, folder: Path) -> Mapping[str, Any]:
    row: dict[str, Any] = {
        "id": study.study_id,
        "prediction": text,
        "reference": findings,
        "patient_id": study.patient_id,
        "language": study.language,
        "image": os.path.relpath(study.images[0].path, folder),
        "sex": study.sex,
        "age": study.age,
        "view": _view(study),
        "source": study.source,
    }
    # Other data sets' label names say nothing about the observations that the scorers know.
    labels = {
        name: value
        for name, value in study.labels.items()
        if name in OBSERVATIONS and value in (1, 0, -1)
    }
    return {**row, "labels": labels} if labels else row
